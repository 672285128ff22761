// Streams over HTTP/2 without TLS (RFC 9113, prior knowledge), as far as a gRPC client needs it.
//
// Requests are spread over the connections in turn. One that finds every connection full waits, and its lateness tells
// so. The windows that we grant are so large that no sender ever waits for them: what is measured is the sender.
#include <string.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "frames.h"
#include "hpack.h"
#include "load.h"

#define READ_BYTES (256 * 1024)
#define HEADER_BLOCK_BYTES_MAX (1024 * 1024)
#define BUCKETS 1024
#define HANDSHAKE_S 5
#define REFUSALS_MAX 10
#define RETRY_NS (1000 * NS_PER_US)

struct connection {
    struct channel channel;  // First, so that a channel is its connection.
    struct buffer in, block;
    struct hpack hpack;
    struct stream *buckets[BUCKETS];  // The open streams, by id.
    struct stream *decoding;          // Whose header block is being read; NULL: nobody's any more.
    uint32_t block_stream, next_id, open_count, open_max, frame_max, unacknowledged;
    uint8_t block_flags;
    int64_t window, stream_window;  // What we may send.
    bool is_ready, is_leaving;      // It has said its SETTINGS; it takes no more streams.
};

static struct connection *connections;
static int turn;
static struct buffer header_block;
static struct stream *waiting, **waiting_end = &waiting;  // For a connection that has room.
static struct timers refused;                             // Streams to ask again, each by its `retry`.

static void serve_waiting(void);

// ---- The open streams of a connection

static struct stream **bucket(struct connection *connection, uint32_t id) {
    return &connection->buckets[(id >> 1) % BUCKETS];
}

static struct stream *find(struct connection *connection, uint32_t id) {
    struct stream *stream = *bucket(connection, id);
    while (stream && stream->id != id) stream = stream->next;
    return stream;
}

// Take a stream off its connection; it is the caller's to end.
static void detach(struct connection *connection, struct stream *stream) {
    struct stream **place = bucket(connection, stream->id);
    while (*place != stream) place = &(*place)->next;
    *place = stream->next;
    connection->open_count--;
    if (connection->decoding == stream) connection->decoding = NULL;
}

static void end(struct connection *connection, struct stream *stream) {
    detach(connection, stream);
    // An answer may come before all is asked; then nobody wants the rest.
    if (stream->sent < buffer_size(&request_message)) frame_u32(&connection->channel.out, RST_STREAM, stream->id, CANCEL);
    stream_end(stream);
    serve_waiting();
}

static void fail_all(struct connection *connection, const char *reason) {
    for (int index = 0; index < BUCKETS; index++) {
        while (connection->buckets[index]) {
            struct stream *stream = connection->buckets[index];
            detach(connection, stream);
            stream_fail(stream, reason);
        }
    }
}

static void drop(struct connection *connection, const char *reason) {
    channel_close(&connection->channel);
    fail_all(connection, reason);
    buffer_free(&connection->in);
    buffer_free(&connection->block);
    hpack_close(&connection->hpack);
    connection->is_ready = false;
}

// ---- Streams that wait for a connection with room

static void wait_at_end(struct stream *stream) {
    stream->next = NULL;
    *waiting_end = stream;
    waiting_end = &stream->next;
}

static struct stream *first_waiting(void) {
    struct stream *stream = waiting;
    waiting = stream->next;
    if (!waiting) waiting_end = &waiting;
    return stream;
}

// Take a refused stream off its connection, to be asked again. False if it was refused too often, or has an answer.
static bool take_back(struct connection *connection, struct stream *stream) {
    if (stream->http_status || ++stream->refused_count > REFUSALS_MAX) return false;
    detach(connection, stream);
    stream->sent = 0;
    stream->is_blocked = false;
    return true;
}

// A server that refuses a stream has done nothing for it, so it is asked again, as every gRPC client does. grpc's own
// counts a stream as open for a moment after its end, which is long on a busy machine: each refusal doubles the pause.
static bool ask_later(struct connection *connection, struct stream *stream) {
    if (!take_back(connection, stream)) return false;
    timers_add(&refused, &stream->retry, now_ns() + ((uint64_t)RETRY_NS << (stream->refused_count - 1)));
    return true;
}

// ---- Requests

