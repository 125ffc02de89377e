"""The floods: what each sends, from which addresses, and at which rate unless told otherwise.

Attackers are plain sockets. They run in a process with a low priority, so that on the same core the honest clients are
served first; when it gets too little of the core, the rate that is reported is lower than the one that was asked for.
"""

import contextlib
import multiprocessing
import os
import random
import resource
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from flood_messages import packet
from flood_world import BUSTED

from resolver.wire import name as names
from resolver.wire.consts import TXT, A

__all__ = ["KINDS", "Counts", "Kind", "Ports", "attack"]

SOURCES = 100
"""Client networks of an attacker."""
VICTIMS = 4
"""Addresses that an attacker forges."""
REFLECTED = "text.giant."
"""What is reflected is truncated to 1232 octets; slow readers get all of it."""
HELD = 2000
"""Connections that an attacker keeps open; the oldest is closed for a new one."""
UNREAD = 50
"""Queries on a connection whose replies are not read."""
RECEIVE_BUFFER = 4096
DEEP = 18
"""Labels of a name of `iter.`."""
PULSE = 0.1
BEHIND = 0.5
"""Seconds: an attacker that is further behind its rate gives up what it did not send, instead of catching up."""
NICE = 10
END = 5.0
"""Seconds that an attacker has to end."""
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close resets the connection
BIND_ADDRESS_NO_PORT = 24  # Linux's IP_BIND_ADDRESS_NO_PORT: the port is chosen by connect


@dataclass(frozen=True)
class Ports:
    """Where the resolver serves."""

    udp: int
    tls: int
    https: int
    quic: int


class Counts:
    """What an attacker has done so far, in memory that it shares with who started it."""

    FIELDS = ("sent", "octets", "replies", "reply_octets", "pulse")

    def __init__(self, context: Any) -> None:
        self._values = context.Array("d", len(self.FIELDS), lock=False)
        self.ended = context.Value("b", 0, lock=False)
        """Set to 1, it ends the attacker between two packets, so that what it counted is what it sent."""

    def __getitem__(self, field: str) -> float:
        return self._values[self.FIELDS.index(field)]

    def sent(self, octets: int) -> None:
        """One more packet or connection."""
        self._values[0] += 1
        self._values[1] += octets

    def received(self, octets: int) -> None:
        """One more reply."""
        self._values[2] += 1
        self._values[3] += octets

    def pulse(self, octets: int) -> None:
        """So many octets came within `PULSE`."""
        self._values[4] = max(self._values[4], octets)


def paced(rate: int, counts: Counts, once: Callable[[int], None], idle: Callable[[float], None]) -> None:
    """Call `once` with increasing numbers, `rate` times a second, and `idle` with the time that is left in between.

    Ends when `counts.ended` is set.
    `idle` is also called at each hundredth packet, so that an attacker that is behind does read.
    """
    began, number = time.monotonic(), 0
    while not counts.ended.value:
        ahead = began + number / rate - time.monotonic()
        if ahead < -BEHIND:
            began -= ahead
        if ahead > 0 or number % 100 == 99:
            idle(max(ahead, 0.0))
        if ahead <= 0:
            once(number)
            number += 1


# --- datagrams --------------------------------------------------------------------------------------------------------

Maker = Callable[[int, random.Random], bytes]


def datagrams(
    port: int, rate: int, counts: Counts, make: Maker, *, sources: int = SOURCES, reads: bool = False
) -> None:
    """Send what `make` gives from `sources` networks, and count the replies if `reads`."""
    rng = random.Random(1)
    socks = []
    poller = select.epoll()
    for number in range(sources):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if reads:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            poller.register(sock, select.EPOLLIN)
        sock.bind((f"127.1.{number}.1", 0))
        sock.setblocking(False)
        socks.append(sock)
    by_descriptor = {sock.fileno(): sock for sock in socks}
    slot, octets = 0, 0

    def once(number: int) -> None:
        data = make(number, rng)
        with contextlib.suppress(OSError):
            socks[number % sources].sendto(data, ("127.0.0.1", port))
        counts.sent(len(data))

    def listen(seconds: float) -> None:
        nonlocal slot, octets
        for descriptor, _ in poller.poll(seconds):
            with contextlib.suppress(OSError):
                while True:
                    size = len(by_descriptor[descriptor].recv(65535))
                    counts.received(size)
                    now = int(time.monotonic() / PULSE)
                    slot, octets = now, size + (octets if now == slot else 0)
                    counts.pulse(octets)

    paced(rate, counts, once, listen if reads else time.sleep)


