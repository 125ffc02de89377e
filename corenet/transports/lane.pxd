"""C interface of lanes: a thread that answers the datagrams of one socket with a native handler, without the GIL."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from corenet.core.libc cimport pthread_mutex_t, sockaddr_storage, socklen_t
from corenet.transports.address cimport PacketInfo
from corenet.transports.datagram_batch cimport Batch, BatchArena
from corenet.transports.native_handler cimport NativeHandlerState, native_handler

# A declined datagram in the buffer; its data follows, padded to a multiple of eight bytes.
cdef struct Declined:
    uint32_t length
    socklen_t peer_length
    PacketInfo pktinfo
    sockaddr_storage peer

cdef struct LaneCounters:
    uint64_t answered
    uint64_t dropped            # by the handler, or not accepted by the kernel
    uint64_t declined           # passed to the loop
    uint64_t overflowed         # declined, but dropped, because the buffer was full
    uint64_t errors             # of receiving

cdef struct LaneState:
    int fd                      # a duplicate of the transport's descriptor
    int stop_fd
    int wake_fd
    int poll_fd                 # epoll of `fd` and `stop_fd`
    int stop_poll_fd            # epoll of `stop_fd`
    # Held by the thread for a batch, and by the loop while it changes `native_state` or what its context points to.
    pthread_mutex_t work
    # Held while `work` is waited for, so that the thread cannot take `work` again before the loop has had it.
    pthread_mutex_t turn
    NativeHandlerState native_state
    LaneCounters counters
    Batch *batch
    # Guards `filling` and `filled`.
    pthread_mutex_t exchange
    uint8_t *filling
    size_t filled
    size_t capacity

cdef class Lane:
    cdef LaneState state
    cdef BatchArena arena
    cdef object keep_alive
    cdef object thread
    cdef int process            # the process that has the thread
    cdef uint8_t *draining
    cdef size_t drained         # offset of the next declined datagram in `draining`
    cdef size_t drain_end

    cdef int hold(self) except -1
    cdef void release(self) noexcept
    cdef int close_descriptors(self) noexcept
    cdef int set_native_handler(self, native_handler fn, void *ctx, object keep_alive) except -1
