"""Source addresses of datagrams on sockets that are bound to the wildcard address.

Such a socket receives on each address of the host. A reply must be sent from the address to which the query was sent,
or the client drops it (RFC 1123 section 4.1.3.5). So the client's address carries the local one: it is the tuple that
asyncio would pass, with the same equality and hash, and `sendto` takes the local address from it.
"""

from typing import Any

__all__ = ["PeerAddress"]


class PeerAddress(tuple[Any, ...]):
    """The address of a peer, as the socket module shows it.

    `local` is the local address to which the datagram was sent, as text. If this object is passed to ``sendto``, the
    reply is sent from that address. For a plain tuple the kernel selects the source address.
    """

    local: str
    #: `local` as packed for the transport; internal.
    pktinfo: bytes
