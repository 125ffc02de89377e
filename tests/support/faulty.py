"""A small Internet on loopback whose servers lose, delay, truncate, hang and lie; a separate process for soak runs.

All servers of a zone below ``soak.`` have the same fault; each name in it exists (a wildcard), so that load can query
new names without end. Faults are drawn from a seeded generator, so a run is repeatable except for the order of packets.
Run it as ``python -m support.faulty PORT``. When it listens it prints ``ready`` and the trust anchor of its one
signed zone, whose key is made at each start; it ends at the end of its standard input.
"""

import asyncio
import random
import sys
import time
from collections.abc import Callable
from functools import partial

from support.signing import ZoneKey, sign_zone

from resolver.playground.authority import Authority
from resolver.playground.zones import Zone
from resolver.wire import WireError
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import Builder, make_error
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

__all__ = ["ANSWER", "FAULTY", "HEALTHY", "ROOT_ADDRESS"]

ROOT_ADDRESS = "127.31.0.1"
TOP_ADDRESS = "127.31.0.2"
ANSWER = bytes((192, 0, 2, 1))
KEY = ZoneKey("signed.soak.")
SLOWEST = 1.5
LOSS = 0.4
SIGNED_SECONDS = 86400
# Zone -> addresses of its servers.
HEALTHY = {
    "good.soak.": ("127.31.1.1", "127.31.1.2"),
    "signed.soak.": ("127.31.1.3",),
    "half.soak.": ("127.31.1.4", "127.31.2.6"),  # the second one is dead
    "truncating.soak.": ("127.31.1.5",),
}
FAULTY = {
    "lossy.soak.": ("127.31.2.1", "127.31.2.2"),
    "slow.soak.": ("127.31.2.3",),
    "hanging.soak.": ("127.31.2.4",),
    "lying.soak.": ("127.31.2.5",),
    "dead.soak.": ("127.31.2.6",),
    "refusing.soak.": ("127.31.2.7",),
    "endless.soak.": ("127.31.2.8",),
}

Reply = tuple[float, bytes]
Server = Callable[[bytes, bool], list[Reply]]


def zone_text(zone: str, addresses: tuple[str, ...]) -> str:
    """A zone whose every name has an address."""
    lines = [f"@ 3600 SOA ns0.{zone} nobody.{zone} 1 7200 3600 1209600 60"]
    for number, address in enumerate(addresses):
        lines += [f"@ 3600 NS ns{number}.{zone}", f"ns{number} 3600 A {address}"]
    return "\n".join([*lines, "* 300 A 192.0.2.1", '* 300 TXT "every name is here"']) + "\n"


def delegations(children: dict[str, tuple[str, ...]]) -> str:
    """NS and glue for `children`, as their parent has them."""
    lines = []
    for zone, addresses in children.items():
        for number, address in enumerate(addresses):
            lines += [f"{zone} 3600 NS ns{number}.{zone}", f"ns{number}.{zone} 3600 A {address}"]
    return "\n".join(lines) + "\n"


def authority(zone: str, text: str) -> Authority:
    """A server of one zone."""
    return Authority([Zone.from_text(zone, text)])


