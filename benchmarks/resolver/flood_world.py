"""The name servers of the floods: a root, a healthy zone, and zones that attackers have prepared.

Resolvers query port 53 of referred servers only, so each server has that port on an address of its own. The root and
the healthy zone are served by one process, the zones of the attackers by another one with a lower priority, so that
what an attack costs its name servers is not taken for what it costs the resolver.
"""

import asyncio
import contextlib
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flood_messages import ADDRESS, TTL, UDP_PAYLOAD, question, record, respond, soa
from flood_signed import Signed, iterated, keytrap

from resolver.playground.authority import Authority
from resolver.playground.zones import Zone
from resolver.wire import name as names
from resolver.wire.consts import CNAME, NS, TXT, A

PORT = 53
LONG_TTL = 3600
SLOW = 2.0
HELD = 1.5
"""Seconds: the server of `bomb.` holds replies until the next multiple of this, then sends all."""
BUSTED = 200
"""Zones below `bust.`, all of them alive."""
REFERRED = 30
"""Name servers without glue in a referral of `nxns.`; these fit into a reply over UDP."""
LINKS = 12
"""Steps of a chain of `camp.`, each an alias into the next zone."""
HOSTS = 6
"""Name servers without glue of each zone of such a chain."""
HOST_ALIASES = 8
"""Aliases through which the address of such a server is found."""
GIANT = 240
"""Strings of 250 octets in an answer of `giant.`: 60 KB."""
NICE = 5

ROOT, GOOD, LIVE, SLOWLY, DEAD, BUST, BUSTED_ZONES, BOMB, GIANTS, NXNS, VICTIM, CAMP, CAMP_HOSTS, CAMP_ZONES, KEYTRAP, \
    ITERATED = (f"127.54.0.{number}" for number in range(1, 17))
ZONES = {
    "good.": GOOD, "live.": LIVE, "slow.": SLOWLY, "dead.": DEAD, "bust.": BUST, "bomb.": BOMB, "giant.": GIANTS,
    "nxns.": NXNS, "victim.": VICTIM, "camp.": CAMP, "camq.": CAMP_HOSTS, "keytrap.": KEYTRAP, "iter.": ITERATED,
}
Handler = Callable[[bytes, bool], bytes | None]
"""The reply to a query, which came over TCP or not; None: none."""

# --- zones ------------------------------------------------------------------------------------------------------------


def anything(ttl: int, query: bytes, tcp: bool) -> bytes:
    """Each name has an address."""
    _, rtype = question(query)
    if rtype != A:
        return respond(query)
    return respond(query, answer=[record(b"\xc0\x0c", A, ADDRESS, ttl)])


def texts(strings: int, query: bytes, tcp: bool) -> bytes:
    """Each name has a TXT record of so many strings of 250 octets."""
    _, rtype = question(query)
    if rtype != TXT:
        return respond(query)
    return respond(query, answer=[record(b"\xc0\x0c", TXT, (b"\xfa" + b"x" * 250) * strings, LONG_TTL)])


def silent(query: bytes, tcp: bool) -> None:
    """No reply."""


def busting(query: bytes, tcp: bool) -> bytes:
    """`bust.` refers to its zones, with glue."""
    name, _ = question(query)
    count = names.label_count(name)
    if count < 2:
        return respond(query, authority=[soa(name)])
    zone = names.suffix(name, 2)
    host = names.prepend(b"ns", zone)
    glue = record(host, A, socket.inet_aton(BUSTED_ZONES))
    return respond(query, authoritative=False, authority=[record(zone, NS, host)], additional=[glue])


def glueless(query: bytes, tcp: bool) -> bytes:
    """NXNSAttack: each name of `nxns.` is referred to `REFERRED` servers of another zone, which do not exist there."""
    name, _ = question(query)
    if names.label_count(name) < 2:
        return respond(query, authority=[soa(name)])
    zone = names.suffix(name, 2)
    label = zone[1 : 1 + zone[0]]
    victim = names.from_text("victim.")
    hosts = (names.prepend(b"h%d-%s" % (number, label[-8:]), victim) for number in range(REFERRED))
    return respond(query, authoritative=False, authority=[record(zone, NS, host) for host in hosts])