def names_below(*zones: str, rtype: int = A, deep: int = 0) -> Maker:
    """Queries for a new name, in each of `zones` in turn, with `deep` labels below it."""
    suffixes = [names.from_text(zone) for zone in zones]
    below = b"".join(b"\x03d%02d" % label for label in range(deep))

    def make(number: int, rng: random.Random) -> bytes:
        return packet(number, below + b"\x10%016x" % rng.getrandbits(64) + suffixes[number % len(suffixes)], rtype)

    return make


def same_name(text: str, rtype: int) -> Maker:
    """The same query again and again."""
    name = names.from_text(text)
    return lambda number, rng: packet(number, name, rtype)


def subdomains(*zones: str, rtype: int = A, deep: int = 0) -> "Run":
    """A flood of random names."""
    return lambda ports, rate, counts: datagrams(ports.udp, rate, counts, names_below(*zones, rtype=rtype, deep=deep))


def forged(make: Maker) -> "Run":
    """Queries in the name of `VICTIMS` addresses, where the replies arrive."""
    return lambda ports, rate, counts: datagrams(ports.udp, rate, counts, make, sources=VICTIMS, reads=True)


def initials(count: int) -> list[bytes]:
    """The first datagrams of QUIC clients, each to a connection id of its own."""
    from qh3.quic.configuration import QuicConfiguration
    from qh3.quic.connection import QuicConnection

    found = []
    for _ in range(count):
        configuration = QuicConfiguration(is_client=True, alpn_protocols=["doq"], server_name="localhost")
        client = QuicConnection(configuration=configuration)
        client.connect(("127.0.0.1", 853), now=0.0)
        found.append(client.datagrams_to_send(now=0.0)[0][0])
    return found


def flood_quic(ports: Ports, rate: int, counts: Counts) -> None:
    """First datagrams of connections; what comes back is not read."""
    first = initials(min(rate * 2, 5000))
    datagrams(ports.quic, rate, counts, lambda number, rng: first[number % len(first)])


# --- connections ------------------------------------------------------------------------------------------------------


