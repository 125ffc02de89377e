/* A minimal server: the part of a benchmark's cost that remains when no Python runs.
 *
 * One thread, one level-triggered epoll instance, and only the necessary system calls: accept4 with a non-blocking
 * socket, recv, send, close. It serves the same protocols as the servers in Python: `protocol` sends back what it
 * receives, `frames_receive` takes messages with a length prefix of four bytes and answers one whose first byte is 1
 * with an empty message. It prints its port and ends when its standard input closes. With a path as second argument it
 * listens there on a Unix socket, and the port is 0.
 *
 * It measures the machine, so it is kept simple on purpose: when a reply is not sent at once, it blocks until it is. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    BACKLOG = 1024,
    EVENTS = 256,
    CONNECTIONS = 1024, /* descriptors of connections are below this, the default limit of open files */
    LENGTH = 4,
    BUFFER_SIZE = 262144
};

struct connection {
    size_t skip;   /* bytes of a frame's body not yet received */
    size_t held;   /* received bytes of its length and of the first byte of its body */
    unsigned char head[LENGTH + 1];
};

static struct connection connections[CONNECTIONS];
static char buffer[BUFFER_SIZE];

static void must(int true_now, const char *what)
{
    if (!true_now) {
        perror(what);
        exit(1);
    }
}

/* Returns 0 when the peer has closed. */
static int send_all(int fd, const char *at, size_t left)
{
    while (left) {
        ssize_t sent = send(fd, at, left, MSG_NOSIGNAL);
        if (sent < 0) {
            struct pollfd ready = {.fd = fd, .events = POLLOUT};
            if (errno != EAGAIN)
                return 0;
            must(poll(&ready, 1, -1) >= 0 || errno == EINTR, "poll");
            continue;
        }
        at += sent;
        left -= (size_t)sent;
    }
    return 1;
}

/* Reads every frame's first byte, as the server in Python does; returns 0 when the peer has closed. */
static int take_frames(int fd, struct connection *one, const unsigned char *at, size_t left)
{
    static const char empty[LENGTH];
    while (left) {
        size_t step;
        if (one->skip) {
            step = one->skip < left ? one->skip : left;
            one->skip -= step;
        } else {
            uint32_t length;
            step = sizeof one->head - one->held;
            step = step < left ? step : left;
            memcpy(one->head + one->held, at, step);
            one->held += step;
            if (one->held == sizeof one->head) {
                memcpy(&length, one->head, LENGTH);
                one->skip = ntohl(length) - 1; /* the benchmark sends no empty frame */
                one->held = 0;
                if (one->head[LENGTH] == 1 && !send_all(fd, empty, sizeof empty))
                    return 0;
            }
        }
        at += step;
        left -= step;
    }
    return 1;
}

static int listen_on_path(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    must(fd >= 0, "socket");
    must(strlen(path) < sizeof address.sun_path, "path");
    strcpy(address.sun_path, path);
    must(bind(fd, (struct sockaddr *)&address, sizeof address) == 0, "bind");
    must(listen(fd, BACKLOG) == 0, "listen");
    printf("0\n");
    fflush(stdout);
    return fd;
}

static int listen_here(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    must(fd >= 0, "socket");
    must(bind(fd, (struct sockaddr *)&address, size) == 0, "bind");
    must(listen(fd, BACKLOG) == 0, "listen");
    must(getsockname(fd, (struct sockaddr *)&address, &size) == 0, "getsockname");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static void add(int poller, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    must(epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
}

static void accept_all(int poller, int listener, int tcp)
{
    int one = 1, fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        must(fd < CONNECTIONS, "more connections than this server has places for");
        if (tcp)
            must(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0, "setsockopt");
        memset(&connections[fd], 0, sizeof connections[fd]);
        add(poller, fd);
    }
    must(errno == EAGAIN || errno == ECONNABORTED, "accept4");
}

int main(int argc, char **argv)
{
    int framed = argc > 1 && strcmp(argv[1], "frames_receive") == 0;
    int tcp = argc < 3 || !*argv[2];
    int poller, listener;
    if (argc < 2 || argc > 3 || !(framed || strcmp(argv[1], "protocol") == 0)) {
        fprintf(stderr, "usage: bare_server protocol|frames_receive [PATH]\n");
        return 2;
    }
    poller = epoll_create1(EPOLL_CLOEXEC);
    must(poller >= 0, "epoll_create1");
    listener = tcp ? listen_here() : listen_on_path(argv[2]);
    add(poller, listener);
    add(poller, STDIN_FILENO);
    for (;;) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(poller, events, EVENTS, -1);
        must(ready >= 0 || errno == EINTR, "epoll_wait");
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            ssize_t got;
            if (fd == STDIN_FILENO)
                return 0;
            if (fd == listener) {
                accept_all(poller, listener, tcp);
                continue;
            }
            got = recv(fd, buffer, BUFFER_SIZE, 0);
            if (got < 0 && errno == EAGAIN)
                continue;
            if (got <= 0 || !(framed ? take_frames(fd, &connections[fd], (unsigned char *)buffer, (size_t)got)
                                     : send_all(fd, buffer, (size_t)got)))
                close(fd);
        }
    }
}
