"""A native datagram handler for tests: it sends back what came.

Empty datagrams are dropped and those whose first byte is 0xFF are handed to Python, so that all three results of a
handler can be seen. Built with the checkout, loaded by tests/support/native.py.
"""

from corenet.core.libc cimport memcpy
from corenet.transports.datagram cimport Datagram, DatagramTransport


cdef int echo(void *ctx, const Datagram *inp, Datagram *out) noexcept nogil:
    if inp.length == 0 or inp.length > out.capacity:
        return 0
    if inp.data[0] == 0xFF:
        return -1
    memcpy(out.data, inp.data, inp.length)
    return <int>inp.length


def set_echo(transport: DatagramTransport) -> None:
    """Let `transport` send every datagram back without Python."""
    transport.set_native_handler(echo, NULL, None)
