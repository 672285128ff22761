#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

#define EVENTS_MAX 256

static int epoll;

void channels_open(void) { epoll = epoll_create1(EPOLL_CLOEXEC); }

bool channel_open(struct channel *channel) {
    int on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    channel->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (channel->fd < 0) die("no more sockets: raise the limit of open files");
    setsockopt(channel->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(channel->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) {
        close(channel->fd);
        channel->fd = -1;
        return false;
    }
    channel->writes = false;
    channel->trouble = NULL;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = channel};
    epoll_ctl(epoll, EPOLL_CTL_ADD, channel->fd, &event);
    return true;
}

void channel_close(struct channel *channel) {
    if (channel->fd >= 0) close(channel->fd);
    channel->fd = -1;
    buffer_free(&channel->out);
}

// A socket tells its error once, to whoever asks first.
static void note_trouble(struct channel *channel) {
    if (!channel->trouble) channel->trouble = errno == ECONNREFUSED ? "connection refused" : "connection reset";
}

bool channel_flush(struct channel *channel) {
    if (!buffer_send(&channel->out, channel->fd)) {
        note_trouble(channel);
        return false;
    }
    bool writes = buffer_size(&channel->out) > 0;
    if (writes != channel->writes) {
        channel->writes = writes;
        struct epoll_event event = {.events = writes ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = channel};
        epoll_ctl(epoll, EPOLL_CTL_MOD, channel->fd, &event);
    }
    return true;
}

ssize_t channel_receive(struct channel *channel, char *into, size_t room) {
    ssize_t size = recv(channel->fd, into, room, 0);
    if (size > 0) return size;
    if (size < 0 && errno == EAGAIN) return 0;
    if (size < 0) note_trouble(channel);
    if (!channel->trouble) channel->trouble = "connection closed";
    return -1;
}

void channels_wait(uint64_t until_ns) {
    struct epoll_event events[EVENTS_MAX];
    struct timespec wait = time_until(until_ns);
    int count = epoll_pwait2(epoll, events, EVENTS_MAX, &wait, NULL);
    for (int index = 0; index < count; index++) {
        struct channel *channel = events[index].data.ptr;
        channel->on_event(channel, events[index].events);
    }
}
