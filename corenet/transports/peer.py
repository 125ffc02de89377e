"""Where a datagram came from, for sockets that are bound to no address of their own.

Such a socket is reached at every address of the host, and a reply must leave from the one that was asked, or the asker
drops it (RFC 1123 section 4.1.3.5). The address of the asker therefore carries the other one along: it is the tuple
that asyncio would show, equal to it and hashed like it, and `sendto` finds in it where to send from.
"""

from typing import Any

__all__ = ["PeerAddress"]


class PeerAddress(tuple[Any, ...]):
    """The address of a peer, as the socket module shows it.

    `local` is the address of this host to which its datagram was sent, as text; give the object itself to ``sendto``
    and the answer leaves from there. A plain tuple leaves that to the kernel.
    """

    local: str
    #: The same packed for the transport; not for users.
    pktinfo: bytes
