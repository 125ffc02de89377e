/* The simulated kernel: a table of system calls (corenet/core/syscalls.h) whose results are determined by one seed.

   The descriptors are real ones. Simulated is what a kernel may do but rarely does: short counts, EAGAIN and EINTR,
   shortages, events that are late, reordered or spurious, and time. `epoll_wait` never sleeps: before it polls it lets
   the peers act (the hook `step`, in Python). When nothing is ready it advances the clock to the earlier of the call's
   time-out and a peer's next action. When there is neither, nothing can ever make progress: it calls the hook `stuck`.

   Rules that keep the faults within what a kernel may do:
   - An edge-triggered or one-shot event that was withheld, and an edge after which a call returned EAGAIN although data
     was there, is armed again in the real kernel before the next poll, so that the engine sees it later.
   - A spurious event has only requested bits, and comes only while the registration exists.
   - A fault is drawn from the generator even when it is left out (`skip`), so that leaving it out does not change which
     others are drawn. */

#include "corenet/core/syscalls.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum fault {
    SHORT_READ, SHORT_WRITE, AGAIN_READ, AGAIN_WRITE, INTERRUPTED, SHORTAGE, NO_DESCRIPTOR, NO_ROOM, LATE, SPURIOUS,
    ORDER, REFUSED, FAULTS
};

enum { MOST_DESCRIPTORS = 4096, MOST_SKIPPED = 4096, MOST_EVENTS = 1024, MOST_LATE_ROUNDS = 3, MOST_IDLE = 3 };

struct registration {
    int epfd;
    uint32_t events;
    uint64_t data;
    int used;
    int again;          /* arm again before the next poll */
};

static struct {
    int active;
    uint64_t generator;
    uint32_t rates[FAULTS];             /* in 1024 calls */
    uint64_t drawn;                     /* faults so far, those left out included */
    uint64_t happened;
    uint64_t limit;                     /* faults from this number on do not happen */
    uint64_t skipped[MOST_SKIPPED];
    int skipped_count;
    int64_t now;
    uint64_t hash;
    uint64_t calls;
    int idle;                           /* consecutive polls with only spurious events */
    int verbose;
    char *text;
    size_t text_length, text_capacity;
    struct registration table[MOST_DESCRIPTORS];
    int top;                            /* all registered descriptors are below this */
    int64_t (*step)(int forced);
    int (*stuck)(void);
} kernel;

/* --- chance and record ---------------------------------------------------------------------------------------------- */