// Send as much of the message as the windows allow.
static void send_message(struct connection *connection, struct stream *stream) {
    size_t size = buffer_size(&request_message);
    request_number(stream->number);
    while (stream->sent < size && stream->window > 0 && connection->window > 0) {
        size_t part = size - stream->sent;
        if (part > connection->frame_max) part = connection->frame_max;
        if (part > (size_t)stream->window) part = (size_t)stream->window;
        if (part > (size_t)connection->window) part = (size_t)connection->window;
        frame_head(&connection->channel.out, part, DATA, stream->sent + part == size ? END_STREAM : 0, stream->id);
        buffer_append(&connection->channel.out, buffer_first(&request_message) + stream->sent, part);
        stream->sent += part;
        stream->window -= (int64_t)part;
        connection->window -= (int64_t)part;
    }
    stream->is_blocked = stream->sent < size;
}

static void send_blocked(struct connection *connection) {
    for (int index = 0; index < BUCKETS && connection->window > 0; index++)
        for (struct stream *stream = connection->buckets[index]; stream; stream = stream->next)
            if (stream->is_blocked) send_message(connection, stream);
}

static void open_stream(struct connection *connection, struct stream *stream) {
    stream->id = connection->next_id;
    connection->next_id += 2;
    connection->open_count++;
    stream->window = connection->stream_window;
    stream->next = *bucket(connection, stream->id);
    *bucket(connection, stream->id) = stream;
    frame_head(&connection->channel.out, buffer_size(&header_block), HEADERS, END_HEADERS, stream->id);
    buffer_append(&connection->channel.out, buffer_first(&header_block), buffer_size(&header_block));
    send_message(connection, stream);
    uint64_t intended_ns = stream->intended_ns;
    bool is_sample = stream->is_sample && stream->refused_count == 0;
    // A broken connection shows at the next event too, and ends its streams there: this may be in the midst of one.
    (void)channel_flush(&connection->channel);
    note_lateness(intended_ns, is_sample);
}

static void dial(struct connection *connection);

// The next connection in turn that has room, NULL if there is none now.
static struct connection *with_room(void) {
    for (int tried = 0; tried < options.connections; tried++) {
        struct connection *connection = &connections[turn++ % options.connections];
        if (connection->is_ready && !connection->is_leaving && connection->open_count < connection->open_max)
            return connection;
    }
    return NULL;
}

static bool any_connection(void) {
    for (int index = 0; index < options.connections; index++)
        if (connections[index].channel.fd >= 0) return true;
    return false;
}

// Dial what was lost. True if there is any connection then.
static bool revive(void) {
    for (int index = 0; index < options.connections; index++)
        if (connections[index].channel.fd < 0) dial(&connections[index]);
    return any_connection();
}

void http2_send(struct stream *stream) {
    if (!revive()) {
        stream_fail(stream, "connection refused");
        return;
    }
    struct connection *connection = waiting ? NULL : with_room();
    if (connection) {
        open_stream(connection, stream);
    } else {
        wait_at_end(stream);
    }
}

uint64_t http2_retry(uint64_t now) {
    struct timer *retry;
    while ((retry = timers_first(&refused)) && retry->due_ns <= now) {
        timers_remove(&refused, retry);
        http2_send((struct stream *)retry);
    }
    return retry ? retry->due_ns : UINT64_MAX;
}

static void serve_waiting(void) {
    struct connection *connection;
    while (waiting && (connection = with_room())) open_stream(connection, first_waiting());
}

// ---- Frames that we get. Each handler returns why the connection has to end, or NULL.

static void acknowledge(struct connection *connection, uint32_t id, uint32_t size, uint32_t *unacknowledged, uint32_t window) {
    *unacknowledged += size;
    if (*unacknowledged < window / 2) return;
    frame_u32(&connection->channel.out, WINDOW_UPDATE, id, *unacknowledged);
    *unacknowledged = 0;
}

static const char *take_data(struct connection *connection, uint32_t id, uint8_t flags, const uint8_t *bytes, size_t size,
                             uint64_t arrived_ns) {
    acknowledge(connection, 0, (uint32_t)size, &connection->unacknowledged, CONNECTION_WINDOW);
    struct stream *stream = find(connection, id);
    if (!stream) return NULL;  // Cancelled meanwhile.
    if (!(flags & END_STREAM)) acknowledge(connection, id, (uint32_t)size, &stream->unacknowledged, STREAM_WINDOW);
    if (!unpad(&bytes, &size, flags)) return "bad padding";
    if (size > 0 && stream_payload(stream, (const char *)bytes, size, arrived_ns)) {
        frame_u32(&connection->channel.out, RST_STREAM, id, CANCEL);
        detach(connection, stream);
        stream_cancelled(stream);
        serve_waiting();
    } else if (flags & END_STREAM) {
        end(connection, stream);
    }
    return NULL;
}

