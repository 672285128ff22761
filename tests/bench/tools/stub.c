// An Ollama that costs nothing: exact pacing, and tokens that carry the time at which they were sent.
//
// Usage: stub PORT [MODEL...]. Port 0 is any free one; the first line on stdout tells which. The models are listed and
// resident for ever, but any name is answered, for the name is the scenario: "stub-n100-i20000-t5000-w0:latest" sends
// 100 tokens 20,000 microseconds apart (0: as fast as the socket takes them), the first one 5,000 microseconds after
// the request, each with so many more bytes. What is not said is n1, i0, t0, w0.
//
// One thread. Due times are absolute, so a late token makes no other one late, and overload shows as bunched tokens.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common.h"
#include "stub_reply.h"
#include "stub_request.h"
#include "timers.h"

#define EVENTS_MAX 256
#define READ_BYTES (64 * 1024)
#define FLAT_OUT_BYTES (64 * 1024)
#define MODELS_MAX 64

struct connection {
    struct timer timer;  // First, so that a timer is its connection. Runs while the next token is due.
    int fd;
    uint32_t interest;
    bool busy, flat_out, closes;
    struct buffer in, out;
    struct reply reply;
};

static int epoll, model_count;
static char *models[MODELS_MAX];
static struct timers timers;
static struct {
    uint64_t requests, tokens, active;
} stats;

// ---- Connections

static void drop(struct connection *connection) {
    if (connection->busy) stats.active--;
    timers_remove(&timers, &connection->timer);
    close(connection->fd);
    buffer_free(&connection->in);
    buffer_free(&connection->out);
    buffer_free(&connection->reply.chunk);
    free(connection);
}

