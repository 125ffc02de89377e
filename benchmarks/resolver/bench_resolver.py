"""The resolver: parsing packets, iteration from the root with an empty cache, and answers from the cache.

The bases are dnspython (with which a Python program would parse packets) and a system Unbound (which an operator would
run). The cold iteration runs mesh, iterate, cache and wire in virtual time, without sockets. Its base is dnspython
parsing the same replies and nothing else, which a resolver built on it would have to do.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import dns.message
import pytest
from ratio import Contender
from resolver_servers import has_collector, has_unbound, hits, hits_tcp, observed, resolverd, unbound
from support.fakenet import FakeNet, SeededRandom

from resolver.cache import Store
from resolver.effects import Question
from resolver.mesh import Mesh
from resolver.playground.authority import Authority
from resolver.playground.zones import Zone
from resolver.settings import DnssecSettings, IterationSettings, RootServer, Settings
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.consts import A
from resolver.wire.message import MessageView

ZONES = {
    "198.41.0.4": (
        ".",
        "@ 900 SOA a.root. h.root. 1 2 3 4 300\n@ 900 NS a.root.\na.root. 900 A 198.41.0.4\n"
        "com. 900 NS a.gtld.com.\na.gtld.com. 900 A 192.5.6.30\n",
    ),
    "192.5.6.30": (
        "com.",
        "@ 900 SOA a.gtld h 1 2 3 4 300\n@ 900 NS a.gtld\na.gtld 900 A 192.5.6.30\n"
        "example 900 NS ns1.example\nexample 900 NS ns2.example\nns1.example 900 A 192.0.2.1\n"
        "ns2.example 900 A 192.0.2.2\n",
    ),
    "192.0.2.1": (
        "example.com.",
        "@ 900 SOA ns1 h 1 2 3 4 300\n@ 900 NS ns1\n@ 900 NS ns2\nns1 900 A 192.0.2.1\n"
        "ns2 900 A 192.0.2.2\nwww 300 A 192.0.2.80\n",
    ),
}
ZONES["192.0.2.2"] = ZONES["192.0.2.1"]


SETTINGS = Settings(
    root_hints=(RootServer("a.root.", ("198.41.0.4",)),),
    dnssec=DnssecSettings(enabled=False),
    iteration=IterationSettings(priming=False, do_ip6=False),
)


class Recorded:
    """Servers whose replies are made once and then replayed with the id and spelling of the query."""

    def __init__(self) -> None:
        self.replies: dict[tuple[str, bytes], bytes] = {}
        self.seen: list[bytes] = []
        self.authorities = {
            address: Authority([Zone.from_text(origin, text)]) for address, (origin, text) in ZONES.items()
        }

    def host(self, address: str):
        def answer(packet: bytes, tcp: bool) -> bytes | None:
            end = packet.index(0, 12)
            key = (address, packet[12 : end + 5].lower())
            known = self.replies.get(key)
            if known is None:
                known = self.replies[key] = self.authorities[address].answer(packet, tcp=tcp)
                self.seen.append(known)
            return packet[:2] + known[2:12] + packet[12:end] + known[end:]

        return answer


def walk(recorded: Recorded) -> None:
    """Resolve one name from the root with empty caches."""
    net = FakeNet({address: recorded.host(address) for address in ZONES})
    store = Store.create(1 << 20, seed=bytes(16))
    mesh = Mesh(exchange=net, crypto=net, clock=net, rng=SeededRandom(1), store=store, settings=SETTINGS)
    done: list = []
    mesh.submit(Question(names.from_text("www.example.com."), A), on_done=done.append)
    net.run(mesh)
    assert done
    assert done[0].rcode == 0
    assert done[0].answer


@pytest.mark.short
def test_parse_query(pair) -> None:
    query = make_query(4711, names.from_text("www.example.com."), A, do=True)
    assert MessageView.parse(query).edns is not None

    def ours(count: int) -> None:
        for _ in range(count):
            MessageView.parse(query)

    def base(count: int) -> None:
        for _ in range(count):
            dns.message.from_wire(query)

    pair("parse_query/dnspython", Contender("wire", ours), Contender("dnspython", base))


@pytest.mark.short
def test_parse_referral(pair) -> None:
    recorded = Recorded()
    walk(recorded)
    packet = max(recorded.seen, key=len)

    def ours(count: int) -> None:
        for _ in range(count):
            view = MessageView.parse(packet)
            assert view.answer is not view.authority
            assert view.additional is not None

    def base(count: int) -> None:
        for _ in range(count):
            dns.message.from_wire(packet)

    pair("parse_referral/dnspython", Contender("wire", ours), Contender("dnspython", base))


@pytest.mark.short
def test_cold_walk(pair) -> None:
    recorded = Recorded()
    walk(recorded)

    def ours(count: int) -> None:
        for _ in range(count):
            walk(recorded)

    def base(count: int) -> None:
        for _ in range(count):
            for packet in recorded.seen:
                dns.message.from_wire(packet)

    pair("cold_walk/dnspython", Contender("resolver", ours), Contender("dnspython", base))


@pytest.mark.parametrize(("row", "config", "client"), [
    pytest.param("hit_udp", "", hits, marks=pytest.mark.short), ("hit_udp_loop", "lanes = 0\n", hits),
    ("hit_tcp", "", hits_tcp),
])
@pytest.mark.skipif(not has_unbound(), reason="Unbound is not installed (Debian package unbound)")
def test_hit(pair, row: str, config: str, client: Callable[..., AbstractContextManager[Contender]]) -> None:
    """Answers from the cache: over UDP by a lane and by the event loop, and over TCP."""
    with (
        resolverd(config) as (pid, port),
        unbound(port) as (base_pid, base_port),
        client("resolverd", pid, port) as ours,
        client("unbound", base_pid, base_port) as base,
    ):
        pair(f"{row}/unbound", ours, base)


@pytest.mark.short
@pytest.mark.skipif(not has_collector(), reason="fstrm_capture is not installed (Debian package fstrm-bin)")
def test_observed(pair) -> None:
    """With the query log and dnstap on against both off: what they add, in all threads of the daemon."""
    with (
        observed() as (pid, port),
        resolverd() as (base_pid, base_port),
        hits("observed", pid, port) as ours,
        hits("plain", base_pid, base_port) as base,
    ):
        pair("observed/plain", ours, base)
