"""``resolverd --show-example``: checks whether root servers are reachable and shows one answer.

The query is sent to the daemon's own port, like those of clients. When no root server can be reached, the simulated
Internet of `resolver.playground` is used, and a line says so.
"""

import asyncio
import errno
import secrets
import time
from ipaddress import ip_address
from typing import Any

from resolver import limits
from resolver.daemon.sockets import Endpoint
from resolver.settings import Settings
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.errors import WireError
from resolver.wire.message import MessageView

__all__ = ["ask", "root_servers_reachable", "show_example"]

_IDS = 1 << 16


class _Query(asyncio.DatagramProtocol):
    """One query to several addresses; the first matching reply is the result."""

    def __init__(self, identity: int, reply: "asyncio.Future[MessageView]") -> None:
        self._identity = identity
        self._reply = reply

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        try:
            view = MessageView.parse(data)
        except WireError:
            return  # not a DNS message
        if view.qr and view.id == self._identity and not self._reply.done():
            self._reply.set_result(view)

    def error_received(self, exc: Exception) -> None:
        """Ignore unreachable addresses; others may answer."""


async def ask(servers: list[tuple[str, int]], qname: str, qtype: int, seconds: float) -> MessageView | None:
    """Send one query to each of `servers`; return the first reply, or None after `seconds` without one."""
    loop = asyncio.get_running_loop()
    reply: asyncio.Future[MessageView] = loop.create_future()
    identity = secrets.randbelow(_IDS)
    query = make_query(identity, names.from_text(qname), qtype)
    sent = 0
    transports = []
    try:
        for server in servers:
            try:
                transport, _ = await loop.create_datagram_endpoint(
                    lambda: _Query(identity, reply), remote_addr=server
                )
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    raise
                continue  # no route to this address
            transports.append(transport)
            transport.sendto(query)
            sent += 1
        if not sent:
            return None
        async with asyncio.timeout(seconds):
            return await reply
    except TimeoutError:
        return None
    finally:
        for transport in transports:
            transport.close()


async def root_servers_reachable(settings: Settings) -> bool:
    """Whether a root server answers within `limits.PROBE`."""
    port = settings.iteration.upstream_port
    hints = settings.root_hints[: limits.PROBE_SERVERS]
    servers = [(address, port) for hint in hints for address in hint.addresses]
    reply = await ask(servers, ".", c.NS, limits.PROBE / 1000)
    return reply is not None and reply.rcode == c.NOERROR


async def show_example(endpoint: Endpoint, qname: str, seconds: float) -> None:
    """Query the daemon for an address of `qname` and print the reply and a dig command to try."""
    from resolver.wire import present

    address = ip_address(endpoint.address)
    server = endpoint.address
    if address.is_unspecified:
        server = "127.0.0.1" if address.version == 4 else "::1"
    begun = time.monotonic()
    reply = await ask([(server, endpoint.port)], qname, c.A, seconds)
    took = (time.monotonic() - begun) * 1000
    if reply is None:
        print(f";; {qname} A: no answer in {seconds:g} s")
    else:
        print(present.message_to_text(reply).rstrip())
        print(f";; Query time: {took:.0f} ms, server {endpoint}")
    print(f"\nTry it: dig @{server} -p {endpoint.port} {qname.removesuffix('.')}", flush=True)