def nonexistent(query: bytes, tcp: bool) -> bytes:
    """No name exists below the zone, which has one label."""
    name, _ = question(query)
    count = names.label_count(name)
    return respond(query, rcode=3 if count > 1 else 0, authority=[soa(names.suffix(name, 1))])


def chains(query: bytes, tcp: bool) -> bytes:
    """CAMP: a name of `camp.` is an alias into a zone whose servers are names of `camq.`."""
    name, _ = question(query)
    if names.label_count(name) < 2:
        return respond(query, authority=[soa(name)])
    zone = names.suffix(name, 2)
    label = zone[1 : 1 + zone[0]]
    if not label.startswith(b"z"):
        return respond(query, answer=[record(b"\xc0\x0c", CNAME, names.from_text(f"w.z0-{label.decode()}.camp."))])
    hosts = (names.from_text(f"n{number}.{label.decode()}.camq.") for number in range(HOSTS))
    return respond(query, authoritative=False, authority=[record(zone, NS, host) for host in hosts])


def chained_hosts(query: bytes, tcp: bool) -> bytes:
    """Only the last server of a zone of `camp.` has an address, the others are chains of aliases to nothing."""
    name, rtype = question(query)
    labels = names.to_text(name).rstrip(".").split(".")
    if len(labels) < 3:
        return respond(query, authority=[soa(names.from_text("camq."))])
    host, zone = labels[-3], labels[-2]
    if host == f"n{HOSTS - 1}":
        if rtype != A:
            return respond(query, authority=[soa(names.from_text("camq."))])
        return respond(query, answer=[record(b"\xc0\x0c", A, socket.inet_aton(CAMP_ZONES))])
    step = int(host.partition("-")[2] or 0) + 1
    if step > HOST_ALIASES:
        return respond(query, rcode=3, authority=[soa(names.from_text("camq."))])
    target = names.from_text(f"{host.partition('-')[0]}-{step}.{zone}.camq.")
    return respond(query, answer=[record(b"\xc0\x0c", CNAME, target)])


def chained_zones(query: bytes, tcp: bool) -> bytes:
    """`w` of each zone of a chain is an alias into the next zone."""
    name, _ = question(query)
    labels = names.to_text(name).rstrip(".").split(".")
    if len(labels) < 3:
        return respond(query, authority=[soa(names.suffix(name, 2))])
    number, _, rest = labels[-2][1:].partition("-")
    if int(number) + 1 >= LINKS:
        return respond(query, answer=[record(b"\xc0\x0c", A, ADDRESS)])
    target = names.from_text(f"w.z{int(number) + 1}-{rest}.camp.")
    return respond(query, answer=[record(b"\xc0\x0c", CNAME, target)])


def root_zone() -> Zone:
    """The root, which refers to all zones with glue."""
    lines = [f"@ 86400 SOA a.root. admin. 1 7200 1800 604800 3600\n@ 86400 NS a.root.\na.root. 86400 A {ROOT}\n"]
    lines += [f"{zone} 86400 NS ns.{zone}\nns.{zone} 86400 A {address}\n" for zone, address in ZONES.items()]
    return Zone.from_text(".", "".join(lines))


# --- servers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """One server: its replies come `delay` seconds after the queries, or all together at each multiple of `hold`."""

    address: str
    handler: Handler
    delay: float = 0.0
    hold: float = 0.0

    def wait(self, now: float) -> float:
        """Seconds until a reply is sent."""
        return self.hold - now % self.hold if self.hold else self.delay


def healthy() -> list[Place]:
    """The root and the healthy zone."""
    root = Authority([root_zone()])
    return [
        Place(ROOT, lambda query, tcp: root.answer(query, tcp=tcp)),
        Place(GOOD, partial(anything, LONG_TTL)),
    ]


