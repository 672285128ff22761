// Streams over HTTP/1.1: a connection each, kept for the next.
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>

#include "load.h"

#define READ_BYTES (256 * 1024)
#define LINE_BYTES_MAX (64 * 1024)

enum place { HEAD, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILERS, SIZED, UNTIL_CLOSE };

struct connection {
    struct channel channel;  // First, so that a channel is its connection.
    struct stream *stream;   // NULL: idle.
    struct connection *next, *previous;  // Among the idle.
    enum place place;
    struct buffer line;
    uint64_t left;  // Of a chunk, or of a body of known size.
    bool is_chunked, is_sized, closes;
};

static struct buffer request_head;
static struct connection idle = {.next = &idle, .previous = &idle};

static void print_header(void *context, const char *name, const char *value) {
    (void)context;
    buffer_print(&request_head, "%s: %s\r\n", name, value);
}

void http1_open(void) {
    buffer_print(&request_head, "POST %s HTTP/1.1\r\nhost: %s\r\n", options.path, options.authority);
    request_headers(print_header, NULL);
    buffer_print(&request_head, "content-length: %zu\r\n\r\n", buffer_size(&request_message));
}

// ---- Connections

static void remove_idle(struct connection *connection) {
    connection->next->previous = connection->previous;
    connection->previous->next = connection->next;
}

static void drop(struct connection *connection) {
    if (!connection->stream) remove_idle(connection);
    channel_close(&connection->channel);
    buffer_free(&connection->line);
    free(connection);
}

// Take the stream off its connection and keep that for the next one, if it can serve another.
static struct stream *detach(struct connection *connection, bool is_reusable) {
    struct stream *stream = connection->stream;
    connection->stream = NULL;
    connection->next = idle.next;
    connection->previous = &idle;
    connection->next->previous = idle.next = connection;
    if (!is_reusable) drop(connection);
    return stream;
}

// ---- The response

static void begin_body(struct connection *connection) {
    if (connection->stream->http_status / 100 == 1) return;  // Not yet the response.
    connection->place = connection->is_chunked ? CHUNK_SIZE : connection->is_sized ? SIZED : UNTIL_CLOSE;
    if (!connection->is_chunked && !connection->is_sized) connection->closes = true;
}

static void take_header(struct connection *connection, char *line) {
    if (!strncmp(line, "HTTP/1.", 7)) {
        stream_header(connection->stream, ":status", line + 9);
        return;
    }
    char *value = strchr(line, ':');
    if (!value) return;
    *value++ = 0;
    while (*value == ' ') value++;
    for (char *letter = line; *letter; letter++) *letter = (char)tolower((unsigned char)*letter);
    if (!strcmp(line, "transfer-encoding")) {
        connection->is_chunked = true;
    } else if (!strcmp(line, "content-length")) {
        connection->is_sized = true;
        connection->left = strtoull(value, NULL, 10);
    } else if (!strcmp(line, "connection") && !strcasecmp(value, "close")) {
        connection->closes = true;
    } else {
        stream_header(connection->stream, line, value);
    }
}

// A whole line has come. True if the response ends with it.
static bool take_line(struct connection *connection, char *line) {
    switch (connection->place) {
        case HEAD:
            if (*line)
                take_header(connection, line);
            else
                begin_body(connection);
            return connection->place == SIZED && connection->left == 0;
        case CHUNK_SIZE:
            connection->left = strtoull(line, NULL, 16);
            connection->place = connection->left ? CHUNK : TRAILERS;
            return false;
        case CHUNK_END:
            connection->place = CHUNK_SIZE;
            return false;
        default:
            return !*line;
    }
}

