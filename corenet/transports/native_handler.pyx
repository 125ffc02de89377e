"""Receives a batch of datagrams, calls the native handler for each, and sends the replies, without the GIL.

Rule: nothing here uses Python objects. A declined datagram is recorded with its offset in the batch's memory, and the
transport makes an object of it when it has the GIL again. Datagrams that the kernel had joined are passed one by one.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from corenet.core cimport libc as c
from corenet.core.libc cimport sockaddr
from corenet.transports.datagram_batch cimport BATCH, SEGMENTS, SLOT, STRIDE, Batch, Segment, read_control, receive_into, transmit


cdef void send_replies(NativeHandlerState *native_state, int fd, Batch *batch, int count) noexcept nogil:
    """Send the replies of the handler and count those that the kernel accepted."""
    cdef int done = 0
    cdef int sent
    while done < count:
        sent = transmit(batch, fd, done, count - done, &native_state.gso_max_size)
        if sent > 0:
            done += sent
            batch.answered += sent
            continue
        if sent == -c.EINTR:
            continue
        if sent == -c.EAGAIN or sent == -c.ENOBUFS:
            # Dropped, because the client retries, and a queue of replies would prolong the overload.
            batch.dropped += count - done
            return
        # The error belongs to this reply, or to an earlier one (an ICMP error): continue with the next.
        batch.dropped += 1
        done += 1


cdef void answer_one(
    NativeHandlerState *native_state, int fd, Batch *batch, int slot, Datagram *incoming, Datagram *outgoing, int *replies
) noexcept nogil:
    """Call the handler for one datagram and queue its reply, record the datagram as declined, or drop it."""
    cdef int number = replies[0]
    cdef int result
    cdef Segment *declined
    outgoing.data = batch.replies + <size_t>number * STRIDE
    outgoing.length = 0
    result = native_state.handler(native_state.context, incoming, outgoing)
    if result < 0:
        if batch.declined_count == SEGMENTS:
            batch.dropped += 1
            return
        declined = &batch.declined[batch.declined_count]
        declined.slot = slot
        declined.offset = <uint32_t>(incoming.data - <uint8_t *>batch.input_vectors[slot].iov_base)
        declined.length = <uint32_t>incoming.length
        batch.declined_count += 1
        return
    if result == 0 or result > SLOT:
        batch.dropped += 1
        return
    batch.output_vectors[number].iov_base = outgoing.data
    batch.output_vectors[number].iov_len = result
    batch.outgoing[number].peer = NULL if native_state.connected else &batch.peers[slot]
    batch.outgoing[number].peer_length = 0 if native_state.connected else incoming.peer_length
    batch.outgoing[number].pktinfo = (
        &batch.pktinfos[slot] if native_state.wildcard_bound and batch.pktinfos[slot].family else NULL
    )
    number += 1
    if number == BATCH:
        send_replies(native_state, fd, batch, number)
        number = 0
    replies[0] = number


cdef int run_native_batch(NativeHandlerState *native_state, int fd, Batch *batch) noexcept nogil:
    """Receive a batch, answer it and send the replies; return the number of messages received, or -errno."""
    cdef Datagram incoming, outgoing
    cdef int count, i
    cdef int replies = 0
    cdef uint8_t *end
    cdef uint32_t segment
    batch.answered = batch.dropped = batch.declined_count = 0
    count = receive_into(batch, fd)
    if count < 0:
        return count
    incoming.now_ns = c.clock_ns(c.CLOCK_REALTIME)
    incoming.capacity = SLOT
    outgoing.now_ns = incoming.now_ns
    outgoing.capacity = SLOT
    for i in range(count):
        segment = read_control(batch, i)
        incoming.data = <uint8_t *>batch.input_vectors[i].iov_base
        incoming.peer = <const sockaddr *>&batch.peers[i]
        incoming.peer_length = batch.inputs[i].msg_hdr.msg_namelen
        outgoing.peer = incoming.peer
        outgoing.peer_length = incoming.peer_length
        incoming.length = batch.inputs[i].msg_len
        if segment == 0 or incoming.length <= segment:
            answer_one(native_state, fd, batch, i, &incoming, &outgoing, &replies)
            continue
        end = incoming.data + incoming.length
        while incoming.data < end:
            incoming.length = min(<size_t>segment, <size_t>(end - incoming.data))
            answer_one(native_state, fd, batch, i, &incoming, &outgoing, &replies)
            incoming.data += incoming.length
    if replies:
        send_replies(native_state, fd, batch, replies)
    return count