class Faults:
    """What the servers of one temper make of a right answer."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def honest(self, right: Authority, query: bytes, tcp: bool) -> list[Reply]:
        reply = right.answer(query, tcp=tcp)
        return [] if reply is None else [(0.0, reply)]

    def lossy(self, right: Authority, query: bytes, tcp: bool) -> list[Reply]:
        return [] if self._random.random() < LOSS else self.honest(right, query, tcp)

    def slow(self, right: Authority, query: bytes, tcp: bool) -> list[Reply]:
        return [(self._random.random() * SLOWEST, reply) for _, reply in self.honest(right, query, tcp)]

    def truncating(self, right: Authority, query: bytes, tcp: bool) -> list[Reply]:
        """Nothing over UDP but the order to come by TCP."""
        if tcp:
            return self.honest(right, query, tcp)
        end = query.index(0, 12) + 5
        return [(0.0, query[:2] + bytes((0x86, 0, 0, 1, 0, 0, 0, 0, 0, 0)) + query[12:end])]

    def hanging(self, right: Authority, query: bytes, tcp: bool) -> list[Reply]:
        """Over TCP half an answer, or none at all."""
        if not tcp:
            return self.truncating(right, query, tcp)
        return [(0.0, query[: self._random.randrange(len(query))])] if self._random.random() < 0.5 else []

    def refusing(self, right: Authority, query: bytes, tcp: bool) -> list[Reply]:
        return [(0.0, make_error(query, self._random.choice((c.REFUSED, c.SERVFAIL, c.NOTIMP, c.FORMERR))))]

    def endless(self, right: Authority, query: bytes, tcp: bool) -> list[Reply]:
        """Each name is delegated to servers that nobody knows (NXNSAttack, CVE-2020-12662)."""
        try:
            view = MessageView.parse(query)
        except WireError:
            return []
        zone = view.qname or names.ROOT
        label = bytes(self._random.choices(b"abcdefghijklmnopqrstuvwxyz", k=6))
        targets = [
            names.from_text(f"{label.decode()}{n}.{self._random.choice(('lossy', 'dead', 'endless'))}.soak.")
            for n in range(12)
        ]
        builder = Builder()
        builder.start(view.id, c.QR, zone, view.qtype, view.qclass)
        builder.fill([], [RRset(names.lower(zone), c.NS, 60, targets)], [], sigs=False)
        return [(0.0, builder.finish())]

    def lying(self, right: Authority, query: bytes, tcp: bool) -> list[Reply]:
        """Something else each time: other ids, other names, foreign records, noise; at times the truth behind it."""
        draw = self._random
        replies = self.honest(right, query, tcp)
        if not replies:
            return []
        packet = replies[0][1]
        kind = draw.randrange(8)
        if kind == 0:
            packet = draw.randbytes(2) + packet[2:]
        elif kind == 1:
            packet = packet[:12] + packet[12:].replace(b"\5lying", b"\5liars")
        elif kind == 2:
            packet = draw.randbytes(draw.randrange(1200))
        elif kind == 3:
            packet = query[:2] + draw.randbytes(draw.randrange(200))
        elif kind == 4:
            flipped = bytearray(packet)
            for _ in range(4):
                flipped[draw.randrange(2, len(flipped))] ^= 1 << draw.randrange(8)
            packet = bytes(flipped)
        elif kind == 5:
            packet = self._poisoned(query) or packet
        elif kind == 6:
            packet = packet[: draw.randrange(len(packet))]
        else:
            return [(0.0, draw.randbytes(2) + packet[2:])] * 12 + replies
        return [(0.0, packet)]

    @staticmethod
    def _poisoned(query: bytes) -> bytes | None:
        """A right answer with records about somebody else's names beside it (Kashpureff 1997, Kaminsky 2008)."""
        try:
            view = MessageView.parse(query)
        except WireError:
            return None
        name, bad = view.qname or names.ROOT, bytes((192, 0, 2, 66))
        builder = Builder()
        builder.start(view.id, c.QR | c.AA, name, view.qtype, view.qclass)
        victims = [RRset(names.from_text(text), c.A, 86400, [bad]) for text in ("hit1.good.soak.", "ns0.good.soak.")]
        takeover = RRset(names.from_text("good.soak."), c.NS, 86400, [names.from_text("ns0.lying.soak.")])
        builder.fill([RRset(name, c.A, 300, [ANSWER]), *victims], [takeover], victims, sigs=False)
        return builder.finish()


def servers(seed: int = 1) -> dict[str, Server]:
    """Every server by its address."""
    faults = Faults(seed)
    root = f"@ 86400 SOA ns. nobody. 1 1800 900 604800 60\n@ 86400 NS ns.\nns. 86400 A {ROOT_ADDRESS}\n"
    zones = {".": (ROOT_ADDRESS,), "soak.": (TOP_ADDRESS,)}
    found: dict[str, Server] = {
        ROOT_ADDRESS: partial(faults.honest, authority(".", root + delegations({"soak.": (TOP_ADDRESS,)}))),
        TOP_ADDRESS: partial(
            faults.honest,
            authority(
                "soak.", zone_text("soak.", zones["soak."]).replace("* 300", "_ 300") + delegations(HEALTHY | FAULTY)
            ),
        ),
    }
    for zone, addresses in (HEALTHY | FAULTY).items():
        text = zone_text(zone, addresses)
        if zone == KEY.zone:
            now = int(time.time())
            text = sign_zone(zone, text, [KEY], inception=now - 3600, expiration=now + SIGNED_SECONDS)
        right = authority(zone, text)
        temper = getattr(faults, zone.split(".")[0], faults.honest)
        for address in addresses:
            found.setdefault(address, partial(temper, right))
    found[FAULTY["dead.soak."][0]] = lambda _query, _tcp: []
    return found


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: Server) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.DatagramTransport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        for delay, reply in self._server(data, False):
            if delay:
                loop.call_later(delay, self._transport.sendto, reply, addr)
            else:
                self._transport.sendto(reply, addr)


class _Stream(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._timer = asyncio.get_running_loop().call_later(10, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 2:
            end = 2 + int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < end:
                return
            query = bytes(self._buffer[2:end])
            del self._buffer[:end]
            for _, reply in self._server(query, True):
                self._transport.write(len(reply).to_bytes(2, "big") + reply)
                if len(reply) < len(query):
                    self._transport.close()


async def serve(port: int) -> None:
    """Serve everything on `port` until standard input ends."""
    loop = asyncio.get_running_loop()
    for address, server in servers().items():
        await loop.create_datagram_endpoint(partial(_Datagrams, server), local_addr=(address, port))
        await loop.create_server(partial(_Stream, server), address, port)
    print(f"ready {KEY.anchor()}", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    import corenet

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
