"""A name server to forward to, with the same answer for nearly all names, to compare the policies of resolvers."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from resolver.wire import MessageView
from resolver.wire import consts as c

__all__ = ["ELSEWHERE", "LISTED", "forwarder"]

ELSEWHERE = bytes([203, 0, 113, 7])
LISTED = bytes([203, 0, 113, 8])


@contextmanager
def forwarder(elsewhere: bytes = ELSEWHERE, host: str = "127.0.0.1") -> Iterator[int]:
    """A server on a loopback address that answers each query for A with `elsewhere`, or with `LISTED` when the
    name begins with the label "listed", and other types with no data."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.bind((host, 0))

        def serve() -> None:
            while True:
                data, peer = channel.recvfrom(4096)
                if not data:
                    return
                query = MessageView.parse(data)
                assert query.qname is not None
                reply = bytearray(data[:12])
                reply[2:4] = b"\x81\x80"
                reply[6:12] = bytes(6)
                packet = bytes(reply) + query.qname + query.qtype.to_bytes(2, "big") + b"\0\1"
                if query.qtype == c.A:
                    packet = packet[:6] + b"\0\1" + packet[8:] + b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4"
                    packet += LISTED if query.qname.lower().startswith(b"\6listed") else elsewhere
                channel.sendto(packet, peer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield channel.getsockname()[1]
        channel.sendto(b"", channel.getsockname())
        thread.join(30)