static uint64_t mixed(uint64_t value) {
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

/* splitmix64 */
static uint64_t drawn(void) {
    kernel.generator += UINT64_C(0x9e3779b97f4a7c15);
    return mixed(kernel.generator);
}

static void record(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void record(const char *format, ...) {
    char line[160];
    va_list arguments;
    size_t length, i;
    va_start(arguments, format);
    length = (size_t)vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length >= sizeof line)
        length = sizeof line - 1;
    for (i = 0; i < length; i++)
        kernel.hash = (kernel.hash ^ (unsigned char)line[i]) * UINT64_C(0x100000001b3);
    if (!kernel.verbose)
        return;
    if (kernel.text_length + length + 2 > kernel.text_capacity) {
        size_t capacity = 2 * (kernel.text_capacity + length + 64);
        char *grown = realloc(kernel.text, capacity);
        if (grown == NULL)
            return;
        kernel.text = grown;
        kernel.text_capacity = capacity;
    }
    memcpy(kernel.text + kernel.text_length, line, length);
    kernel.text[kernel.text_length + length] = '\n';
    kernel.text_length += length + 1;
    kernel.text[kernel.text_length] = 0;
}

/* Whether this fault happens now; `amount` is a random number of the same draw. */
static int happens(enum fault fault, uint64_t *amount) {
    uint64_t chance, number;
    int i;
    if (!kernel.active || kernel.rates[fault] == 0)
        return 0;
    chance = drawn();
    if (chance % 1024 >= kernel.rates[fault])
        return 0;
    *amount = mixed(chance + 1);
    number = kernel.drawn++;
    if (number >= kernel.limit)
        return 0;
    for (i = 0; i < kernel.skipped_count; i++)
        if (kernel.skipped[i] == number)
            return 0;
    kernel.happened++;
    record("  fault %llu kind %d", (unsigned long long)number, (int)fault);
    return 1;
}

static long long done(const char *name, int fd, unsigned long long asked, long long result) {
    int number = errno;
    if (kernel.active) {
        kernel.calls++;
        record("%s %d %llu = %lld %d", name, fd, asked, result, result < 0 ? number : 0);
    }
    errno = number;
    return result;
}

static struct registration *registered(int fd) {
    return fd >= 0 && fd < MOST_DESCRIPTORS && kernel.table[fd].used ? &kernel.table[fd] : NULL;
}

static void arm_again(int fd) {
    struct registration *entry = registered(fd);
    if (entry != NULL)
        entry->again = 1;
}

/* --- reading and writing -------------------------------------------------------------------------------------------- */

/* -1 with errno when the call fails without being made; else how many bytes of `length` it may transfer. */
static int64_t allowed(int fd, size_t length, int writing) {
    uint64_t amount;
    if (happens(writing ? AGAIN_WRITE : AGAIN_READ, &amount)) {
        arm_again(fd);
        errno = EAGAIN;
        return -1;
    }
    if (happens(INTERRUPTED, &amount)) {
        arm_again(fd);
        errno = EINTR;
        return -1;
    }
    if (writing && happens(SHORTAGE, &amount)) {
        errno = amount & 1 ? ENOBUFS : ENOMEM;
        return -1;
    }
    if (length > 1 && happens(writing ? SHORT_WRITE : SHORT_READ, &amount)) {
        /* Often very few bytes, often nearly all. */
        if (amount & 1)
            return 1 + (int64_t)((amount >> 8) % (length < 8 ? length - 1 : 7));
        return 1 + (int64_t)((amount >> 8) % (length - 1));
    }
    return (int64_t)length;
}

static ssize_t sim_read(int fd, void *data, size_t length) {
    int64_t permitted;
    if (!kernel.active)
        return read(fd, data, length);
    if (length == 8) {
        /* An eventfd accepts no partial write. */
        uint64_t amount;
        if (happens(INTERRUPTED, &amount)) {
            errno = EINTR;
            return done("read", fd, length, -1);
        }
        return done("read", fd, length, read(fd, data, length));
    }
    permitted = allowed(fd, length, 0);
    return done("read", fd, length, permitted < 0 ? -1 : read(fd, data, (size_t)permitted));
}

static ssize_t sim_write(int fd, const void *data, size_t length) {
    int64_t permitted;
    if (!kernel.active)
        return write(fd, data, length);
    /* A failed wake-up through an eventfd would not be repeated. */
    permitted = length == 8 ? 8 : allowed(fd, length, 1);
    return done("write", fd, length, permitted < 0 ? -1 : write(fd, data, (size_t)permitted));
}

/* `vector` cut to `permitted` bytes in `cut`; returns the count of pieces. */
static int cut_vector(const struct iovec *vector, int count, int64_t permitted, struct iovec *cut) {
    int i;
    for (i = 0; i < count && permitted > 0; i++) {
        cut[i] = vector[i];
        if ((int64_t)cut[i].iov_len > permitted)
            cut[i].iov_len = (size_t)permitted;
        permitted -= (int64_t)cut[i].iov_len;
    }
    return i;
}

static size_t vector_size(const struct iovec *vector, size_t count) {
    size_t total = 0;
    size_t i;
    for (i = 0; i < count; i++)
        total += vector[i].iov_len;
    return total;
}

static ssize_t sim_writev(int fd, const struct iovec *vector, int count) {
    struct iovec cut[1024];
    size_t length = vector_size(vector, (size_t)count);
    int64_t permitted;
    if (!kernel.active || count > 1024)
        return writev(fd, vector, count);
    permitted = allowed(fd, length, 1);
    if (permitted < 0)
        return done("writev", fd, length, -1);
    count = cut_vector(vector, count, permitted, cut);
    return done("writev", fd, length, writev(fd, cut, count));
}

static ssize_t sim_recv(int fd, void *data, size_t length, int flags) {
    int64_t permitted;
    if (!kernel.active)
        return recv(fd, data, length, flags);
    permitted = allowed(fd, length, 0);
    return done("recv", fd, length, permitted < 0 ? -1 : recv(fd, data, (size_t)permitted, flags));
}

/* 1 when a call that transfers one datagram, or a batch, fails without being made. */
static int refused(int fd, int writing) {
    uint64_t amount;
    int64_t permitted = allowed(fd, 1, writing);
    if (permitted < 0)
        return 1;
    if (happens(REFUSED, &amount)) {
        errno = ECONNREFUSED;
        return 1;
    }
    return 0;
}

static int is_datagram(int fd) {
    int kind = 0;
    socklen_t size = sizeof kind;
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &size) == 0 && kind == SOCK_DGRAM;
}

