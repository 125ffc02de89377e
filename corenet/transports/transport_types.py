"""The classes that transports return as their ``__class__``, so that ``isinstance`` finds asyncio's abstract classes.

asyncio's abstract transports have ``__slots__``, so a Cython class cannot inherit from them, but frameworks test with
``isinstance``. These classes are never instantiated.
"""

import asyncio

__all__ = ["DatagramTransport", "ReadPipeTransport", "StreamTransport", "WritePipeTransport"]


class StreamTransport(asyncio.transports._FlowControlMixin, asyncio.Transport):
    """A TCP or Unix stream; asyncio's sendfile fallback tests for the mixin."""


class DatagramTransport(asyncio.Transport, asyncio.DatagramTransport):
    """A datagram socket; asyncio's own is an instance of both classes, too."""


class ReadPipeTransport(asyncio.ReadTransport):
    """The reading end of a pipe."""


class WritePipeTransport(asyncio.transports._FlowControlMixin, asyncio.WriteTransport):
    """The writing end of a pipe; through the mixin it is an asyncio.Transport, too, as asyncio's own is."""
