#include "stub_request.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define HEAD_BYTES_MAX (64 * 1024)
#define BODY_BYTES_MAX (256 * 1024 * 1024)

// ---- HTTP

// The value of a header, up to its line's end; size 0 if there is none.
static struct span header(const char *head, size_t size, const char *name) {
    size_t name_size = strlen(name);
    const char *end = head + size, *line = memchr(head, '\n', size);
    while (line && (size_t)(end - ++line) > name_size) {
        const char *next = memchr(line, '\n', (size_t)(end - line));
        if (line[name_size] == ':' && strncasecmp(line, name, name_size) == 0) {
            const char *value = line + name_size + 1;
            while (*value == ' ') value++;
            return (struct span){value, (size_t)((next ? next : end) - value)};
        }
        line = next;
    }
    return (struct span){NULL, 0};
}

// Walk over a chunked body, copying its content to `into` unless that is NULL. `*size` becomes the content's.
// Returns how many bytes the body takes, 0 if it is not all there, SIZE_MAX if it makes no sense.
static size_t chunks(const char *body, size_t available, char *into, size_t *size) {
    size_t at = 0;
    *size = 0;
    for (;;) {
        const char *end = memmem(body + at, available - at, "\r\n", 2);
        if (!end) return 0;
        if (!isxdigit((unsigned char)body[at])) return SIZE_MAX;
        size_t chunk = strtoul(body + at, NULL, 16);
        if (chunk > BODY_BYTES_MAX) return SIZE_MAX;
        at = (size_t)(end - body) + 2;
        if (available - at < chunk + 2) return 0;
        if (chunk == 0) return at + 2;
        if (into) memmove(into + *size, body + at, chunk);
        *size += chunk;
        at += chunk + 2;
    }
}

enum parsed request_parse(struct buffer *in, struct request *request) {
    char *head = buffer_first(in);
    size_t available = buffer_size(in);
    char *head_end = available ? memmem(head, available, "\r\n\r\n", 4) : NULL;
    if (!head_end) return available > HEAD_BYTES_MAX ? MALFORMED : INCOMPLETE;
    size_t head_size = (size_t)(head_end - head) + 4;
    char line[160] = "";
    snprintf(line, sizeof line, "%.*s", (int)strcspn(head, "\r"), head);
    if (sscanf(line, "%15s %127[^ ?]", request->method, request->path) != 2) return MALFORMED;
    struct span connection = header(head, head_size, "connection");
    request->closes = connection.size >= 5 && strncasecmp(connection.bytes, "close", 5) == 0;

    struct span length = header(head, head_size, "content-length");
    size_t body_size = length.size ? strtoul(length.bytes, NULL, 10) : 0;
    if (body_size > BODY_BYTES_MAX) return MALFORMED;
    request->size = head_size + body_size;
    if (header(head, head_size, "transfer-encoding").size) {
        size_t taken = chunks(head + head_size, available - head_size, NULL, &body_size);
        if (taken == SIZE_MAX) return MALFORMED;
        if (taken == 0) return INCOMPLETE;
        chunks(head + head_size, available - head_size, head + head_size, &body_size);
        request->size = head_size + taken;
    }
    if (available < request->size) return INCOMPLETE;
    request->body = (struct span){head + head_size, body_size};
    return COMPLETE;
}

// ---- JSON

static const char *skip_space(const char *at, const char *end) {
    while (at < end && (isspace((unsigned char)*at) || *at == ',' || *at == ':')) at++;
    return at;
}

static const char *skip_string(const char *at, const char *end) {
    for (at++; at < end && *at != '"'; at++)
        if (*at == '\\') at++;
    return at < end ? at + 1 : end;
}

static const char *skip_value(const char *at, const char *end) {
    if (at < end && *at == '"') return skip_string(at, end);
    int depth = 0;
    while (at < end) {
        if (*at == '"') {
            at = skip_string(at, end);
            continue;
        }
        if (*at == '{' || *at == '[') depth++;
        if (*at == '}' || *at == ']') {
            if (depth == 0) return at;
            if (--depth == 0) return at + 1;
        } else if (depth == 0 && (*at == ',' || isspace((unsigned char)*at))) {
            return at;
        }
        at++;
    }
    return end;
}

struct span json_field(struct span object, const char *key) {
    const char *at = object.bytes, *end = at + object.size;
    size_t key_size = strlen(key);
    at = skip_space(at, end);
    if (at == end || *at != '{') return (struct span){NULL, 0};
    for (at = skip_space(at + 1, end); at < end && *at == '"'; at = skip_space(at, end)) {
        const char *name = at + 1;
        at = skip_string(at, end);
        bool found = (size_t)(at - name) == key_size + 1 && memcmp(name, key, key_size) == 0;
        const char *value = skip_space(at, end);
        at = skip_value(value, end);
        if (found) return (struct span){value, (size_t)(at - value)};
    }
    return (struct span){NULL, 0};
}

struct span json_text(struct span value) {
    if (value.size < 2 || value.bytes[0] != '"') return (struct span){NULL, 0};
    return (struct span){value.bytes + 1, value.size - 2};
}

bool json_is(struct span value, const char *text) {
    return value.size == strlen(text) && memcmp(value.bytes, text, value.size) == 0;
}

size_t json_count(struct span value) {
    if (value.size == 0 || value.bytes[0] != '[') return value.size > 0;
    const char *end = value.bytes + value.size;
    size_t count = 0;
    for (const char *at = skip_space(value.bytes + 1, end); at < end && *at != ']'; at = skip_space(at, end)) {
        at = skip_value(at, end);
        count++;
    }
    return count;
}

bool json_is_empty(struct span value) {
    return json_count(value) == 0 || json_is(value, "null") || json_is(value, "\"\"");
}