static ssize_t sim_send(int fd, const void *data, size_t length, int flags) {
    int64_t permitted;
    if (!kernel.active)
        return send(fd, data, length, flags);
    if (is_datagram(fd))
        return done("send", fd, length, refused(fd, 1) ? -1 : send(fd, data, length, flags));
    permitted = allowed(fd, length, 1);
    return done("send", fd, length, permitted < 0 ? -1 : send(fd, data, (size_t)permitted, flags));
}

static ssize_t sim_sendmsg(int fd, const struct msghdr *message, int flags) {
    struct iovec cut[1024];
    struct msghdr shorter = *message;
    size_t length = vector_size(message->msg_iov, message->msg_iovlen);
    int64_t permitted;
    if (!kernel.active || message->msg_iovlen > 1024)
        return sendmsg(fd, message, flags);
    if (is_datagram(fd))
        return done("sendmsg", fd, length, refused(fd, 1) ? -1 : sendmsg(fd, message, flags));
    permitted = allowed(fd, length, 1);
    if (permitted < 0)
        return done("sendmsg", fd, length, -1);
    shorter.msg_iov = cut;
    shorter.msg_iovlen = (size_t)cut_vector(message->msg_iov, (int)message->msg_iovlen, permitted, cut);
    return done("sendmsg", fd, length, sendmsg(fd, &shorter, flags));
}

static ssize_t sim_recvfrom(int fd, void *data, size_t length, int flags, struct sockaddr *source, socklen_t *size) {
    if (!kernel.active)
        return recvfrom(fd, data, length, flags, source, size);
    return done("recvfrom", fd, length, refused(fd, 0) ? -1 : recvfrom(fd, data, length, flags, source, size));
}

static ssize_t sim_sendto(int fd, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t size) {
    if (!kernel.active)
        return sendto(fd, data, length, flags, to, size);
    return done("sendto", fd, length, refused(fd, 1) ? -1 : sendto(fd, data, length, flags, to, size));
}

static int sim_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout) {
    uint64_t amount;
    if (!kernel.active)
        return recvmmsg(fd, messages, count, flags, timeout);
    if (refused(fd, 0))
        return (int)done("recvmmsg", fd, count, -1);
    if (count > 1 && happens(SHORT_READ, &amount))
        count = 1 + (unsigned int)(amount % (count - 1));
    return (int)done("recvmmsg", fd, count, recvmmsg(fd, messages, count, flags, timeout));
}

static int sim_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags) {
    uint64_t amount;
    if (!kernel.active)
        return sendmmsg(fd, messages, count, flags);
    if (refused(fd, 1))
        return (int)done("sendmmsg", fd, count, -1);
    if (count > 1 && happens(SHORT_WRITE, &amount))
        count = 1 + (unsigned int)(amount % (count - 1));
    return (int)done("sendmmsg", fd, count, sendmmsg(fd, messages, count, flags));
}

