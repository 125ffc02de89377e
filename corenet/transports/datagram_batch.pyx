"""The buffers of one loop for one batch of datagrams in each direction, and the system calls on them.

Runs of datagrams of one size to one peer are sent as a single message that the kernel cuts (UDP_SEGMENT, udp(7)). What
the kernel has joined on receipt, where a user has set UDP_GRO, comes with its segment size and is cut here. A socket
bound to the wildcard address gets from IP_PKTINFO (ip(7)) or IPV6_PKTINFO (RFC 3542 section 6.1) the local address to
which a datagram was sent, and sends the answer from there. When the kernel or device refuses a run, its datagrams are
sent one by one.
"""

cimport cython
from cpython.exc cimport PyErr_NoMemory
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from corenet.core cimport libc as c
from corenet.core.libc cimport cmsghdr, errno, in6_pktinfo, in_pktinfo, iovec, mmsghdr, msghdr, sockaddr, sockaddr_in
from corenet.core.libc cimport sockaddr_in6, sockaddr_storage, socklen_t

from corenet.limits import DATAGRAM_BATCH, GSO_MAX_BYTES, GSO_MAX_SEGMENTS, DATAGRAM_SLOT_SIZE

if DATAGRAM_BATCH != BATCH or DATAGRAM_SLOT_SIZE != SLOT:
    raise ImportError("BATCH and SLOT in datagram_batch.pxd differ from corenet/limits.py; change both")

cdef int GSO_SEGMENTS = GSO_MAX_SEGMENTS
cdef size_t GSO_BYTES = GSO_MAX_BYTES


cdef uint8_t *mapped(size_t size) except NULL:
    """Map memory whose pages are allocated when they are first used."""
    cdef void *found = c.mmap(
        NULL, size, c.PROT_READ | c.PROT_WRITE, c.MAP_PRIVATE | c.MAP_ANONYMOUS | c.MAP_NORESERVE, -1, 0
    )
    if found == c.MAP_FAILED:
        PyErr_NoMemory()
    return <uint8_t *>found


cdef void *allocated(size_t size) except NULL:
    cdef void *found = PyMem_RawMalloc(size)
    if found == NULL:
        PyErr_NoMemory()
    c.memset(found, 0, size)
    return found


@cython.final
cdef class BatchArena:
    """The buffers of one loop; all its datagram transports use them in turn."""

    def __cinit__(self) -> None:
        cdef int i
        cdef Batch *batch = &self.batch
        self.mapped = <size_t>STRIDE * BATCH
        self.mapped_declined = <size_t>SEGMENTS * sizeof(Segment)
        batch.received = mapped(self.mapped)
        batch.replies = mapped(self.mapped)
        batch.declined = <Segment *>mapped(self.mapped_declined)
        batch.inputs = <mmsghdr *>allocated(BATCH * sizeof(mmsghdr))
        batch.outputs = <mmsghdr *>allocated(BATCH * sizeof(mmsghdr))
        batch.input_vectors = <iovec *>allocated(BATCH * sizeof(iovec))
        batch.output_vectors = <iovec *>allocated(BATCH * sizeof(iovec))
        batch.peers = <sockaddr_storage *>allocated(BATCH * sizeof(sockaddr_storage))
        batch.pktinfos = <PacketInfo *>allocated(BATCH * sizeof(PacketInfo))
        batch.input_controls = <uint8_t *>allocated(BATCH * CONTROL)
        batch.output_controls = <uint8_t *>allocated(BATCH * CONTROL)
        batch.outgoing = <OutgoingDatagram *>allocated(BATCH * sizeof(OutgoingDatagram))
        batch.run_lengths = <uint8_t *>allocated(BATCH)
        for i in range(BATCH):
            batch.input_vectors[i].iov_base = batch.received + <size_t>i * STRIDE
            batch.input_vectors[i].iov_len = SLOT
            batch.inputs[i].msg_hdr.msg_iov = &batch.input_vectors[i]
            batch.inputs[i].msg_hdr.msg_iovlen = 1
            batch.inputs[i].msg_hdr.msg_name = &batch.peers[i]
            batch.inputs[i].msg_hdr.msg_control = batch.input_controls + <size_t>i * CONTROL
        batch.used = BATCH

    def __dealloc__(self) -> None:
        cdef Batch *batch = &self.batch
        if batch.received != NULL:
            c.munmap(batch.received, self.mapped)
        if batch.replies != NULL:
            c.munmap(batch.replies, self.mapped)
        if batch.declined != NULL:
            c.munmap(batch.declined, self.mapped_declined)
        PyMem_RawFree(batch.inputs)
        PyMem_RawFree(batch.outputs)
        PyMem_RawFree(batch.input_vectors)
        PyMem_RawFree(batch.output_vectors)
        PyMem_RawFree(batch.peers)
        PyMem_RawFree(batch.pktinfos)
        PyMem_RawFree(batch.input_controls)
        PyMem_RawFree(batch.output_controls)
        PyMem_RawFree(batch.outgoing)
        PyMem_RawFree(batch.run_lengths)


