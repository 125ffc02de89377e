"""C interface of the buffers of a batch: received datagrams, datagrams to send, and their control data.

recvmmsg fills `inputs`; `outgoing` are the datagrams to send, which `transmit` combines into messages.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from corenet.core.libc cimport iovec, mmsghdr, sockaddr_storage, socklen_t
from corenet.transports.address cimport PacketInfo

cdef enum:
    BATCH = 64
    SLOT = 65536
    # Not a power of two, or the starts of all 64 slots would share the same cache sets.
    STRIDE = 65536 + 320
    # One call may return this many datagrams, when the kernel has joined 128 in each of 64 slots.
    SEGMENTS = 8192
    CONTROL = 128

cdef struct Segment:
    # A received datagram that the native handler declined.
    uint32_t slot
    uint32_t offset
    uint32_t length

cdef struct OutgoingDatagram:
    # A datagram to send; its data is in the vector with the same index.
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
    OutgoingDatagram *outgoing
    uint8_t *run_lengths
    Segment *declined
    int declined_count
    int answered
    int dropped
    int used
    # Bytes of the last receive_into, and of all calls of transmit since `bytes_sent` was set to 0.
    size_t bytes_received
    size_t bytes_sent

cdef class BatchArena:
    cdef Batch batch
    cdef size_t mapped
    cdef size_t mapped_declined

cdef int receive_into(Batch *batch, int fd) noexcept nogil
cdef uint32_t read_control(Batch *batch, int slot) noexcept nogil
cdef size_t write_control(uint8_t *control, const PacketInfo *pktinfo, size_t segment) noexcept nogil
cdef ssize_t send_from(
    int fd, void *data, size_t size, sockaddr_storage *target, socklen_t length, const PacketInfo *pktinfo
) noexcept
cdef bint switch_on(int fd, int level, int option) noexcept
cdef bint is_on(int fd, int level, int option) noexcept
cdef bint is_wildcard_bound(int fd) noexcept
cdef int transmit(Batch *batch, int fd, int first, int count, size_t *gso_max_size) noexcept nogil
