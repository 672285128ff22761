// The load generator's parts: options, streams, channels, and the two ways to carry a stream.
#ifndef LOAD_H
#define LOAD_H

#include <sys/types.h>

#include "common.h"
#include "histogram.h"
#include "timers.h"

enum protocol { GRPC, GRPC_WEB, NDJSON, SSE, PROTOCOLS };
extern const char *const PROTOCOL_NAMES[PROTOCOLS];

#define HEADERS_MAX 16

// ---- What is asked for (load_options.c)

struct options {
    enum protocol protocol;
    int port, connections, concurrency, header_count;
    uint64_t seed, count, expect_tokens, number_from;
    double rate, stagger_s, seconds, drain_s, warm_up_s, timeout_s, cancel_share;
    bool dry_run;
    const char *path, *authority, *bearer, *headers[HEADERS_MAX];
    struct buffer body;
};
extern struct options options;
void options_read(int count, char **arguments);

// ---- One stream: what it should be, and what has come of it (load_stream.c)

struct stream {
    struct timer retry;  // When a refused one is asked again. First, so that such a timer is its stream.
    struct timer *slot;  // Whose turn it is when the stream has ended.
    uint64_t number, intended_ns, first_ns, last_ns, token_count;
    uint64_t cancel_after;  // So many tokens; 0: never.
    bool is_sample;         // Started after the warm-up.

    char carry[1 + CLOCK_DIGITS];  // A token's beginning, while the rest is not there.
    int carried;
    uint8_t frame_head[5];  // gRPC's: flags and size.
    int frame_head_size;
    uint32_t frame_left;
    struct buffer trailers;  // gRPC-Web's, which are a frame.
    char line[16];           // The beginning of a line of NDJSON or SSE.
    int line_size;

    int http_status, grpc_status;
    bool saw_done, saw_error, is_broken;
    char detail[160];  // The other side's words about a failure.

    // HTTP/2's.
    uint32_t id, unacknowledged;
    int64_t window;
    size_t sent;
    int refused_count;
    bool is_blocked;
    struct stream *next;
};

struct stream *stream_new(struct timer *slot, uint64_t number, uint64_t cancel_after);
void stream_header(struct stream *stream, const char *name, const char *value);
// Take what has come of the body. True if the stream is to be cancelled now.
bool stream_payload(struct stream *stream, const char *bytes, size_t size, uint64_t arrived_ns);
// Each of these three ends the stream and frees it.
void stream_end(struct stream *stream);
void stream_fail(struct stream *stream, const char *reason);
void stream_cancelled(struct stream *stream);
// Call when the request has been sent.
void note_lateness(uint64_t intended_ns, bool is_sample);

// ---- The run (load.c)

#define REASONS_MAX 48

struct totals {
    uint64_t issued, completed, failed, cancelled, active, messages, tokens, tokens_in_window, bytes;
    uint64_t start_ns, sampled_from_ns, issue_until_ns, end_ns;
    struct {
        char reason[48];
        uint64_t count;
    } failures[REASONS_MAX];
    char first_failure[256];
    struct histogram lateness, first_token, token_way, interval, total;
};
extern struct totals totals;

// A stream has ended; whoever's turn it was may start the next.
void slot_done(struct timer *slot, bool failed);
void report(void);

// ---- The request, the same for all streams but for its number (load_request.c)

// The message as it is sent: with gRPC's prefix where there is one.
extern struct buffer request_message;
void request_prepare(void);
// Write the request's number over the mark in `request_message`, if it has one.
void request_number(uint64_t number);
// Call with each header of the request, lower case; `:authority` and the like are not among them.
void request_headers(void (*tell)(void *context, const char *name, const char *value), void *context);

// ---- Sockets (load_channel.c)

struct channel {
    void (*on_event)(struct channel *channel, uint32_t events);
    int fd;  // -1: closed.
    bool writes;
    const char *trouble;  // Why it is broken, once it is.
    struct buffer out;
};

void channels_open(void);
// Connect. False if that is refused.
bool channel_open(struct channel *channel);
void channel_close(struct channel *channel);
// Send what there is to send. False if the connection is broken.
bool channel_flush(struct channel *channel);
// Receive what is there: so many bytes, 0 if there are none now, -1 if the connection has ended.
ssize_t channel_receive(struct channel *channel, char *into, size_t room);
// Handle what happens until then.
void channels_wait(uint64_t until_ns);

// ---- HTTP/1.1 and HTTP/2 (load_http1.c, load_http2.c)

void http1_open(void);
void http1_send(struct stream *stream);
// Connect and shake hands, so that no stream has to wait for that.
void http2_open(void);
void http2_send(struct stream *stream);
// Ask again the refused streams whose time has come, and return when the next one's does: UINT64_MAX if there is none.
uint64_t http2_retry(uint64_t now);

#endif