# --- receiving ----------------------------------------------------------------------------------------------------


cdef int receive_into(Batch *batch, int fd) noexcept nogil:
    """Receive up to a batch; return the number of messages, or -errno."""
    cdef int i, count
    cdef msghdr *header
    # The last call has set the lengths of names and control data: reset them to the sizes of the buffers.
    for i in range(batch.used):
        header = &batch.inputs[i].msg_hdr
        header.msg_namelen = sizeof(sockaddr_storage)
        header.msg_controllen = CONTROL
    count = c.recvmmsg(fd, batch.inputs, BATCH, c.MSG_DONTWAIT, NULL)
    batch.used = max(count, 0)
    batch.bytes_received = 0
    for i in range(batch.used):
        batch.bytes_received += batch.inputs[i].msg_len
    return count if count >= 0 else -errno


cdef uint32_t read_control(Batch *batch, int slot) noexcept nogil:
    """Store the local address of a slot's datagrams; return the segment size at which to cut them, 0 for one."""
    cdef msghdr *header = &batch.inputs[slot].msg_hdr
    cdef PacketInfo *pktinfo = &batch.pktinfos[slot]
    cdef cmsghdr *entry
    cdef in_pktinfo v4
    cdef in6_pktinfo v6
    cdef int size
    cdef uint32_t segment = 0
    pktinfo.family = 0
    if header.msg_controllen == 0:
        return 0
    entry = c.CMSG_FIRSTHDR(header)
    while entry != NULL:
        if entry.cmsg_level == c.SOL_UDP and entry.cmsg_type == c.UDP_GRO:
            if entry.cmsg_len >= c.CMSG_LEN(sizeof(int)):
                c.memcpy(&size, c.CMSG_DATA(entry), sizeof(int))
                if size > 0:
                    segment = <uint32_t>size
        elif entry.cmsg_level == c.IPPROTO_IP and entry.cmsg_type == c.IP_PKTINFO:
            if entry.cmsg_len >= c.CMSG_LEN(sizeof(in_pktinfo)):
                c.memcpy(&v4, c.CMSG_DATA(entry), sizeof(in_pktinfo))
                # For a broadcast or multicast datagram ipi_spec_dst is the interface's own address.
                pktinfo.family = c.AF_INET
                c.memset(pktinfo.address, 0, 16)
                c.memcpy(pktinfo.address, &v4.ipi_spec_dst, 4)
        elif entry.cmsg_level == c.IPPROTO_IPV6 and entry.cmsg_type == c.IPV6_PKTINFO:
            if entry.cmsg_len >= c.CMSG_LEN(sizeof(in6_pktinfo)):
                c.memcpy(&v6, c.CMSG_DATA(entry), sizeof(in6_pktinfo))
                # A multicast address cannot be a source address (RFC 4291 section 2.7).
                if v6.ipi6_addr.s6_addr[0] != 0xFF:
                    pktinfo.family = c.AF_INET6
                    c.memcpy(pktinfo.address, &v6.ipi6_addr, 16)
        entry = c.CMSG_NXTHDR(header, entry)
    return segment


# --- sending ------------------------------------------------------------------------------------------------------


