#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "load.h"

// A body that has this in it has it replaced by the request's number, so that no two requests are the same.
#define MARK "{{number}}"
#define MARK_SIZE (sizeof MARK - 1)

struct buffer request_message;
static char *mark;

static const char *const CONTENT_TYPES[PROTOCOLS] = {
    [GRPC] = "application/grpc",
    [GRPC_WEB] = "application/grpc-web+proto",
    [NDJSON] = "application/json",
    [SSE] = "application/json",
};

void request_prepare(void) {
    size_t size = buffer_size(&options.body);
    if (options.protocol == GRPC || options.protocol == GRPC_WEB) {
        uint8_t prefix[5] = {0, (uint8_t)(size >> 24), (uint8_t)(size >> 16), (uint8_t)(size >> 8), (uint8_t)size};
        buffer_append(&request_message, prefix, sizeof prefix);
    }
    if (size > 0) buffer_append(&request_message, buffer_first(&options.body), size);
    if (buffer_size(&request_message) > 0)
        mark = memmem(buffer_first(&request_message), buffer_size(&request_message), MARK, MARK_SIZE);
}

void request_number(uint64_t number) {
    if (!mark) return;
    char digits[24];
    snprintf(digits, sizeof digits, "%0*llu", (int)MARK_SIZE, (unsigned long long)(number % UINT64_C(10000000000)));
    memcpy(mark, digits, MARK_SIZE);
}

static void tell_own(void (*tell)(void *, const char *, const char *), void *context) {
    for (int index = 0; index < options.header_count; index++) {
        const char *text = options.headers[index], *colon = strstr(text, ": ");
        char name[128];
        snprintf(name, sizeof name, "%.*s", (int)(colon - text), text);
        for (char *letter = name; *letter; letter++) *letter = (char)tolower((unsigned char)*letter);
        tell(context, name, colon + 2);
    }
}

void request_headers(void (*tell)(void *context, const char *name, const char *value), void *context) {
    char text[4096];
    tell(context, "content-type", CONTENT_TYPES[options.protocol]);
    if (options.protocol == GRPC) tell(context, "te", "trailers");
    if (options.protocol == GRPC_WEB) tell(context, "x-grpc-web", "1");
    if (options.protocol == GRPC || options.protocol == GRPC_WEB) {
        uint64_t timeout_ms = (uint64_t)(options.timeout_s * 1000);
        bool fits = timeout_ms < 100000000;  // gRPC allows eight digits.
        snprintf(text, sizeof text, "%llu%c", (unsigned long long)(fits ? timeout_ms : timeout_ms / 1000), fits ? 'm' : 'S');
        tell(context, "grpc-timeout", text);
    }
    if (options.bearer) {
        if (strlen(options.bearer) > sizeof text - 16) die("LOAD_BEARER is too long");
        snprintf(text, sizeof text, "Bearer %s", options.bearer);
        tell(context, "authorization", text);
    }
    tell_own(tell, context);
}
