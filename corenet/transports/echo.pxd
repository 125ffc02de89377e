"""C door of the echo handler: nothing but its function, for those who want to set it from C.

See `corenet.transports.echo` for what it answers, drops and declines.
"""

from corenet.transports.datagram cimport Datagram

cdef int echo(void *ctx, const Datagram *inp, Datagram *out) noexcept nogil