cdef inline size_t write_entry(cmsghdr *entry, int level, int kind, const void *data, size_t size) noexcept nogil:
    """Write one control message; return the offset of the next one."""
    entry.cmsg_level = level
    entry.cmsg_type = kind
    entry.cmsg_len = c.CMSG_LEN(size)
    c.memcpy(c.CMSG_DATA(entry), data, size)
    return c.CMSG_SPACE(size)


cdef size_t write_control(uint8_t *control, const PacketInfo *pktinfo, size_t segment) noexcept nogil:
    """Write the control data of a message into `control`, of CONTROL bytes; return its length."""
    cdef msghdr header
    cdef cmsghdr *entry
    cdef in_pktinfo v4
    cdef in6_pktinfo v6
    cdef uint16_t size = <uint16_t>segment
    cdef size_t length = 0
    c.memset(control, 0, CONTROL)
    c.memset(&header, 0, sizeof(msghdr))
    header.msg_control = control
    header.msg_controllen = CONTROL
    entry = c.CMSG_FIRSTHDR(&header)
    if pktinfo != NULL and pktinfo.family == c.AF_INET:
        # No interface: the routing table selects it.
        c.memset(&v4, 0, sizeof(in_pktinfo))
        c.memcpy(&v4.ipi_spec_dst, pktinfo.address, 4)
        length = write_entry(entry, c.IPPROTO_IP, c.IP_PKTINFO, &v4, sizeof(in_pktinfo))
        entry = <cmsghdr *>(control + length)
    elif pktinfo != NULL and pktinfo.family == c.AF_INET6:
        c.memset(&v6, 0, sizeof(in6_pktinfo))
        c.memcpy(&v6.ipi6_addr, pktinfo.address, 16)
        length = write_entry(entry, c.IPPROTO_IPV6, c.IPV6_PKTINFO, &v6, sizeof(in6_pktinfo))
        entry = <cmsghdr *>(control + length)
    if segment:
        length += write_entry(entry, c.SOL_UDP, c.UDP_SEGMENT, &size, sizeof(uint16_t))
    return length


cdef bint same_route(const OutgoingDatagram *one, const OutgoingDatagram *two) noexcept nogil:
    """Return whether two datagrams have the same destination and source address."""
    if one.peer_length != two.peer_length:
        return False
    if one.pktinfo != two.pktinfo:
        if one.pktinfo == NULL or two.pktinfo == NULL or c.memcmp(one.pktinfo, two.pktinfo, sizeof(PacketInfo)) != 0:
            return False
    return one.peer == two.peer or c.memcmp(one.peer, two.peer, one.peer_length) == 0


cdef int gso_run_length(Batch *batch, int first, int end) noexcept nogil:
    """Return how many datagrams from `first` on can be one message: equal sizes, a shorter last one, one peer."""
    cdef size_t size = batch.output_vectors[first].iov_len
    cdef size_t total = size
    cdef size_t length
    cdef int i = first + 1
    while i < end and i - first < GSO_SEGMENTS:
        length = batch.output_vectors[i].iov_len
        total += length
        if length > size or length == 0 or total > GSO_BYTES:
            break
        if not same_route(&batch.outgoing[first], &batch.outgoing[i]):
            break
        i += 1
        if length < size:
            break
    return i - first


cdef bint is_gso_error(int number) noexcept nogil:
    """Return whether a run may fail with this errno although its datagrams could be sent one by one."""
    return (
        number == c.EINVAL or number == c.EMSGSIZE or number == c.EIO or number == c.EOPNOTSUPP
        or number == c.ENOPROTOOPT
    )