/* --- descriptors ---------------------------------------------------------------------------------------------------- */

static int sim_accept4(int fd, struct sockaddr *peer, socklen_t *length, int flags) {
    static const int shortages[] = {EMFILE, ENFILE, ENOBUFS, ENOMEM};
    uint64_t amount;
    if (!kernel.active)
        return accept4(fd, peer, length, flags);
    if (happens(NO_DESCRIPTOR, &amount)) {
        errno = shortages[amount % 4];
        return (int)done("accept4", fd, 0, -1);
    }
    if (happens(AGAIN_READ, &amount)) {
        errno = EAGAIN;
        return (int)done("accept4", fd, 0, -1);
    }
    if (happens(INTERRUPTED, &amount)) {
        errno = amount & 1 ? EINTR : ECONNABORTED;
        return (int)done("accept4", fd, 0, -1);
    }
    return (int)done("accept4", fd, 0, accept4(fd, peer, length, flags));
}

static int sim_close(int fd) {
    if (fd >= 0 && fd < MOST_DESCRIPTORS)
        kernel.table[fd].used = 0;
    return (int)done("close", fd, 0, close(fd));
}

static int sim_dup3(int old, int fresh, int flags) {
    return (int)done("dup3", old, (unsigned int)fresh, dup3(old, fresh, flags));
}

static int sim_eventfd(unsigned int value, int flags) {
    uint64_t amount;
    if (happens(NO_DESCRIPTOR, &amount)) {
        errno = amount & 1 ? EMFILE : ENOMEM;
        return (int)done("eventfd", -1, 0, -1);
    }
    return (int)done("eventfd", -1, 0, eventfd(value, flags));
}

static int sim_epoll_create1(int flags) {
    uint64_t amount;
    if (happens(NO_DESCRIPTOR, &amount)) {
        errno = amount & 1 ? EMFILE : ENOMEM;
        return (int)done("epoll_create1", -1, 0, -1);
    }
    return (int)done("epoll_create1", -1, 0, epoll_create1(flags));
}

static int sim_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event) {
    uint64_t amount;
    int result;
    /* The engine tests with an ADD without events whether the kernel has a registration of a descriptor. */
    if (op == EPOLL_CTL_ADD && event->events != 0 && happens(NO_ROOM, &amount)) {
        errno = amount & 1 ? ENOSPC : ENOMEM;
        return (int)done("epoll_ctl add", fd, 0, -1);
    }
    result = epoll_ctl(epfd, op, fd, event);
    if (result == 0 && fd >= 0 && fd < MOST_DESCRIPTORS) {
        struct registration *entry = &kernel.table[fd];
        entry->used = op != EPOLL_CTL_DEL;
        if (fd >= kernel.top)
            kernel.top = fd + 1;
        entry->epfd = epfd;
        entry->again = 0;
        if (entry->used) {
            entry->events = event->events;
            entry->data = event->data.u64;
        }
    }
    return (int)done(op == EPOLL_CTL_ADD ? "epoll_ctl add" : op == EPOLL_CTL_MOD ? "epoll_ctl mod" : "epoll_ctl del", fd,
                     event == NULL ? 0 : event->events, result);
}

/* --- events and time ------------------------------------------------------------------------------------------------ */

/* Whether the real kernel still has this registration; the test arms it again. */
static int stands(int fd) {
    struct registration *entry = &kernel.table[fd];
    struct epoll_event event;
    event.events = entry->events;
    event.data.u64 = entry->data;
    return epoll_ctl(entry->epfd, EPOLL_CTL_MOD, fd, &event) == 0;
}

