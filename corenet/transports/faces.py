"""The classes that transports show as their ``__class__``.

asyncio's abstract transports have ``__slots__``, whose layout no Cython class can share, yet frameworks test with
``isinstance``. These classes are never instantiated: they stand in for the type in such tests and in messages.
"""

import asyncio

__all__ = ["DatagramTransport", "ReadPipeTransport", "StreamTransport", "WritePipeTransport"]


class StreamTransport(asyncio.transports._FlowControlMixin, asyncio.Transport):
    """A TCP or Unix stream; the mixin is what asyncio's sendfile fallback tests for."""


class DatagramTransport(asyncio.Transport, asyncio.DatagramTransport):
    """A datagram socket; asyncio's own is an instance of both classes too."""


class ReadPipeTransport(asyncio.ReadTransport):
    """The reading end of a pipe."""


class WritePipeTransport(asyncio.transports._FlowControlMixin, asyncio.WriteTransport):
    """The writing end of a pipe; by the mixin an asyncio.Transport too, as asyncio's own."""