def client_hello(alpn: str) -> bytes:
    """The first flight of a TLS client."""
    context = ssl.create_default_context()
    context.set_alpn_protocols([alpn])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def connections(
    port: int, rate: int, counts: Counts, first: bytes = b"", *, held: int = HELD, until_reply: bool = False
) -> None:
    """Begin `rate` connections a second, as far as the server accepts them, and send `first` on each.

    With `until_reply` the connection is reset when the first octets of the answer have come, so it costs its client
    next to nothing. Otherwise nothing is read, and the connection stays open until there are `held`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 2 * held), hard), hard))
    poller = select.epoll()
    pending: dict[int, tuple[socket.socket, bool]] = {}

    def close(descriptor: int) -> None:
        sock, _ = pending.pop(descriptor)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()

    def once(number: int) -> None:
        if len(pending) >= held:
            close(next(iter(pending)))
        sock = socket.socket()
        sock.setblocking(False)
        if not until_reply:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
        sock.bind((f"127.1.{number % SOURCES}.1", 0))
        with contextlib.suppress(BlockingIOError):
            sock.connect(("127.0.0.1", port))
        pending[sock.fileno()] = sock, False
        poller.register(sock, select.EPOLLOUT)
        counts.sent(len(first))

    def idle(seconds: float) -> None:
        for descriptor, events in poller.poll(seconds):
            sock, said = pending[descriptor]
            if events & (select.EPOLLERR | select.EPOLLHUP):
                close(descriptor)
            elif said:
                counts.received(0)
                close(descriptor)
            else:
                with contextlib.suppress(OSError):
                    sock.send(first)
                pending[descriptor] = sock, True
                poller.modify(descriptor, select.EPOLLIN if until_reply else 0)

    paced(rate, counts, once, idle)


def handshakes(ports: Ports, rate: int, counts: Counts, *, https: bool = False) -> None:
    """A recorded ClientHello on each connection: the server does the whole key exchange, the client nothing."""
    port, hello = (ports.https, client_hello("h2")) if https else (ports.tls, client_hello("dot"))
    connections(port, rate, counts, hello, held=512, until_reply=True)


def unread(ports: Ports, rate: int, counts: Counts) -> None:
    """Queries for big answers, none of which is read."""
    query = packet(1, names.from_text(REFLECTED), TXT)
    connections(ports.udp, rate, counts, (len(query).to_bytes(2, "big") + query) * UNREAD, held=500)


# --- the table --------------------------------------------------------------------------------------------------------

Run = Callable[[Ports, int, Counts], None]


@dataclass(frozen=True)
class Kind:
    """One flood: a row of the table."""

    name: str
    rate: int
    """Packets or connections a second."""
    run: Run
    about: str
    limited: bool = False
    """Whether the resolvers get their rate limits."""
    encrypted: bool = False
    """Whether they serve TLS, HTTPS and, ours, QUIC."""
    known: tuple[tuple[str, int], ...] = ()
    """Questions that are in the cache before the flood."""
    peer: bool = True
    """Whether Unbound has what is flooded."""
    queries: bool = True
    """Whether each packet is a query over UDP, so that the counters can be compared with what was sent."""


KINDS = {kind.name: kind for kind in (
    Kind("living-zone", 2000, subdomains("live."), "random names of a zone whose server answers at once"),
    Kind("slow-zone", 2000, subdomains("slow."), "the same, whose server answers after two seconds"),
    Kind("dead-zone", 2000, subdomains("dead."), "the same, whose server never answers"),
    Kind("cache-busting", 2000, subdomains(*(f"m{number}.bust." for number in range(BUSTED))),
         f"random names of {BUSTED} living zones"),
    Kind("reflection", 2000, forged(same_name(REFLECTED, TXT)), limited=True, known=((REFLECTED, TXT),),
         about=f"one big answer, asked for in the name of {VICTIMS} addresses; with rate limits"),
    Kind("tcp-connections", 1000, lambda ports, rate, counts: connections(ports.udp, rate, counts), queries=False,
         about=f"connections on which nothing is sent, up to {HELD} at a time"),
    Kind("tls-handshakes", 1500, handshakes, "ClientHellos whose connection is reset when the answer comes",
         encrypted=True, queries=False),
    Kind("https-handshakes", 1500, lambda ports, rate, counts: handshakes(ports, rate, counts, https=True),
         "the same over HTTPS", encrypted=True, queries=False),
    Kind("quic-handshakes", 1500, flood_quic, "first datagrams of QUIC", encrypted=True, peer=False, queries=False),
    Kind("slow-readers", 100, unread, known=((REFLECTED, TXT),), queries=False,
         about=f"connections with {UNREAD} queries for answers of 60 KB, none of which is read"),
    Kind("dnsbomb", 500, forged(names_below("bomb.", rtype=TXT)),
         f"names whose server holds all replies and sends them together, in the name of {VICTIMS} addresses"),
    Kind("giant-answers", 100, subdomains("giant.", rtype=TXT), "names with answers of 60 KB, never the same"),
    Kind("nxns", 100, subdomains("nxns."), "NXNSAttack: referrals to many servers without glue"),
    Kind("camp", 50, subdomains("camp."), "CAMP: chains of aliases and zone cuts without glue"),
    Kind("keytrap", 100, subdomains("keytrap."), "KeyTrap: many keys with one tag, many wrong signatures"),
    Kind("nsec3", 300, subdomains("iter.", deep=DEEP), "nonexistent names of many labels, NSEC3 with iterations"),
)}


def _attacker(kind: Kind, ports: Ports, rate: int, counts: Counts) -> None:
    os.nice(NICE)
    kind.run(ports, rate, counts)


@contextlib.contextmanager
def attack(kind: Kind, ports: Ports, rate: int) -> Iterator[Counts]:
    """A process that floods the resolver within the context."""
    context = multiprocessing.get_context("fork")
    counts = Counts(context)
    process = context.Process(target=_attacker, args=(kind, ports, rate, counts), daemon=True)
    process.start()
    try:
        yield counts
        if not process.is_alive():
            raise RuntimeError(f"the attacker of {kind.name} has ended with status {process.exitcode}")
        counts.ended.value = 1
        process.join(END)
    finally:
        process.kill()
        process.join()