// Take bytes up to the end of a line. True if the response ends there.
static bool take_text(struct connection *connection, const char **bytes, size_t *size) {
    const char *newline = memchr(*bytes, '\n', *size);
    size_t taken = newline ? (size_t)(newline - *bytes) + 1 : *size;
    buffer_append(&connection->line, *bytes, taken);
    *bytes += taken;
    *size -= taken;
    if (buffer_size(&connection->line) > LINE_BYTES_MAX) die("a line of HTTP that does not end");
    if (!newline) return false;
    *buffer_reserve(&connection->line, 1) = 0;
    char *line = buffer_first(&connection->line);
    line[strcspn(line, "\r\n")] = 0;
    bool ends = take_line(connection, line);
    buffer_take(&connection->line, buffer_size(&connection->line));
    return ends;
}

// Take bytes of the body. True if the response ends with them.
static bool take_body(struct connection *connection, const char **bytes, size_t *size, uint64_t arrived_ns, bool *cancel) {
    size_t taken = *size;
    if (connection->place != UNTIL_CLOSE && connection->left < taken) taken = connection->left;
    *cancel = stream_payload(connection->stream, *bytes, taken, arrived_ns);
    *bytes += taken;
    *size -= taken;
    if (connection->place == UNTIL_CLOSE) return false;
    connection->left -= taken;
    if (connection->left > 0) return false;
    if (connection->place == SIZED) return true;
    connection->place = CHUNK_END;
    return false;
}

static void take(struct connection *connection, const char *bytes, size_t size, uint64_t arrived_ns) {
    while (size > 0) {
        bool cancel = false, ends;
        if (connection->place == CHUNK || connection->place == SIZED || connection->place == UNTIL_CLOSE)
            ends = take_body(connection, &bytes, &size, arrived_ns, &cancel);
        else
            ends = take_text(connection, &bytes, &size);
        if (cancel) {
            stream_cancelled(detach(connection, false));
            return;
        }
        if (ends) {  // What comes after the end would be nobody's.
            stream_end(detach(connection, !connection->closes && size == 0));
            return;
        }
    }
}

// The connection has ended: with the stream, where that is how bodies end, or before it.
static void lose(struct connection *connection) {
    if (!connection->stream) {
        drop(connection);
        return;
    }
    const char *trouble = connection->channel.trouble;
    bool is_end = connection->place == UNTIL_CLOSE && !strcmp(trouble, "connection closed");
    struct stream *stream = detach(connection, false);
    if (is_end)
        stream_end(stream);
    else
        stream_fail(stream, trouble);
}

static void on_event(struct channel *channel, uint32_t events) {
    static char bytes[READ_BYTES];
    struct connection *connection = (struct connection *)channel;
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        ssize_t size = channel_receive(channel, bytes, sizeof bytes);
        if (size > 0 && connection->stream)
            take(connection, bytes, (size_t)size, now_ns());
        else if (size != 0)  // Also what comes while nothing is asked.
            lose(connection);
    } else if (!channel_flush(channel)) {
        lose(connection);
    }
}

// ---- The request

static struct connection *connect_anew(void) {
    struct connection *connection = allocate(sizeof *connection);
    connection->channel.on_event = on_event;
    if (channel_open(&connection->channel)) return connection;
    free(connection);
    return NULL;
}

void http1_send(struct stream *stream) {
    struct connection *connection = idle.next;
    if (connection != &idle) {
        remove_idle(connection);
    } else if (!(connection = connect_anew())) {
        stream_fail(stream, "connection refused");
        return;
    }
    connection->stream = stream;
    connection->place = HEAD;
    connection->is_chunked = connection->is_sized = connection->closes = false;
    request_number(stream->number);
    buffer_append(&connection->channel.out, buffer_first(&request_head), buffer_size(&request_head));
    if (buffer_size(&request_message))
        buffer_append(&connection->channel.out, buffer_first(&request_message), buffer_size(&request_message));
    uint64_t intended_ns = stream->intended_ns;
    bool is_sample = stream->is_sample;
    if (!channel_flush(&connection->channel)) lose(connection);
    note_lateness(intended_ns, is_sample);
}