cdef int transmit(Batch *batch, int fd, int first, int count, size_t *gso_max_size) noexcept nogil:
    """Send `count` datagrams from index `first` on; return how many the kernel accepted, or -errno when none.

    `gso_max_size` is the largest datagram that may be in a run, 0 for none; it is reduced when the kernel refuses a
    run.
    """
    cdef int end = first + count
    cdef int messages = 0
    cdef int at = first
    cdef int run, sent, i, refusal
    cdef int taken = 0
    cdef size_t size
    cdef msghdr *header
    cdef OutgoingDatagram *datagram
    while at < end:
        datagram = &batch.outgoing[at]
        header = &batch.outputs[messages].msg_hdr
        size = batch.output_vectors[at].iov_len
        run = 1
        if size and size <= gso_max_size[0] and at + 1 < end:
            run = gso_run_length(batch, at, end)
        header.msg_name = <void *>datagram.peer
        header.msg_namelen = datagram.peer_length
        header.msg_iov = &batch.output_vectors[at]
        header.msg_iovlen = run
        if run > 1 or datagram.pktinfo != NULL:
            header.msg_control = batch.output_controls + <size_t>messages * CONTROL
            header.msg_controllen = write_control(
                <uint8_t *>header.msg_control, datagram.pktinfo, size if run > 1 else 0
            )
        else:
            header.msg_control = NULL
            header.msg_controllen = 0
        batch.run_lengths[messages] = <uint8_t>run
        messages += 1
        at += run
    sent = c.sendmmsg(fd, batch.outputs, messages, c.MSG_DONTWAIT | c.MSG_NOSIGNAL)
    if sent >= 0:
        for i in range(sent):
            taken += batch.run_lengths[i]
            # The bytes of each message that the kernel accepted.
            batch.bytes_sent += batch.outputs[i].msg_len
        return taken
    refusal = errno
    if batch.run_lengths[0] == 1 or not is_gso_error(refusal):
        return -refusal
    # Send the first datagram alone. If that works, only the run was refused: its size is over the path MTU, or the
    # device cannot segment.
    header = &batch.outputs[0].msg_hdr
    header.msg_iovlen = 1
    header.msg_controllen = 0
    if batch.outgoing[first].pktinfo != NULL:
        header.msg_controllen = write_control(<uint8_t *>header.msg_control, batch.outgoing[first].pktinfo, 0)
    if c.c_sendmsg(fd, header, c.MSG_DONTWAIT | c.MSG_NOSIGNAL) < 0:
        return -errno
    size = batch.output_vectors[first].iov_len
    batch.bytes_sent += size
    gso_max_size[0] = size - 1 if refusal == c.EINVAL or refusal == c.EMSGSIZE else 0
    return 1


cdef ssize_t send_from(
    int fd, void *data, size_t size, sockaddr_storage *target, socklen_t length, const PacketInfo *pktinfo
) noexcept:
    """Like sendto(2), but from a given local address."""
    cdef msghdr header
    cdef iovec vector
    cdef uint8_t control[CONTROL]
    c.memset(&header, 0, sizeof(msghdr))
    vector.iov_base = data
    vector.iov_len = size
    header.msg_iov = &vector
    header.msg_iovlen = 1
    header.msg_name = target
    header.msg_namelen = length
    header.msg_control = control
    header.msg_controllen = write_control(control, pktinfo, 0)
    return c.c_sendmsg(fd, &header, c.MSG_DONTWAIT | c.MSG_NOSIGNAL)


# --- the socket ---------------------------------------------------------------------------------------------------


cdef bint switch_on(int fd, int level, int option) noexcept:
    """Set an option to 1; return False when the kernel refuses it."""
    cdef int one = 1
    return c.setsockopt(fd, level, option, &one, sizeof(int)) == 0


cdef bint is_on(int fd, int level, int option) noexcept:
    """Return whether an option is set."""
    cdef int value = 0
    cdef socklen_t size = sizeof(int)
    return c.getsockopt(fd, level, option, &value, &size) == 0 and value != 0


cdef bint is_wildcard_bound(int fd) noexcept:
    """Return whether the socket is bound to a port and the wildcard address."""
    cdef sockaddr_storage address
    cdef socklen_t length = sizeof(address)
    cdef uint8_t nothing[16]
    c.memset(nothing, 0, 16)
    if c.getsockname(fd, <sockaddr *>&address, &length) < 0:
        return False
    if address.ss_family == c.AF_INET:
        return (<sockaddr_in *>&address).sin_port != 0 and (<sockaddr_in *>&address).sin_addr.s_addr == 0
    if address.ss_family == c.AF_INET6:
        return (
            (<sockaddr_in6 *>&address).sin6_port != 0
            and c.memcmp(&(<sockaddr_in6 *>&address).sin6_addr, nothing, 16) == 0
        )
    return False
