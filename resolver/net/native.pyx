"""The native handler that connects the fast path to corenet's datagram transports and lanes.

`fastpath` itself knows no transport and is tested without one. The handler gets a datagram and the time at which its
batch was read, writes a reply, and returns its length. The transport sends the replies of a batch together and passes
the remaining datagrams to Python as one list. One of 256 replies is timed, from the reading of its batch. `attach`
installs it in a transport, where it runs in the loop's thread; `open_lane` in a lane, where it runs in a thread of its
own, on a copy of the fast path.
"""

from libc.stdint cimport int64_t
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from corenet.transports.datagram cimport Datagram, DatagramTransport
from corenet.transports.lane cimport Lane
from resolver.net.clock_random cimport realtime_seconds
from resolver.net.cookies cimport ServerCookies
from resolver.net.fastpath cimport FastPath, FastState, fast_answer, note_time

cdef enum:
    NANOSECONDS = 1000000000
    UNTIMED = 255               # a mask: one of 256 is timed


cdef void time_reply(FastState *state, int64_t since) noexcept nogil:
    """Note the time since `since`, in nanoseconds of the real-time clock, if the reply is a cached answer."""
    cdef timespec now
    if state.left:
        clock_gettime(CLOCK_REALTIME, &now)
        note_time(state.counters, now.tv_sec * <int64_t>NANOSECONDS + now.tv_nsec - since)


cdef int on_datagram(void *context, const Datagram *inp, Datagram *out) noexcept nogil:
    cdef FastState *state = <FastState *>context
    cdef int size
    if state.observer is not NULL:
        state.observer.now = inp.now_ns
    size = fast_answer(state, inp.data, inp.length, inp.peer, inp.peer_length, inp.now_ns // NANOSECONDS, out.data,
                       out.capacity, False, 0)
    if not state.counters.received & UNTIMED:
        time_reply(state, inp.now_ns)
    return size


def attach(FastPath fast not None, transport):
    """Let `fast` answer the datagrams of `transport`; False when it is not a transport of corenet's loop."""
    if not isinstance(transport, DatagramTransport):
        return False
    (<DatagramTransport>transport).set_native_handler(on_datagram, &fast.state, fast)
    return True


def detach(transport):
    """Let all datagrams of `transport` reach Python again."""
    if isinstance(transport, DatagramTransport):
        (<DatagramTransport>transport).set_native_handler(NULL, NULL, None)


def open_lane(FastPath fast not None, transport):
    """A running lane in which a copy of `fast` answers the datagrams of `transport`, which stops receiving them.

    None when the transport is not one of corenet's loop.

    Raises:
        OSError: a descriptor cannot be had.
        RuntimeError: the system has no thread for it.
    """
    if not isinstance(transport, DatagramTransport):
        return None
    lane = Lane(transport)
    switch_lane(lane, fast)
    lane.start()
    transport.pause_reading()
    return lane


def switch_lane(Lane lane not None, FastPath fast not None):
    """Let a copy of `fast` answer in the lane."""
    cdef FastPath own = fast.for_lane()
    lane.set_native_handler(on_datagram, &own.state, own)


def refresh_lane(Lane lane not None):
    """Renew the secrets of server cookies in the lane when they have expired."""
    cdef int64_t now = realtime_seconds()
    cdef FastPath own = lane.keep_alive
    cdef ServerCookies cookies = own.server_cookies
    if cookies is None or cookies.state.since <= now < cookies.state.until:
        return
    lane.hold()
    try:
        cookies.refresh(now)
    finally:
        lane.release()