def attackers(signed: "dict[str, Signed]") -> list[Place]:
    """The other zones."""
    return [
        Place(LIVE, partial(anything, TTL)),
        Place(SLOWLY, partial(anything, TTL), delay=SLOW),
        Place(DEAD, silent),
        Place(BUST, busting),
        Place(BUSTED_ZONES, partial(anything, TTL)),
        Place(BOMB, partial(texts, 4), hold=HELD),
        Place(GIANTS, partial(texts, GIANT)),
        Place(NXNS, glueless),
        Place(VICTIM, nonexistent),
        Place(CAMP, chains),
        Place(CAMP_HOSTS, chained_hosts),
        Place(CAMP_ZONES, chained_zones),
        Place(KEYTRAP, signed["keytrap."].handler),
        Place(ITERATED, signed["iter."].handler),
    ]


class Datagrams(asyncio.DatagramProtocol):
    """UDP of one server. Replies that do not fit are truncated."""

    def __init__(self, place: Place, asked: Any) -> None:
        self.place = place
        self.asked = asked
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.asked.value += 1
        reply = self.place.handler(data, False)
        if reply is None:
            return
        if len(reply) > UDP_PAYLOAD:
            reply = respond(data, truncated=True)
        wait = self.place.wait(self.loop.time())
        if wait:
            self.loop.call_later(wait, self.transport.sendto, reply, addr)
        else:
            self.transport.sendto(reply, addr)


class Stream(asyncio.Protocol):
    """TCP of one server."""

    def __init__(self, place: Place, asked: Any) -> None:
        self.place = place
        self.asked = asked
        self.held = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.held += data
        while len(self.held) >= 2 and len(self.held) >= (size := 2 + int.from_bytes(self.held[:2], "big")):
            query, self.held = self.held[2:size], self.held[size:]
            self.asked.value += 1
            reply = self.place.handler(query, True)
            if reply is not None:
                self.transport.write(len(reply).to_bytes(2, "big") + reply)


def serve(places: list[Place], asked: Any, ready: Any, nice: int) -> None:
    """Serve `places` until the process ends; `asked` counts the queries."""
    os.nice(nice)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        for place in places:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            sock.bind((place.address, PORT))
            sock.setblocking(False)
            await loop.create_datagram_endpoint(partial(Datagrams, place, asked), sock=sock)
            await loop.create_server(partial(Stream, place, asked), place.address, PORT)
        ready.set()
        await asyncio.Event().wait()

    asyncio.run(run())


@dataclass(frozen=True)
class FloodWorld:
    """The name servers that are running: what a resolver needs to know, and how often the attackers' were queried."""

    hints: Path
    anchors: tuple[str, ...]
    asked: Any


@contextlib.contextmanager
def flood_world(folder: Path) -> Iterator[FloodWorld]:
    """Serve all zones within the context.

    Raises:
        RuntimeError: a name server could not be started.
    """
    signed = {"keytrap.": keytrap(), "iter.": iterated()}
    hints = folder / "root.hints"
    hints.write_text(f". 3600000 NS a.root.\na.root. 3600000 A {ROOT}\n")
    context = multiprocessing.get_context("fork")
    counts = [context.Value("l", 0, lock=False) for _ in range(2)]
    started = []
    try:
        for places, asked, nice in ((healthy(), counts[0], 0), (attackers(signed), counts[1], NICE)):
            ready = context.Event()
            process = context.Process(target=serve, args=(places, asked, ready, nice), daemon=True)
            process.start()
            started.append(process)
            if not ready.wait(10):
                raise RuntimeError(f"a name server at {places[0].address} port {PORT} was not started")
        yield FloodWorld(hints, tuple(anchor for one in signed.values() for anchor in one.anchors), counts[1])
    finally:
        for process in started:
            process.kill()
            process.join()


def missing_requirement() -> str:
    """Return what this machine lacks to serve the zones, as a sentence; empty when it can."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ROOT, PORT))
            except OSError as error:
                return f"port {PORT} of {ROOT} cannot be used ({error.strerror})"
    return ""
