"""C declarations of the package: Linux system calls and the C API calls that several modules need.

Rule: no other file of the loop includes C headers except ``Python.h``, so that all system calls are listed in one
place. They have the C names of ``syscalls.h``: plain calls in a release build, calls through a table in a debug build.
Structures list only the fields that are used; Cython takes sizes from the C headers.
"""

from cpython.object cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef CORENET_DEBUG
    #define CORENET_DEBUG 0
    #endif
    """
    const bint DEBUG_BUILD "CORENET_DEBUG"

cdef extern from "corenet/core/syscalls.h" nogil:
    pass

cdef extern from "<errno.h>" nogil:
    int errno
    const int EAGAIN, EINTR, EEXIST, ENOENT, EBADF, EPERM, EINVAL, ENOSYS, EINPROGRESS, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC
    const int ECONNABORTED, ECONNREFUSED, EPIPE, EMSGSIZE, ENOTCONN, EIO, EOPNOTSUPP, ENOPROTOOPT

# --- memory -------------------------------------------------------------------------------------------------------

cdef extern from "<sys/mman.h>" nogil:
    const int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE
    void *MAP_FAILED
    void *mmap "corenet_sys_mmap"(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)

cdef extern from "<string.h>" nogil:
    void *memcpy(void *to, const void *source, size_t n)
    void *memmove(void *to, const void *source, size_t n)
    void *memset(void *to, int c, size_t n)
    int memcmp(const void *a, const void *b, size_t n)
    size_t strnlen(const char *s, size_t limit)
    void *memchr(const void *data, int c, size_t n)
    void *memmem(const void *data, size_t n, const void *needle, size_t length)

cdef inline Py_ssize_t find_bytes(const uint8_t *data, Py_ssize_t n, const uint8_t *needle, Py_ssize_t length) noexcept nogil:
    """Return the offset of the `length` (at least 1) bytes of `needle` in the `n` bytes of `data`, or -1."""
    cdef const uint8_t *hit
    if n < length:
        return -1
    if length == 1:
        hit = <const uint8_t *>memchr(data, needle[0], n)
    else:
        hit = <const uint8_t *>memmem(data, n, needle, length)
    return -1 if hit == NULL else hit - data

# --- time ---------------------------------------------------------------------------------------------------------

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    const int CLOCK_MONOTONIC, CLOCK_REALTIME
    int clock_gettime "corenet_sys_clock_gettime"(int clock, timespec *now)

cdef inline int64_t clock_ns(int clock) noexcept nogil:
    """Nanoseconds of `clock`; the clocks used here cannot fail."""
    cdef timespec now
    clock_gettime(clock, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec

# --- descriptors --------------------------------------------------------------------------------------------------

cdef extern from "<unistd.h>" nogil:
    ssize_t c_read "corenet_sys_read"(int fd, void *data, size_t length)
    ssize_t c_write "corenet_sys_write"(int fd, const void *data, size_t length)
    int c_close "corenet_sys_close"(int fd)
    int dup3 "corenet_sys_dup3"(int old, int new, int flags)

    # The real kernel always, and not by `write`: it is asked whether memory can be read, which the address sanitizer's
    # `write` would refuse to pass on.
    long probing_call "syscall"(long number, ...)

cdef extern from "<sys/syscall.h>" nogil:
    const long SYS_write

cdef extern from "<fcntl.h>" nogil:
    const int O_CLOEXEC

cdef extern from "<dlfcn.h>" nogil:
    const int RTLD_LAZY, RTLD_NOLOAD
    void *dlopen(const char *path, int flags)
    void *dlsym(void *handle, const char *name)

cdef extern from "<sys/eventfd.h>" nogil:
    const int EFD_CLOEXEC, EFD_NONBLOCK
    int eventfd "corenet_sys_eventfd"(unsigned int value, int flags)

cdef extern from "<sys/epoll.h>" nogil:
    const uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLLET, EPOLLONESHOT, EPOLLEXCLUSIVE
    const int EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    ctypedef union epoll_data_t:
        void *ptr
        int fd
        uint32_t u32
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1 "corenet_sys_epoll_create1"(int flags)
    int epoll_ctl "corenet_sys_epoll_ctl"(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait "corenet_sys_epoll_wait"(int epfd, epoll_event *events, int maximum, int timeout_ms)
    int epoll_pwait2 "corenet_sys_epoll_pwait2"(int epfd, epoll_event *events, int maximum, const timespec *limit)

# --- sockets ------------------------------------------------------------------------------------------------------

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t writev "corenet_sys_writev"(int fd, const iovec *vector, int count)

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    ctypedef uint16_t sa_family_t
    cdef struct sockaddr:
        sa_family_t sa_family
    cdef struct sockaddr_storage:
        sa_family_t ss_family
    cdef struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    const int AF_UNSPEC, AF_INET, AF_INET6, AF_UNIX, SOCK_NONBLOCK, SOCK_CLOEXEC, SOCK_STREAM, SOCK_DGRAM
    const int MSG_DONTWAIT, MSG_NOSIGNAL, MSG_MORE, MSG_PEEK, MSG_TRUNC, SHUT_WR, SOL_SOCKET, SO_ERROR, SO_TYPE, SO_PROTOCOL
    ssize_t c_recv "corenet_sys_recv"(int fd, void *data, size_t length, int flags)
    ssize_t c_recvfrom "corenet_sys_recvfrom"(int fd, void *data, size_t length, int flags, sockaddr *source, socklen_t *source_length)
    ssize_t c_send "corenet_sys_send"(int fd, const void *data, size_t length, int flags)
    ssize_t c_sendto "corenet_sys_sendto"(int fd, const void *data, size_t length, int flags, const sockaddr *to, socklen_t to_length)
    ssize_t c_sendmsg "corenet_sys_sendmsg"(int fd, const msghdr *message, int flags)
    int recvmmsg "corenet_sys_recvmmsg"(int fd, mmsghdr *messages, unsigned int count, int flags, timespec *timeout)
    int sendmmsg "corenet_sys_sendmmsg"(int fd, mmsghdr *messages, unsigned int count, int flags)
    int accept4 "corenet_sys_accept4"(int fd, sockaddr *peer, socklen_t *peer_length, int flags)
    int c_shutdown "corenet_sys_shutdown"(int fd, int how)
    int getsockname "corenet_sys_getsockname"(int fd, sockaddr *address, socklen_t *length)
    int getpeername "corenet_sys_getpeername"(int fd, sockaddr *address, socklen_t *length)
    int getsockopt "corenet_sys_getsockopt"(int fd, int level, int option, void *value, socklen_t *length)
    int setsockopt "corenet_sys_setsockopt"(int fd, int level, int option, const void *value, socklen_t length)
    cdef struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    cmsghdr *CMSG_NXTHDR(msghdr *message, cmsghdr *before)
    unsigned char *CMSG_DATA(cmsghdr *header)
    size_t CMSG_LEN(size_t length)
    size_t CMSG_SPACE(size_t length)

cdef extern from *:
    """
    #include <netinet/udp.h>
    #ifndef SOL_UDP
    #define SOL_UDP 17
    #endif
    #ifndef UDP_SEGMENT
    #define UDP_SEGMENT 103
    #endif
    #ifndef UDP_GRO
    #define UDP_GRO 104
    #endif
    """
    const int SOL_UDP, UDP_SEGMENT, UDP_GRO

cdef extern from "<netinet/in.h>" nogil:
    const int IPPROTO_TCP, IPPROTO_IP, IPPROTO_IPV6, IP_PKTINFO, IPV6_PKTINFO, IPV6_RECVPKTINFO
    const int IP_TRANSPARENT, IPV6_TRANSPARENT
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct in6_addr:
        uint8_t s6_addr[16]
    cdef struct sockaddr_in:
        sa_family_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        sa_family_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    cdef struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
        in_addr ipi_addr
    cdef struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)
    uint32_t htonl(uint32_t value)
    uint32_t ntohl(uint32_t value)

cdef extern from "<netinet/tcp.h>" nogil:
    const int TCP_NODELAY, TCP_CORK

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int family, const void *source, char *text, socklen_t size)
    int inet_pton(int family, const char *text, void *target)

cdef extern from "<sys/un.h>" nogil:
    cdef struct sockaddr_un:
        sa_family_t sun_family
        char sun_path[108]

cdef extern from "<linux/netlink.h>" nogil:
    const int AF_NETLINK
    cdef struct sockaddr_nl:
        sa_family_t nl_family
        uint32_t nl_pid
        uint32_t nl_groups

cdef extern from "<linux/vm_sockets.h>" nogil:
    const int AF_VSOCK
    cdef struct sockaddr_vm:
        sa_family_t svm_family
        unsigned int svm_port
        unsigned int svm_cid

# --- threads ------------------------------------------------------------------------------------------------------

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)

# --- the interpreter ----------------------------------------------------------------------------------------------

cdef extern from "Python.h":
    """
    #if defined(Py_GIL_DISABLED)
    #define corenet_sole_owner(object) 0
    #elif PY_VERSION_HEX >= 0x030E0000
    #define corenet_sole_owner(object) PyUnstable_Object_IsUniquelyReferenced(object)
    #else
    #define corenet_sole_owner(object) (Py_REFCNT(object) == 1)
    #endif

    #define corenet_tuple_items(items) (((PyTupleObject *)(items))->ob_item)

    static inline int corenet_peek_bytes(PyObject *object, int writable, char **data, Py_ssize_t *length) {
        if (PyMemoryView_Check(object)) {
            PyMemoryViewObject *view = (PyMemoryViewObject *)object;
            if (view->flags & _Py_MEMORYVIEW_RELEASED || view->mbuf->flags & _Py_MANAGED_BUFFER_RELEASED ||
                !(view->flags & _Py_MEMORYVIEW_C) || (writable && view->view.readonly))
                return 0;
            *data = (char *)view->view.buf;
            *length = view->view.len;
            return 1;
        }
        if (PyByteArray_CheckExact(object)) {
            *data = PyByteArray_AS_STRING(object);
            *length = PyByteArray_GET_SIZE(object);
            return 1;
        }
        return 0;
    }
    """
    # Whether the caller's reference is the only one, so that no other code can see a change of the object.
    bint sole_owner "corenet_sole_owner"(PyObject *object) noexcept
    # For a bytes object that no other code has seen: it may be filled and resized through its pointer.
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t size) except NULL
    char *bytes_data "PyBytes_AS_STRING"(PyObject *object) noexcept
    Py_ssize_t bytes_size "PyBytes_GET_SIZE"(PyObject *object) noexcept
    int _PyBytes_Resize(PyObject **object, Py_ssize_t size) except -1
    # Sets pointer and length of a memoryview's or bytearray's bytes, valid until Python code runs; False for others.
    bint peek_bytes "corenet_peek_bytes"(object thing, bint writable, char **data, Py_ssize_t *length) noexcept
    PyObject **tuple_items "corenet_tuple_items"(object items)
    object PyContext_CopyCurrent()
    object PyContext_Copy(object context)
    int PyContext_Enter(object context)
    int PyContext_Exit(object context)
    # Both return a new reference, or NULL with an exception set, which the caller checks.
    PyObject *PyObject_Vectorcall(object callable, PyObject **arguments, size_t count, PyObject *names)
    PyObject *PyObject_VectorcallMethod(object name, PyObject **arguments, size_t count, PyObject *names)
    int PyErr_CheckSignals() except -1
    object PyErr_SetFromErrno(PyObject *kind)
    PyObject *PyExc_OSError
    unsigned long PyThread_get_thread_ident() nogil

cdef inline int propagate() except -1:
    """Raise the exception that a C call has set, so that an ``except`` clause can catch it."""
    return -1
