# All C declarations of this package: datagrams in batches, the sockets' error queue, random numbers.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from posix.types cimport time_t

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    ctypedef unsigned short sa_family_t
    int AF_UNSPEC
    int AF_INET
    int AF_INET6
    int MSG_DONTWAIT
    int MSG_NOSIGNAL
    int MSG_ERRQUEUE
    int MSG_TRUNC
    struct sockaddr:
        sa_family_t sa_family
    struct sockaddr_storage:
        sa_family_t ss_family
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    struct timespec
    int connect(int fd, const sockaddr *addr, socklen_t addrlen)
    ssize_t recv(int fd, void *buf, size_t len, int flags)
    ssize_t sendto(int fd, const void *buf, size_t len, int flags, const sockaddr *addr, socklen_t addrlen)
    ssize_t recvmsg(int fd, msghdr *msg, int flags)
    int recvmmsg(int fd, mmsghdr *msgs, unsigned int count, int flags, timespec *timeout)
    cmsghdr *CMSG_FIRSTHDR(msghdr *msg)
    cmsghdr *CMSG_NXTHDR(msghdr *msg, cmsghdr *cmsg)
    unsigned char *CMSG_DATA(cmsghdr *cmsg)

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_IP
    int IPPROTO_IPV6
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        sa_family_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        sa_family_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    int IP_RECVERR
    int IPV6_RECVERR
    int IP_MTU_DISCOVER
    int IPV6_MTU_DISCOVER
    int IP_PMTUDISC_OMIT

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)
    int inet_pton(int family, const char *text, void *out)

cdef extern from "<linux/errqueue.h>" nogil:
    struct sock_extended_err:
        uint32_t ee_errno
        uint8_t ee_origin
    int SO_EE_ORIGIN_LOCAL
    int SO_EE_ORIGIN_ICMP
    int SO_EE_ORIGIN_ICMP6

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buf, size_t buflen, unsigned int flags)
