#include "common.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * NS_PER_S + (uint64_t)time.tv_nsec;
}

void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(2);
}

void *allocate(size_t bytes) {
    void *found = calloc(1, bytes);
    if (!found) die("out of memory");
    return found;
}

void *reallocate(void *old, size_t bytes) {
    void *found = realloc(old, bytes);
    if (!found) die("out of memory");
    return found;
}

char *buffer_reserve(struct buffer *buffer, size_t size) {
    if (buffer->end + size > buffer->capacity && buffer->start > 0) {
        memmove(buffer->bytes, buffer_first(buffer), buffer_size(buffer));
        buffer->end -= buffer->start;
        buffer->start = 0;
    }
    if (buffer->end + size > buffer->capacity) {
        buffer->capacity = (buffer->end + size) * 2;
        buffer->bytes = reallocate(buffer->bytes, buffer->capacity);
    }
    return buffer->bytes + buffer->end;
}

void buffer_append(struct buffer *buffer, const void *bytes, size_t size) {
    if (size == 0) return;
    memcpy(buffer_reserve(buffer, size), bytes, size);
    buffer->end += size;
}

void buffer_print(struct buffer *buffer, const char *format, ...) {
    for (size_t room = 512;;) {
        va_list arguments;
        va_start(arguments, format);
        size_t size = (size_t)vsnprintf(buffer_reserve(buffer, room), room, format, arguments);
        va_end(arguments);
        if (size < room) {
            buffer->end += size;
            return;
        }
        room = size + 1;
    }
}

void buffer_take(struct buffer *buffer, size_t size) {
    buffer->start += size;
    if (buffer->start == buffer->end) buffer->start = buffer->end = 0;
}

void buffer_free(struct buffer *buffer) {
    free(buffer->bytes);
    *buffer = (struct buffer){0};
}

bool buffer_send(struct buffer *buffer, int fd) {
    while (buffer_size(buffer) > 0) {
        ssize_t sent = send(fd, buffer_first(buffer), buffer_size(buffer), MSG_NOSIGNAL);
        if (sent < 0) return errno == EAGAIN || errno == EINTR;
        buffer_take(buffer, (size_t)sent);
    }
    return true;
}

void be_punctual(void) { prctl(PR_SET_TIMERSLACK, 1UL); }

void allow_many_files(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}
