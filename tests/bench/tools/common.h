// What both tools need: a clock, buffers, sockets, and an end with a reason.
#ifndef COMMON_H
#define COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NS_PER_S UINT64_C(1000000000)
#define NS_PER_US UINT64_C(1000)

// A token is '~' and the sender's clock in so many digits, enough for three years of uptime.
#define TOKEN_MARK '~'
#define CLOCK_DIGITS 17

// CLOCK_MONOTONIC, which all processes of a machine share.
uint64_t now_ns(void);

// Print the reason and exit with status 2.
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Memory, or the end: a tool that measures has no use for half a run.
void *allocate(size_t bytes);
void *reallocate(void *old, size_t bytes);

// Bytes that are appended at the end and taken from the start.
struct buffer {
    char *bytes;
    size_t start, end, capacity;
};

static inline size_t buffer_size(const struct buffer *buffer) { return buffer->end - buffer->start; }
static inline char *buffer_first(const struct buffer *buffer) { return buffer->bytes + buffer->start; }
// Make room for `size` more bytes and return where they go; `end` is the caller's to move.
char *buffer_reserve(struct buffer *buffer, size_t size);
void buffer_append(struct buffer *buffer, const void *bytes, size_t size);
void buffer_print(struct buffer *buffer, const char *format, ...) __attribute__((format(printf, 2, 3)));
void buffer_take(struct buffer *buffer, size_t size);
void buffer_free(struct buffer *buffer);

// Send as much as the socket takes. False if the connection is broken.
bool buffer_send(struct buffer *buffer, int fd);

// Wake up when asked, not up to 50 microseconds later, which is what Linux grants a thread by default.
void be_punctual(void);

// Allow as many open files as the machine does.
void allow_many_files(void);

#endif