static int look(int epfd, struct epoll_event *events, int maximum, int may_withhold) {
    uint64_t amount;
    int fd, got, i, kept = 0;
    for (fd = 0; fd < kernel.top; fd++) {
        struct registration *entry = &kernel.table[fd];
        if (entry->used && entry->again && entry->epfd == epfd) {
            entry->again = 0;
            if (!stands(fd))
                entry->used = 0;
        }
    }
    got = epoll_wait(epfd, events, maximum, 0);
    if (got < 0)
        return got;
    for (i = 0; i < got; i++) {
        fd = (int)(events[i].data.u64 & 0xffffffff);
        if (may_withhold && happens(LATE, &amount)) {
            arm_again(fd);
            continue;
        }
        /* Readable and writable are rarely reported in one event. */
        if ((events[i].events & (EPOLLIN | EPOLLOUT)) == (EPOLLIN | EPOLLOUT) && happens(LATE, &amount)) {
            struct registration *entry = registered(fd);
            if (entry != NULL && !(entry->events & (EPOLLET | EPOLLONESHOT)))
                events[i].events &= ~(uint32_t)(amount & 1 ? EPOLLIN : EPOLLOUT);
        }
        events[kept++] = events[i];
    }
    got = kept;
    if (kept)
        kernel.idle = 0;
    /* Only a few in a row, because the clock does not advance meanwhile. */
    if (kernel.rates[SPURIOUS] && kernel.idle < MOST_IDLE)
        for (fd = 0; fd < kernel.top && got < maximum; fd++) {
            struct registration *entry = &kernel.table[fd];
            uint32_t bits = entry->events & (EPOLLIN | EPOLLOUT);
            if (!entry->used || entry->epfd != epfd || bits == 0 || entry->events & EPOLLONESHOT)
                continue;
            if (!happens(SPURIOUS, &amount) || !stands(fd))
                continue;
            /* The writing end of a pipe is never readable. */
            if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY)
                bits &= EPOLLOUT;
            if (bits == 0)
                continue;
            for (i = 0; i < got; i++)
                if (events[i].data.u64 == entry->data)
                    break;
            if (i < got)
                continue;
            events[got].events = bits;
            events[got++].data.u64 = entry->data;
        }
    kernel.idle += got > kept;
    for (i = got - 1; i > 0; i--)
        if (happens(ORDER, &amount)) {
            int other = (int)(amount % (uint64_t)(i + 1));
            struct epoll_event held = events[i];
            events[i] = events[other];
            events[other] = held;
        }
    for (i = 0; i < got; i++)
        record("  event %d %x", (int)(events[i].data.u64 & 0xffffffff), events[i].events);
    return got;
}

/* Wait `timeout` nanoseconds; negative: without a time-out. */
static int wait_for(int epfd, struct epoll_event *events, int maximum, int64_t timeout) {
    int64_t until = kernel.now + timeout;
    int64_t answer;
    uint64_t amount;
    int got, round;
    if (happens(INTERRUPTED, &amount)) {
        errno = EINTR;
        return (int)done("epoll_wait", epfd, 0, -1);
    }
    for (round = 0;; round++) {
        answer = kernel.step(0);
        got = look(epfd, events, maximum, round < MOST_LATE_ROUNDS);
        if (got != 0 || timeout == 0)
            return (int)done("epoll_wait", epfd, (unsigned long long)timeout, got);
        if (answer <= 0)
            answer = kernel.step(1);
        if (answer > 0)
            continue;
        /* It was withheld, or `look` has not polled since it became ready. */
        got = look(epfd, events, maximum, 0);
        if (got != 0)
            return (int)done("epoll_wait", epfd, (unsigned long long)timeout, got);
        if (answer < 0 && (timeout < 0 || -answer < until)) {
            if (kernel.now < -answer)
                kernel.now = -answer;
            continue;
        }
        if (timeout > 0) {
            kernel.now = until;
            kernel.idle = 0;
            return (int)done("epoll_wait", epfd, (unsigned long long)timeout, 0);
        }
        record("stuck");
        if (!kernel.stuck()) {
            errno = EINTR;
            return (int)done("epoll_wait", epfd, 0, -1);
        }
    }
}

static int sim_epoll_wait(int epfd, struct epoll_event *events, int maximum, int timeout_ms) {
    if (!kernel.active)
        return epoll_wait(epfd, events, maximum, timeout_ms);
    return wait_for(epfd, events, maximum, timeout_ms < 0 ? -1 : (int64_t)timeout_ms * 1000000);
}