static void tell_header(void *context, const char *name, size_t name_size, const char *value, size_t value_size) {
    struct connection *connection = context;
    (void)name_size;
    (void)value_size;
    if (connection->decoding) stream_header(connection->decoding, name, value);
}

// Add to a header block, and read it when it is whole. Nobody's blocks are read too: they may change the table.
static const char *take_block(struct connection *connection, uint8_t flags, const uint8_t *bytes, size_t size) {
    buffer_append(&connection->block, bytes, size);
    if (buffer_size(&connection->block) > HEADER_BLOCK_BYTES_MAX) return "endless headers";
    if (!(flags & END_HEADERS)) return NULL;
    connection->decoding = find(connection, connection->block_stream);
    bool is_good = hpack_read(&connection->hpack, (const uint8_t *)buffer_first(&connection->block),
                              buffer_size(&connection->block), tell_header, connection);
    struct stream *stream = connection->decoding;
    connection->decoding = NULL;
    connection->block_stream = 0;
    buffer_take(&connection->block, buffer_size(&connection->block));
    if (!is_good) return "bad header block";
    if (stream && connection->block_flags & END_STREAM) end(connection, stream);
    return NULL;
}

static const char *take_headers(struct connection *connection, uint32_t id, uint8_t flags, const uint8_t *bytes, size_t size) {
    if (!unpad(&bytes, &size, flags)) return "bad padding";
    if (flags & HAS_PRIORITY) {
        if (size < 5) return "bad frame size";
        bytes += 5;
        size -= 5;
    }
    connection->block_stream = id;
    connection->block_flags = flags;
    return take_block(connection, flags, bytes, size);
}

static void set_stream_window(struct connection *connection, uint32_t window) {
    int64_t more = (int64_t)window - connection->stream_window;
    connection->stream_window = window;
    for (int index = 0; index < BUCKETS; index++)
        for (struct stream *stream = connection->buckets[index]; stream; stream = stream->next) stream->window += more;
    if (more > 0) send_blocked(connection);
}

static const char *take_settings(struct connection *connection, uint8_t flags, const uint8_t *bytes, size_t size) {
    if (flags & ACK) return NULL;
    if (size % 6) return "bad frame size";
    for (; size > 0; bytes += 6, size -= 6) {
        uint32_t value = u32(bytes + 2);
        switch (bytes[0] << 8 | bytes[1]) {
            case MAX_CONCURRENT_STREAMS: connection->open_max = value; break;
            case INITIAL_WINDOW_SIZE: set_stream_window(connection, value); break;
            case MAX_FRAME_SIZE: connection->frame_max = value; break;
            default: break;
        }
    }
    frame_head(&connection->channel.out, 0, SETTINGS, ACK, 0);
    connection->is_ready = true;
    serve_waiting();
    return NULL;
}

static const char *take_reset(struct connection *connection, uint32_t id, const uint8_t *bytes, size_t size) {
    if (size != 4) return "bad frame size";
    struct stream *stream = find(connection, id);
    if (!stream) return NULL;
    if (u32(bytes) != REFUSED_STREAM || !ask_later(connection, stream)) {
        detach(connection, stream);
        stream_fail(stream, reset_reason(u32(bytes)));
    }
    serve_waiting();
    return NULL;
}

static const char *take_goaway(struct connection *connection, const uint8_t *bytes, size_t size) {
    if (size < 8) return "bad frame size";
    connection->is_leaving = true;
    uint32_t last_id = u32(bytes) & 0x7fffffff;
    for (int index = 0; index < BUCKETS; index++) {
        for (struct stream *stream = connection->buckets[index], *next; stream; stream = next) {
            next = stream->next;
            if (stream->id <= last_id) continue;
            if (take_back(connection, stream)) {
                wait_at_end(stream);
                continue;
            }
            detach(connection, stream);
            stream_fail(stream, "refused by GOAWAY");
        }
    }
    serve_waiting();
    return NULL;
}

static const char *take_window(struct connection *connection, uint32_t id, const uint8_t *bytes, size_t size) {
    if (size != 4) return "bad frame size";
    struct stream *stream = id ? find(connection, id) : NULL;
    if (id == 0) connection->window += u32(bytes) & 0x7fffffff;
    if (stream) stream->window += u32(bytes) & 0x7fffffff;
    if (id == 0)
        send_blocked(connection);
    else if (stream && stream->is_blocked)
        send_message(connection, stream);
    return NULL;
}

