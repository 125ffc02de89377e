"""C door of the buffers of a batch: what was received, what is to be sent, and the control data beside both.

`inputs` are filled by recvmmsg; `pieces` are the datagrams to send, which `transmit` makes into messages.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from corenet.core.libc cimport iovec, mmsghdr, msghdr, sockaddr_storage, socklen_t

cdef enum:
    BATCH = 64
    SLOT = 65536
    # Slots a page apart from a power of two, or all 64 would fight for the same lines of the cache.
    STRIDE = 65536 + 320
    # One call may bring this many datagrams, when the kernel has joined 128 in each of 64 slots.
    SEGMENTS = 8192
    CONTROL = 128

cdef struct PacketInfo:
    # The local address to which a datagram came; family 0: not known.
    int family
    uint8_t address[16]

cdef struct Segment:
    # A received datagram that the native handler left over.
    uint32_t slot
    uint32_t offset
    uint32_t length

cdef struct OutgoingDatagram:
    # A datagram to send: its data are in the vector of the same number.
    const sockaddr_storage *peer
    socklen_t peer_length
    const PacketInfo *pktinfo

cdef struct Batch:
    uint8_t *received
    uint8_t *replies
    mmsghdr *inputs
    mmsghdr *outputs
    iovec *input_vectors
    iovec *output_vectors
    sockaddr_storage *peers
    PacketInfo *pktinfos
    uint8_t *input_controls
    uint8_t *output_controls
    OutgoingDatagram *pieces
    uint8_t *run_lengths
    Segment *declined
    int declined_count
    int answered
    int dropped
    int used
    # Of the last receive_into, and of all calls of transmit since it was set to 0.
    size_t bytes_received
    size_t bytes_sent

cdef class BatchArena:
    cdef Batch batch
    cdef size_t mapped
    cdef size_t mapped_declined

cdef int receive_into(Batch *batch, int fd) noexcept nogil
cdef uint32_t read_control(Batch *batch, int slot) noexcept nogil
cdef size_t write_control(uint8_t *room, const PacketInfo *pktinfo, size_t segment) noexcept nogil
cdef ssize_t send_from(
    int fd, void *data, size_t size, sockaddr_storage *target, socklen_t length, const PacketInfo *pktinfo
) noexcept
cdef bint switch_on(int fd, int level, int option) noexcept
cdef bint is_on(int fd, int level, int option) noexcept
cdef bint is_wildcard_bound(int fd) noexcept
cdef int transmit(Batch *batch, int fd, int first, int count, size_t *gso_max_size) noexcept nogil
