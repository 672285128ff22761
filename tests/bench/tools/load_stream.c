#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "load.h"

static const char *const GRPC_CODES[] = {
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
};
#define NO_STATUS -1
#define TRAILERS_FLAG 0x80
#define TRAILERS_BYTES_MAX (64 * 1024)

// ---- Beginning

struct stream *stream_new(struct timer *slot, uint64_t number, uint64_t cancel_after) {
    struct stream *stream = allocate(sizeof *stream);
    stream->slot = slot;
    stream->number = number;
    stream->intended_ns = slot->due_ns;
    stream->cancel_after = cancel_after;
    stream->is_sample = stream->intended_ns >= totals.sampled_from_ns;
    stream->grpc_status = NO_STATUS;
    totals.issued++;
    totals.active++;
    return stream;
}

void note_lateness(uint64_t intended_ns, bool is_sample) {
    if (is_sample) histogram_add(&totals.lateness, (int64_t)(now_ns() - intended_ns));
}

void stream_header(struct stream *stream, const char *name, const char *value) {
    if (!strcmp(name, ":status")) {
        stream->http_status = atoi(value);
    } else if (!strcmp(name, "grpc-status")) {
        stream->grpc_status = atoi(value);
    } else if (!strcmp(name, "grpc-message")) {
        snprintf(stream->detail, sizeof stream->detail, "%s", value);
    }
}

// ---- Tokens

static void take_token(struct stream *stream, uint64_t sent_ns, uint64_t arrived_ns) {
    stream->token_count++;
    totals.tokens++;
    if (arrived_ns >= totals.sampled_from_ns && arrived_ns < totals.issue_until_ns) totals.tokens_in_window++;
    if (stream->is_sample) {
        if (stream->first_ns == 0)
            histogram_add(&totals.first_token, (int64_t)(arrived_ns - stream->intended_ns));
        else
            histogram_add(&totals.interval, (int64_t)(arrived_ns - stream->last_ns));
        histogram_add(&totals.token_way, (int64_t)(arrived_ns - sent_ns));
    }
    if (stream->first_ns == 0) stream->first_ns = arrived_ns;
    stream->last_ns = arrived_ns;
}

// The number that the digits of a clock stand for; 0 if they are none.
static uint64_t clock_of(const char *digits) {
    uint64_t time = 0;
    for (int index = 0; index < CLOCK_DIGITS; index++) {
        unsigned digit = (unsigned)digits[index] - '0';
        if (digit > 9) return 0;
        time = time * 10 + digit;
    }
    return time;
}

// Go on with a token whose beginning has come before. Returns how many bytes belong to it.
static size_t go_on(struct stream *stream, const char *bytes, size_t size, uint64_t arrived_ns) {
    size_t at = 0;
    while (at < size && stream->carried < 1 + CLOCK_DIGITS && isdigit((unsigned char)bytes[at]))
        stream->carry[stream->carried++] = bytes[at++];
    if (stream->carried == 1 + CLOCK_DIGITS) take_token(stream, clock_of(stream->carry + 1), arrived_ns);
    if (at < size || stream->carried == 1 + CLOCK_DIGITS) stream->carried = 0;
    return at;
}

static void find_tokens(struct stream *stream, const char *bytes, size_t size, uint64_t arrived_ns) {
    size_t at = stream->carried ? go_on(stream, bytes, size, arrived_ns) : 0;
    while (at < size) {
        const char *mark = memchr(bytes + at, TOKEN_MARK, size - at);
        if (!mark) return;
        at = (size_t)(mark - bytes) + 1;
        if (size - at < CLOCK_DIGITS) {
            stream->carry[0] = TOKEN_MARK;
            stream->carried = 1;
            at += go_on(stream, bytes + at, size - at, arrived_ns);
            continue;
        }
        uint64_t sent_ns = clock_of(bytes + at);
        if (sent_ns == 0) continue;  // A mark in other text.
        take_token(stream, sent_ns, arrived_ns);
        at += CLOCK_DIGITS;
    }
}

// ---- Messages

static void read_trailers(struct stream *stream) {
    buffer_append(&stream->trailers, "\n", 2);  // With a zero byte at the end.
    for (char *line = buffer_first(&stream->trailers), *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        line[strcspn(line, "\r")] = 0;
        char *value = strchr(line, ':');
        if (!value) continue;
        *value++ = 0;
        while (*value == ' ') value++;
        for (char *letter = line; *letter; letter++) *letter = (char)tolower((unsigned char)*letter);
        stream_header(stream, line, value);
    }
    buffer_free(&stream->trailers);
}

static void end_frame(struct stream *stream) {
    stream->frame_head_size = 0;
    if (stream->frame_head[0] == TRAILERS_FLAG)
        read_trailers(stream);
    else
        totals.messages++;
}

static void begin_frame(struct stream *stream) {
    const uint8_t *head = stream->frame_head;
    stream->frame_left = (uint32_t)head[1] << 24 | (uint32_t)head[2] << 16 | (uint32_t)head[3] << 8 | head[4];
    bool is_trailers = options.protocol == GRPC_WEB && head[0] == TRAILERS_FLAG;
    // We announce no compression, so a compressed message is an error of the other side.
    if ((head[0] != 0 && !is_trailers) || (is_trailers && stream->frame_left > TRAILERS_BYTES_MAX))
        stream->is_broken = true;
}