static const char *take_frame(struct connection *connection, const uint8_t *head, size_t size, uint64_t arrived_ns) {
    const uint8_t *bytes = head + FRAME_HEAD_BYTES;
    uint8_t type = head[3], flags = head[4];
    uint32_t id = u32(head + 5) & 0x7fffffff;
    if (connection->block_stream && type != CONTINUATION) return "a frame within a header block";
    switch (type) {
        case DATA: return take_data(connection, id, flags, bytes, size, arrived_ns);
        case HEADERS: return take_headers(connection, id, flags, bytes, size);
        case CONTINUATION:
            return connection->block_stream == id && id ? take_block(connection, flags, bytes, size) : "stray CONTINUATION";
        case RST_STREAM: return take_reset(connection, id, bytes, size);
        case SETTINGS: return take_settings(connection, flags, bytes, size);
        case PING:
            if (size != 8) return "bad frame size";
            if (flags & ACK) return NULL;
            frame_head(&connection->channel.out, size, PING, ACK, 0);
            buffer_append(&connection->channel.out, bytes, size);
            return NULL;
        case GOAWAY: return take_goaway(connection, bytes, size);
        case WINDOW_UPDATE: return take_window(connection, id, bytes, size);
        case PUSH_PROMISE: return "a push that was forbidden";
        default: return NULL;  // The protocol says to ignore what one does not know.
    }
}

// ---- The connection

static const char *take_all(struct connection *connection, uint64_t arrived_ns) {
    while (buffer_size(&connection->in) >= FRAME_HEAD_BYTES) {
        const uint8_t *head = (const uint8_t *)buffer_first(&connection->in);
        size_t size = (size_t)head[0] << 16 | (size_t)head[1] << 8 | head[2];
        if (size > FRAME_BYTES_MAX) return "frame too large";
        if (buffer_size(&connection->in) < FRAME_HEAD_BYTES + size) return NULL;
        const char *trouble = take_frame(connection, head, size, arrived_ns);
        if (trouble) return trouble;
        buffer_take(&connection->in, FRAME_HEAD_BYTES + size);
    }
    return NULL;
}

static void on_event(struct channel *channel, uint32_t events) {
    struct connection *connection = (struct connection *)channel;
    const char *trouble = NULL;
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        ssize_t size = channel_receive(channel, buffer_reserve(&connection->in, READ_BYTES), READ_BYTES);
        if (size > 0) {
            connection->in.end += (size_t)size;
            trouble = take_all(connection, now_ns());
        } else if (size < 0) {
            trouble = channel->trouble;
        }
    }
    if (!trouble && !channel_flush(channel)) trouble = channel->trouble;
    if (!trouble && connection->is_leaving && connection->open_count == 0) trouble = "connection closed";
    if (!trouble) return;
    // One that never was ready would not be the next time; the others' streams can go elsewhere.
    bool was_ready = connection->is_ready;
    drop(connection, trouble);
    if (waiting && !(was_ready && revive()) && !any_connection())
        while (waiting) stream_fail(first_waiting(), trouble);
}

static void dial(struct connection *connection) {
    *connection = (struct connection){
        .channel = {.on_event = on_event, .fd = -1},
        .next_id = 1,
        .open_max = UINT32_MAX,
        .frame_max = FRAME_BYTES_MAX,
        .window = DEFAULT_WINDOW,
        .stream_window = DEFAULT_WINDOW,
    };
    if (!channel_open(&connection->channel)) return;
    hpack_open(&connection->hpack);
    frame_greeting(&connection->channel.out);
    (void)channel_flush(&connection->channel);  // What is wrong then shows at its first event.
}

static void write_header(void *context, const char *name, const char *value) {
    (void)context;
    hpack_write(&header_block, name, value);
}

static bool are_ready(void) {
    for (int index = 0; index < options.connections; index++)
        if (connections[index].channel.fd >= 0 && !connections[index].is_ready) return false;
    return true;
}

void http2_open(void) {
    write_header(NULL, ":method", "POST");
    write_header(NULL, ":scheme", "http");
    write_header(NULL, ":path", options.path);
    write_header(NULL, ":authority", options.authority);
    request_headers(write_header, NULL);
    if (buffer_size(&header_block) > FRAME_BYTES_MAX) die("the headers are too long for one frame");
    connections = allocate((size_t)options.connections * sizeof *connections);
    for (int index = 0; index < options.connections; index++) dial(&connections[index]);
    uint64_t until_ns = now_ns() + HANDSHAKE_S * NS_PER_S;
    while (!are_ready() && now_ns() < until_ns) channels_wait(until_ns);
    if (!are_ready()) die("no HTTP/2 SETTINGS within %d s: is 127.0.0.1:%d a gRPC server?", HANDSHAKE_S, options.port);
}
