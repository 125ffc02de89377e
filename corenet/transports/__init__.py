"""Transports: streams, datagrams, listeners and pipes on the engine of `corenet.core`.

They are made by the loop; what stands here are the constructors it uses and the types for annotations. The C door
for native datagram handlers is ``corenet/transports/datagram.pxd``.
"""

from corenet.transports.datagram import DatagramTransport, make_datagram
from corenet.transports.listener import Listener
from corenet.transports.options import SocketOptions
from corenet.transports.peer import PeerAddress
from corenet.transports.pipe import ReadPipeTransport, WritePipeTransport, make_read_pipe, make_write_pipe
from corenet.transports.stream import Roster, StreamTransport, make_stream

__all__ = [
    "DatagramTransport",
    "Listener",
    "PeerAddress",
    "ReadPipeTransport",
    "Roster",
    "SocketOptions",
    "StreamTransport",
    "WritePipeTransport",
    "make_datagram",
    "make_read_pipe",
    "make_stream",
    "make_write_pipe",
]
