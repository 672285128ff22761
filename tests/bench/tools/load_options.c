#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

const char *const PROTOCOL_NAMES[PROTOCOLS] = {"grpc", "grpc-web", "ndjson", "sse"};

struct options options = {
    .protocol = PROTOCOLS, .connections = 1, .seconds = 10, .drain_s = 10, .timeout_s = 60, .seed = 1, .count = UINT64_MAX,
};

enum { PORT, CONNECTIONS, CONCURRENCY, SEED, COUNT, EXPECT_TOKENS, NUMBER_FROM, RATE, STAGGER, SECONDS, DRAIN, WARM_UP,
       TIMEOUT, CANCEL_SHARE, DRY_RUN, PROTOCOL, PATH, AUTHORITY, HEADER, BODY };

static const struct option NAMES[] = {
    {"port", 1, NULL, PORT}, {"connections", 1, NULL, CONNECTIONS}, {"concurrency", 1, NULL, CONCURRENCY},
    {"seed", 1, NULL, SEED}, {"count", 1, NULL, COUNT}, {"expect-tokens", 1, NULL, EXPECT_TOKENS},
    {"number-from", 1, NULL, NUMBER_FROM}, {"rate", 1, NULL, RATE}, {"stagger", 1, NULL, STAGGER},
    {"seconds", 1, NULL, SECONDS}, {"drain", 1, NULL, DRAIN}, {"warm-up", 1, NULL, WARM_UP},
    {"timeout-s", 1, NULL, TIMEOUT}, {"cancel-share", 1, NULL, CANCEL_SHARE}, {"dry-run", 0, NULL, DRY_RUN},
    {"protocol", 1, NULL, PROTOCOL}, {"path", 1, NULL, PATH}, {"authority", 1, NULL, AUTHORITY},
    {"header", 1, NULL, HEADER}, {"body", 1, NULL, BODY}, {NULL, 0, NULL, 0},
};

static double number(const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || value < 0 || value > 1e15) die("not a number that makes sense: %s", text);
    return value;
}

static uint64_t whole(const char *text) {
    char *end;
    uint64_t value = strtoull(text, &end, 10);
    if (end == text || *end || *text == '-') die("not a whole number: %s", text);
    return value;
}

static void read_body(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) die("cannot read %s", path);
    size_t size;
    do {
        size = fread(buffer_reserve(&options.body, 65536), 1, 65536, file);
        options.body.end += size;
    } while (size > 0);
    fclose(file);
}

static void read_protocol(const char *name) {
    options.protocol = GRPC;
    while (options.protocol < PROTOCOLS && strcmp(name, PROTOCOL_NAMES[options.protocol]) != 0) options.protocol++;
    if (options.protocol == PROTOCOLS) die("no such protocol: %s", name);
}

static void add_header(char *text) {
    if (options.header_count == HEADERS_MAX) die("more than %d headers", HEADERS_MAX);
    if (!strstr(text, ": ")) die("not a header: %s", text);
    options.headers[options.header_count++] = text;
}

static void read_option(int name, char *value) {
    switch (name) {
        case PORT: options.port = (int)whole(value); break;
        case CONNECTIONS: options.connections = (int)whole(value); break;
        case CONCURRENCY: options.concurrency = (int)whole(value); break;
        case SEED: options.seed = whole(value); break;
        case COUNT: options.count = whole(value); break;
        case EXPECT_TOKENS: options.expect_tokens = whole(value); break;
        case NUMBER_FROM: options.number_from = whole(value); break;
        case RATE: options.rate = number(value); break;
        case STAGGER: options.stagger_s = number(value); break;
        case SECONDS: options.seconds = number(value); break;
        case DRAIN: options.drain_s = number(value); break;
        case WARM_UP: options.warm_up_s = number(value); break;
        case TIMEOUT: options.timeout_s = number(value); break;
        case CANCEL_SHARE: options.cancel_share = number(value); break;
        case DRY_RUN: options.dry_run = true; break;
        case PROTOCOL: read_protocol(value); break;
        case PATH: options.path = value; break;
        case AUTHORITY: options.authority = value; break;
        case HEADER: add_header(value); break;
        case BODY: read_body(value); break;
        default: exit(2);
    }
}

static void check(void) {
    if ((options.rate > 0) == (options.concurrency > 0)) die("give either --rate or --concurrency");
    if (options.cancel_share > 1) die("--cancel-share is more than all");
    if (options.cancel_share > 0 && options.expect_tokens < 2) die("--cancel-share needs --expect-tokens of at least 2");
    if (options.dry_run) return;
    if (options.protocol == PROTOCOLS || !options.path || options.port <= 0 || options.port > 65535)
        die("--protocol, --port and --path are needed");
    if (options.connections < 1) die("--connections: at least one");
}

void options_read(int count, char **arguments) {
    int name;
    while ((name = getopt_long(count, arguments, "", NAMES, NULL)) != -1) read_option(name, optarg);
    if (optind < count) die("what is %s?", arguments[optind]);
    options.bearer = getenv("LOAD_BEARER");
    if (!options.authority) {
        char *authority = allocate(32);
        snprintf(authority, 32, "127.0.0.1:%d", options.port);
        options.authority = authority;
    }
    check();
}