static void accept_all(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *connection = allocate(sizeof *connection);
        connection->fd = fd;
        connection->interest = EPOLLIN;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

static void watch(struct connection *connection) {
    bool writes = connection->flat_out || buffer_size(&connection->out) > 0;
    uint32_t interest = writes ? EPOLLIN | EPOLLOUT : EPOLLIN;
    if (interest == connection->interest) return;
    connection->interest = interest;
    struct epoll_event event = {.events = interest, .data.ptr = connection};
    epoll_ctl(epoll, EPOLL_CTL_MOD, connection->fd, &event);
}

// ---- Completions

static void start(struct connection *connection) {
    struct reply *reply = &connection->reply;
    uint64_t wait_ns = reply->scenario.first_ns;
    if (reply->streamed)
        reply_open(reply, &connection->out);
    else if (reply->scenario.token_count > 0)
        wait_ns += (reply->scenario.token_count - 1) * reply->scenario.interval_ns;
    connection->busy = true;
    stats.requests++;
    stats.active++;
    timers_add(&timers, &connection->timer, now_ns() + wait_ns);
}

static void finish(struct connection *connection) {
    if (connection->reply.streamed) reply_close(&connection->reply, &connection->out);
    connection->busy = connection->flat_out = false;
    stats.active--;
    timers_remove(&timers, &connection->timer);
}

static void send_token(struct connection *connection) {
    reply_token(&connection->reply, &connection->out);
    stats.tokens++;
}

static bool all_sent(const struct connection *connection) {
    return connection->reply.sent_count >= connection->reply.scenario.token_count;
}

static void send_flat_out(struct connection *connection) {
    while (!all_sent(connection) && buffer_size(&connection->out) < FLAT_OUT_BYTES) send_token(connection);
    if (all_sent(connection)) finish(connection);
}

// What is due now: a whole answer, the start of an unpaced stream, or the next token of a paced one.
static void send_due(struct connection *connection) {
    struct reply *reply = &connection->reply;
    if (!reply->streamed) {
        reply_whole(reply, &connection->out);
        stats.tokens += reply->sent_count;
        finish(connection);
    } else if (reply->scenario.interval_ns == 0) {
        timers_remove(&timers, &connection->timer);
        connection->flat_out = true;
        send_flat_out(connection);
    } else {
        if (!all_sent(connection)) send_token(connection);
        if (all_sent(connection))
            finish(connection);
        else
            timers_add(&timers, &connection->timer, connection->timer.due_ns + reply->scenario.interval_ns);
    }
}

// ---- Requests

static void answer_stats(struct buffer *out) {
    char json[128];
    snprintf(json, sizeof json, "{\"requests\":%llu,\"tokens\":%llu,\"active\":%llu}",
             (unsigned long long)stats.requests, (unsigned long long)stats.tokens, (unsigned long long)stats.active);
    answer(out, "200 OK", json);
}

static void answer_small(struct buffer *out, const struct request *request) {
    const char *path = request->path;
    if (!strcmp(path, "/api/tags") || !strcmp(path, "/api/ps"))
        answer_models(out, models, model_count, !strcmp(path, "/api/ps"));
    else if (!strcmp(path, "/v1/models"))
        answer_openai_models(out, models, model_count);
    else if (!strcmp(path, "/api/embed"))
        answer_embed(out, request->body);
    else if (!strcmp(path, "/api/version"))
        answer(out, "200 OK", "{\"version\":\"0.0.0\"}");
    else if (!strcmp(path, "/api/show"))
        answer(out, "200 OK", "{\"template\":\"\",\"details\":{\"family\":\"stub\"},\"capabilities\":[\"completion\"],"
                              "\"model_info\":{\"general.architecture\":\"stub\",\"stub.context_length\":4096}}");
    else if (!strcmp(path, "/stats"))
        answer_stats(out);
    else if (!strcmp(path, "/") || !strcmp(path, "/health"))
        answer(out, "200 OK", "{\"status\":\"Ollama is running\"}");
    else
        answer(out, "404 Not Found", "{\"error\":\"no such path\"}");
}

static void take_request(struct connection *connection, const struct request *request) {
    enum dialect dialect = dialect_of(request->path);
    connection->closes = request->closes;
    if (dialect == DIALECTS)
        answer_small(&connection->out, request);
    else if (reply_read(&connection->reply, dialect, request->body, &connection->out) &&
             !reply_is_load(&connection->reply, request->body, &connection->out))
        start(connection);
}

// Take up what is asked, one after the other. False if the connection has to end.
static bool take_requests(struct connection *connection) {
    struct request request;
    while (!connection->busy && !connection->closes) {
        enum parsed parsed = request_parse(&connection->in, &request);
        if (parsed == MALFORMED) return false;
        if (parsed == INCOMPLETE) break;
        take_request(connection, &request);
        buffer_take(&connection->in, request.size);
    }
    return true;
}

// Send what there is and take up what comes next; drop the connection if it is over. A reader that does not read costs
// the rest of its stream in memory, and nobody else's pace.
static void proceed(struct connection *connection) {
    if (!take_requests(connection) || !buffer_send(&connection->out, connection->fd) ||
        (connection->closes && !connection->busy && buffer_size(&connection->out) == 0))
        drop(connection);
    else
        watch(connection);
}

static void receive(struct connection *connection) {
    char *into = buffer_reserve(&connection->in, READ_BYTES);
    ssize_t size = recv(connection->fd, into, READ_BYTES, 0);
    if (size == 0 || (size < 0 && errno != EAGAIN)) {
        drop(connection);
        return;
    }
    if (size > 0) connection->in.end += (size_t)size;
    proceed(connection);
}

static void handle(struct connection *connection, uint32_t events) {
    if (events & (EPOLLHUP | EPOLLERR)) {
        drop(connection);
    } else if (events & EPOLLIN) {
        receive(connection);
    } else if (events & EPOLLOUT) {
        if (connection->flat_out) send_flat_out(connection);
        proceed(connection);
    }
}

// ---- The loop

static int listen_on(const char *port) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096))
        die("cannot listen on 127.0.0.1:%s: %s", port, strerror(errno));
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

static void serve(int listener) {
    struct epoll_event events[EVENTS_MAX], event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        struct timer *first = timers_first(&timers);
        struct timespec wait = first ? time_until(first->due_ns) : (struct timespec){0};
        int count = epoll_pwait2(epoll, events, EVENTS_MAX, first ? &wait : NULL, NULL);
        for (int index = 0; index < count; index++) {
            struct connection *connection = events[index].data.ptr;
            if (connection)
                handle(connection, events[index].events);
            else
                accept_all(listener);
        }
        uint64_t now = now_ns();
        while ((first = timers_first(&timers)) && first->due_ns <= now) {
            send_due((struct connection *)first);
            proceed((struct connection *)first);
        }
    }
}

static void add_model(const char *name) {
    char full[256];
    if (model_count == MODELS_MAX) die("more than %d models", MODELS_MAX);
    if (strpbrk(name, "\"\\")) die("a model's name must not have quotes or backslashes: %s", name);
    snprintf(full, sizeof full, "%s%s", name, strchr(name, ':') ? "" : ":latest");
    models[model_count++] = strdup(full);
}

int main(int count, char **arguments) {
    if (count < 2) die("usage: stub PORT [MODEL...]");
    signal(SIGPIPE, SIG_IGN);
    allow_many_files();
    be_punctual();
    for (int index = 2; index < count; index++) add_model(arguments[index]);
    if (model_count == 0) {
        add_model("stub-n50-i20000");
        add_model("stub-n1-i0");
    }
    serve(listen_on(arguments[1]));
}