static void take_frames(struct stream *stream, const char *bytes, size_t size, uint64_t arrived_ns) {
    while (size > 0 && !stream->is_broken) {
        if (stream->frame_head_size < 5) {
            stream->frame_head[stream->frame_head_size++] = (uint8_t)*bytes++;
            size--;
            if (stream->frame_head_size < 5) continue;
            begin_frame(stream);
        } else {
            size_t taken = stream->frame_left < size ? stream->frame_left : size;
            if (stream->frame_head[0] == TRAILERS_FLAG)
                buffer_append(&stream->trailers, bytes, taken);
            else
                find_tokens(stream, bytes, taken, arrived_ns);
            stream->frame_left -= (uint32_t)taken;
            bytes += taken;
            size -= taken;
        }
        if (stream->frame_left == 0) end_frame(stream);
    }
}

static bool begins_with(const struct stream *stream, const char *text) {
    size_t size = strlen(text);
    return (size_t)stream->line_size >= size && memcmp(stream->line, text, size) == 0;
}

static void end_line(struct stream *stream) {
    bool is_sse = options.protocol == SSE;
    if (is_sse ? begins_with(stream, "data:") : stream->line_size > 0) totals.messages++;
    if (is_sse && begins_with(stream, "data: [DONE]")) stream->saw_done = true;
    if (begins_with(stream, is_sse ? "data: {\"error\"" : "{\"error\"")) stream->saw_error = true;
    stream->line_size = 0;
}

static void take_lines(struct stream *stream, const char *bytes, size_t size) {
    const char *end = bytes + size;
    while (bytes < end) {
        const char *next = memchr(bytes, '\n', (size_t)(end - bytes));
        size_t available = (size_t)((next ? next : end) - bytes), room = sizeof stream->line - (size_t)stream->line_size;
        size_t kept = available < room ? available : room;
        memcpy(stream->line + stream->line_size, bytes, kept);
        stream->line_size += (int)kept;
        if (!next) return;
        end_line(stream);
        bytes = next + 1;
    }
}

bool stream_payload(struct stream *stream, const char *bytes, size_t size, uint64_t arrived_ns) {
    totals.bytes += size;
    if (stream->http_status != 200) {  // Words about a failure.
        if (!stream->detail[0]) snprintf(stream->detail, sizeof stream->detail, "%.*s", (int)(size < 159 ? size : 159), bytes);
        return false;
    }
    if (options.protocol == GRPC || options.protocol == GRPC_WEB) {
        take_frames(stream, bytes, size, arrived_ns);
    } else {
        take_lines(stream, bytes, size);
        find_tokens(stream, bytes, size, arrived_ns);
    }
    return stream->cancel_after > 0 && stream->token_count >= stream->cancel_after;
}

// ---- Ending

static void release(struct stream *stream, bool failed) {
    totals.active--;
    slot_done(stream->slot, failed);
    buffer_free(&stream->trailers);
    free(stream);
}

static void count_failure(const char *reason) {
    int index = 0;
    while (index < REASONS_MAX - 1 && totals.failures[index].count && strcmp(totals.failures[index].reason, reason) != 0) index++;
    if (index == REASONS_MAX - 1) reason = "other reasons";
    snprintf(totals.failures[index].reason, sizeof totals.failures[index].reason, "%s", reason);
    totals.failures[index].count++;
}

void stream_fail(struct stream *stream, const char *reason) {
    totals.failed++;
    count_failure(reason);
    if (!totals.first_failure[0])
        snprintf(totals.first_failure, sizeof totals.first_failure, "%s%s%s", reason, stream->detail[0] ? ": " : "", stream->detail);
    release(stream, true);
}

void stream_cancelled(struct stream *stream) {
    totals.cancelled++;
    release(stream, false);
}

// Why a stream that has ended in good order was none; NULL if it was.
static const char *trouble(const struct stream *stream, char *text, size_t size) {
    bool is_grpc = options.protocol == GRPC || options.protocol == GRPC_WEB;
    if (is_grpc && stream->grpc_status > 0) {
        if (stream->grpc_status < 17) return GRPC_CODES[stream->grpc_status];
        snprintf(text, size, "grpc-status %d", stream->grpc_status);
        return text;
    }
    if (stream->http_status != 200) {
        snprintf(text, size, "HTTP %d", stream->http_status);
        return text;
    }
    if (is_grpc && stream->grpc_status == NO_STATUS) return "no grpc-status";
    if (stream->is_broken || stream->frame_head_size > 0) return "broken message";
    if (stream->saw_error) return "error in the stream";
    if (options.protocol == SSE && !stream->saw_done) return "no [DONE]";
    if (options.expect_tokens && stream->token_count != options.expect_tokens) return "short";
    return NULL;
}

void stream_end(struct stream *stream) {
    char text[48];
    const char *reason = trouble(stream, text, sizeof text);
    if (reason) {
        stream_fail(stream, reason);
        return;
    }
    if (stream->is_sample) histogram_add(&totals.total, (int64_t)(now_ns() - stream->intended_ns));
    totals.completed++;
    release(stream, false);
}