static int sim_epoll_pwait2(int epfd, struct epoll_event *events, int maximum, const struct timespec *limit) {
    if (!kernel.active)
        return corenet_epoll_pwait2(epfd, events, maximum, limit);
    return wait_for(epfd, events, maximum, (int64_t)limit->tv_sec * 1000000000 + limit->tv_nsec);
}

static int sim_clock_gettime(clockid_t clock, struct timespec *now) {
    if (!kernel.active)
        return clock_gettime(clock, now);
    kernel.now += 200;
    now->tv_sec = kernel.now / 1000000000;
    now->tv_nsec = kernel.now % 1000000000;
    return 0;
}

EXPORT const struct corenet_system_calls corenet_system_calls = {
    .read = sim_read, .write = sim_write, .writev = sim_writev, .close = sim_close, .dup3 = sim_dup3,
    .eventfd = sim_eventfd, .epoll_create1 = sim_epoll_create1, .epoll_ctl = sim_epoll_ctl,
    .epoll_wait = sim_epoll_wait, .epoll_pwait2 = sim_epoll_pwait2, .recv = sim_recv, .recvfrom = sim_recvfrom,
    .send = sim_send, .sendto = sim_sendto, .sendmsg = sim_sendmsg, .recvmmsg = sim_recvmmsg,
    .sendmmsg = sim_sendmmsg, .accept4 = sim_accept4, .shutdown = shutdown, .getsockname = getsockname,
    .getpeername = getpeername, .getsockopt = getsockopt, .setsockopt = setsockopt, .mmap = mmap,
    .clock_gettime = sim_clock_gettime,
};

/* --- what the simulation in Python calls ------------------------------------------------------------------------------ */

static void in_child(void) {
    kernel.active = 0;
}

EXPORT void sim_hooks(int64_t (*step)(int), int (*stuck)(void)) {
    static int prepared;
    kernel.step = step;
    kernel.stuck = stuck;
    if (!prepared)
        pthread_atfork(NULL, NULL, in_child);
    prepared = 1;
}

EXPORT void sim_begin(uint64_t seed, const uint32_t *rates, uint64_t limit, const uint64_t *skipped, int count, int verbose) {
    memset(kernel.table, 0, (size_t)kernel.top * sizeof *kernel.table);
    kernel.top = 0;
    memcpy(kernel.rates, rates, sizeof kernel.rates);
    kernel.generator = mixed(seed + UINT64_C(0x9e3779b97f4a7c15));
    kernel.drawn = kernel.happened = kernel.calls = 0;
    kernel.idle = 0;
    kernel.limit = limit;
    kernel.skipped_count = count < MOST_SKIPPED ? count : MOST_SKIPPED;
    memcpy(kernel.skipped, skipped, (size_t)kernel.skipped_count * sizeof *skipped);
    kernel.now = INT64_C(1000000000000);
    kernel.hash = UINT64_C(0xcbf29ce484222325);
    kernel.verbose = verbose;
    kernel.text_length = 0;
    kernel.active = 1;
}

EXPORT void sim_rates(const uint32_t *rates) {
    memcpy(kernel.rates, rates, sizeof kernel.rates);
}

EXPORT void sim_end(void) {
    kernel.active = 0;
}

EXPORT void sim_note(const char *text) {
    record("%s", text);
}

EXPORT int64_t sim_now(void) { return kernel.now; }
EXPORT void sim_advance(int64_t by) { kernel.now += by; }
EXPORT uint64_t sim_hash(void) { return kernel.hash; }
EXPORT uint64_t sim_calls(void) { return kernel.calls; }
EXPORT uint64_t sim_drawn(void) { return kernel.drawn; }
EXPORT uint64_t sim_happened(void) { return kernel.happened; }
EXPORT const char *sim_text(void) { return kernel.text_length ? kernel.text : ""; }
