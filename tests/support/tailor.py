"""A name server that chooses answers by the client subnet option, as a test wants it.

`Tailor.answer` is bytes in, bytes out, for a network in virtual time; `serve_tailor` runs it on loopback for resolvers
in other processes.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import Builder
from resolver.wire.client_subnet import Subnet, encode_subnet, parse_subnet
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

__all__ = ["Tailor", "serve_tailor"]


class Tailor:
    """The address of each name of `zone` ends with the third octet of the client's subnet, or with 250 without one.

    `scope` is the scope of replies, None for replies without the option. `refuses`: FORMERR to queries with the
    option. `edit` changes the option of a reply. `target` is the alias of names that begin with "alias". `seen` has
    name, type and subnet of all queries.
    """

    def __init__(self, zone: str = "example.com.") -> None:
        self.zone = names.from_text(zone)
        self.scope: int | None = 24
        self.seen: list[tuple[str, int, Subnet | None]] = []
        self.edit: Callable[[bytes], bytes] = lambda content: content
        self.refuses = False
        self.ttl = 300
        self.target: bytes | None = None
        self.denies = False

    def answer(self, packet: bytes, tcp: bool) -> bytes:
        """The reply to `packet`."""
        view = MessageView.parse(packet)
        assert view.qname is not None
        content = None if view.edns is None else view.edns.get(c.OPTION_ECS)
        subnet = None if content is None else parse_subnet(content).subnet
        self.seen.append((names.to_text(names.lower(view.qname)), view.qtype, subnet))
        refused = content is not None and self.refuses
        builder = Builder(65535, reserve_opt=64)
        builder.start(view.id, c.QR | c.AA | (c.FORMERR if refused else 0), view.qname, view.qtype)
        if not refused and not self._fill(builder, view, subnet):
            soa = names.prepend(b"ns1", self.zone) + names.prepend(b"x", self.zone) + bytes(19) + b"\x3c"
            builder.add(c.AUTHORITY, RRset(self.zone, c.SOA, 60, [soa]))
        if view.edns is not None:
            options = []
            if content is not None and self.scope is not None and not refused:
                assert subnet is not None
                options = [(c.OPTION_ECS, self.edit(encode_subnet(subnet, self.scope)))]
            builder.opt(1232, options=options)
        return builder.finish()

    def _fill(self, builder: Builder, view: MessageView, subnet: Subnet | None) -> bool:
        assert view.qname is not None
        if self.target is not None and view.qname.lower().startswith(b"\5alias"):
            builder.add(c.ANSWER, RRset(view.qname, c.CNAME, self.ttl, [self.target]))
            return True
        if view.qtype != c.A or self.denies or names.equal(view.qname, self.zone):
            return False
        last = 250 if subnet is None else subnet[0][2]
        builder.add(c.ANSWER, RRset(view.qname, c.A, self.ttl, [bytes([192, 0, 2, last])]))
        return True

    @property
    def subnets(self) -> list[Subnet | None]:
        """Of the queries for addresses of names below the zone."""
        return [subnet for name, qtype, subnet in self.seen if qtype == c.A and name != names.to_text(self.zone)]


@contextmanager
def serve_tailor(tailor: Tailor) -> Iterator[int]:
    """Run `tailor` over UDP until the block ends; the value is its port on 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.bind(("127.0.0.1", 0))
        port: int = channel.getsockname()[1]

        def serve() -> None:
            while True:
                data, peer = channel.recvfrom(4096)
                if not data:
                    return
                channel.sendto(tailor.answer(data, False), peer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield port
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", ("127.0.0.1", port))
            thread.join(30)
