"""Transports: streams, datagrams, listeners and pipes on the engine of `corenet.core`.

The loop makes them; this package exports the constructors that it uses and the types for annotations. The C interface
for native datagram handlers is ``corenet/transports/datagram.pxd``. Listeners, datagrams and pipes are loaded when
first used.
"""

from typing import TYPE_CHECKING

from corenet.core import lazy_exports
from corenet.transports.stream import ConnectionList, StreamTransport, make_stream

if TYPE_CHECKING:
    from corenet.transports.datagram import DatagramTransport, make_datagram
    from corenet.transports.listener import Listener
    from corenet.transports.options import SocketOptions
    from corenet.transports.peer import PeerAddress
    from corenet.transports.pipe import ReadPipeTransport, WritePipeTransport, make_read_pipe, make_write_pipe

__all__ = [
    "ConnectionList",
    "DatagramTransport",
    "Listener",
    "PeerAddress",
    "ReadPipeTransport",
    "SocketOptions",
    "StreamTransport",
    "WritePipeTransport",
    "make_datagram",
    "make_read_pipe",
    "make_stream",
    "make_write_pipe",
]

_DATAGRAM = "corenet.transports.datagram"
_PIPE = "corenet.transports.pipe"
_LAZY = {
    "DatagramTransport": _DATAGRAM,
    "Listener": "corenet.transports.listener",
    "PeerAddress": "corenet.transports.peer",
    "ReadPipeTransport": _PIPE,
    "SocketOptions": "corenet.transports.options",
    "WritePipeTransport": _PIPE,
    "make_datagram": _DATAGRAM,
    "make_read_pipe": _PIPE,
    "make_write_pipe": _PIPE,
}

__getattr__, __dir__ = lazy_exports(globals(), _LAZY)
