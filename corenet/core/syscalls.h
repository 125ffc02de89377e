/* The list of the engine's system calls. In a release build each is a plain call. In a debug build each goes through a
   table of function pointers, so that a simulated kernel can answer instead (docs/simulation.md).

   There is one table per process: the global symbol `corenet_system_calls` of a shared object that was loaded with
   RTLD_GLOBAL before the first call. Without it the real calls are made. Nothing else in the engine refers to it. */

#ifndef CORENET_SYSCALLS_H
#define CORENET_SYSCALLS_H

#include <dlfcn.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* glibc has epoll_pwait2 only from 2.35 on. */
static inline int corenet_epoll_pwait2(int epfd, struct epoll_event *events, int maximum, const struct timespec *limit) {
    return (int)syscall(441, epfd, events, maximum, limit, NULL, 0);
}

/* CALL(type of the result, name, function of the real call, parameters, arguments) */
#define CORENET_SYSTEM_CALLS(CALL) \
    CALL(ssize_t, read, read, (int fd, void *data, size_t length), (fd, data, length)) \
    CALL(ssize_t, write, write, (int fd, const void *data, size_t length), (fd, data, length)) \
    CALL(ssize_t, writev, writev, (int fd, const struct iovec *vector, int count), (fd, vector, count)) \
    CALL(int, close, close, (int fd), (fd)) \
    CALL(int, dup3, dup3, (int old, int fresh, int flags), (old, fresh, flags)) \
    CALL(int, eventfd, eventfd, (unsigned int value, int flags), (value, flags)) \
    CALL(int, epoll_create1, epoll_create1, (int flags), (flags)) \
    CALL(int, epoll_ctl, epoll_ctl, (int epfd, int op, int fd, struct epoll_event *event), (epfd, op, fd, event)) \
    CALL(int, epoll_wait, epoll_wait, (int epfd, struct epoll_event *events, int maximum, int timeout_ms), \
         (epfd, events, maximum, timeout_ms)) \
    CALL(int, epoll_pwait2, corenet_epoll_pwait2, \
         (int epfd, struct epoll_event *events, int maximum, const struct timespec *limit), \
         (epfd, events, maximum, limit)) \
    CALL(ssize_t, recv, recv, (int fd, void *data, size_t length, int flags), (fd, data, length, flags)) \
    CALL(ssize_t, recvfrom, recvfrom, \
         (int fd, void *data, size_t length, int flags, struct sockaddr *source, socklen_t *source_length), \
         (fd, data, length, flags, source, source_length)) \
    CALL(ssize_t, send, send, (int fd, const void *data, size_t length, int flags), (fd, data, length, flags)) \
    CALL(ssize_t, sendto, sendto, \
         (int fd, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t to_length), \
         (fd, data, length, flags, to, to_length)) \
    CALL(ssize_t, sendmsg, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags)) \
    CALL(int, recvmmsg, recvmmsg, \
         (int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout), \
         (fd, messages, count, flags, timeout)) \
    CALL(int, sendmmsg, sendmmsg, (int fd, struct mmsghdr *messages, unsigned int count, int flags), \
         (fd, messages, count, flags)) \
    CALL(int, accept4, accept4, (int fd, struct sockaddr *peer, socklen_t *peer_length, int flags), \
         (fd, peer, peer_length, flags)) \
    CALL(int, shutdown, shutdown, (int fd, int how), (fd, how)) \
    CALL(int, getsockname, getsockname, (int fd, struct sockaddr *address, socklen_t *length), (fd, address, length)) \
    CALL(int, getpeername, getpeername, (int fd, struct sockaddr *address, socklen_t *length), (fd, address, length)) \
    CALL(int, getsockopt, getsockopt, (int fd, int level, int option, void *value, socklen_t *length), \
         (fd, level, option, value, length)) \
    CALL(int, setsockopt, setsockopt, (int fd, int level, int option, const void *value, socklen_t length), \
         (fd, level, option, value, length)) \
    CALL(void *, mmap, mmap, (void *address, size_t length, int protection, int flags, int fd, off_t offset), \
         (address, length, protection, flags, fd, offset)) \
    CALL(int, clock_gettime, clock_gettime, (clockid_t clock, struct timespec *now), (clock, now))

#define CORENET_TABLE_ENTRY(type, name, real, parameters, arguments) type (*name) parameters;
struct corenet_system_calls {
    CORENET_SYSTEM_CALLS(CORENET_TABLE_ENTRY)
};
#undef CORENET_TABLE_ENTRY

#if CORENET_DEBUG

#define CORENET_REAL_CALL(type, name, real, parameters, arguments) real,
static const struct corenet_system_calls corenet_real_calls = {CORENET_SYSTEM_CALLS(CORENET_REAL_CALL)};
#undef CORENET_REAL_CALL

static inline const struct corenet_system_calls *corenet_calls(void) {
    static const struct corenet_system_calls *calls;
    if (calls == NULL) {
        calls = (const struct corenet_system_calls *)dlsym(RTLD_DEFAULT, "corenet_system_calls");
        if (calls == NULL)
            calls = &corenet_real_calls;
    }
    return calls;
}

#define CORENET_CALL(type, name, real, parameters, arguments) \
    static inline type corenet_sys_##name parameters { return corenet_calls()->name arguments; }
#else
#define CORENET_CALL(type, name, real, parameters, arguments) \
    static inline __attribute__((always_inline)) type corenet_sys_##name parameters { return real arguments; }
#endif
CORENET_SYSTEM_CALLS(CORENET_CALL)
#undef CORENET_CALL

#endif
