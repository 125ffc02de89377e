"""The native handler that connects the fast path to corenet's datagram transport; `attach` installs it.

`fastpath` itself knows no transport and is tested without one. The handler gets a datagram and the time at which its
batch was read, writes a reply, and returns its length. The transport sends the replies of a batch together and passes
the remaining datagrams to Python as one list.
"""

from corenet.transports.datagram cimport Datagram, DatagramTransport
from resolver.net.fastpath cimport FastPath, FastState, fast_answer

cdef enum:
    NANOSECONDS = 1000000000


cdef int on_datagram(void *context, const Datagram *inp, Datagram *out) noexcept nogil:
    return fast_answer(<FastState *>context, inp.data, inp.length, inp.peer, inp.peer_length,
                       inp.now_ns // NANOSECONDS, out.data, out.capacity, False, 0)


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
