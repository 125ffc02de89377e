"""A small Internet for tests of the resolver's logic: a root, some zones, and servers that answer as specified.

Zones are text, servers are the pure `resolver.playground.authority.Authority`. `minet` assigns them addresses on a
`FakeNet` and connects a mesh to it. A test states zones, a query, the expected outcome and the packets sent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from support.fakenet import FakeNet, Host, Link, SeededRandom, hosts_from

from resolver.cache import Store
from resolver.effects import Outcome, Question, TraceStep
from resolver.mesh import Mesh
from resolver.playground.authority import Authority, ServerFaults
from resolver.playground.zones import Zone
from resolver.settings import DnssecSettings, IterationSettings, RootServer, Settings, replace
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import Builder
from resolver.wire.message import MessageView
from resolver.wire.present import rdata_from_text
from resolver.wire.rrset import RRset

ROOT_ADDRESS = "198.41.0.4"
ROOT_ZONE = """
@ 86400 IN SOA a.root. nobody.root. 1 1800 900 604800 900
@ 518400 IN NS a.root.
a.root. 518400 IN A 198.41.0.4
com. 172800 IN NS a.gtld.com.
a.gtld.com. 172800 IN A 192.5.6.30
net. 172800 IN NS a.gtld.net.
a.gtld.net. 172800 IN A 192.5.6.31
"""
COM_ZONE = """
@ 900 IN SOA a.gtld.com. nobody.com. 1 1800 900 604800 900
@ 172800 IN NS a.gtld.com.
a.gtld 172800 IN A 192.5.6.30
example 7200 IN NS ns1.example
example 7200 IN NS ns2.example
ns1.example 7200 IN A 192.0.2.1
ns2.example 7200 IN A 192.0.2.2
"""
NET_ZONE = """
@ 900 IN SOA a.gtld.net. nobody.net. 1 1800 900 604800 900
@ 172800 IN NS a.gtld.net.
a.gtld 172800 IN A 192.5.6.31
"""
EXAMPLE_ZONE = """
@ 3600 IN SOA ns1 nobody 1 1800 900 604800 300
@ 7200 IN NS ns1
@ 7200 IN NS ns2
ns1 7200 IN A 192.0.2.1
ns2 7200 IN A 192.0.2.2
www 300 IN A 192.0.2.80
alias 300 IN CNAME www
deep.sub.tree 300 IN A 192.0.2.81
"""
# Standard population: address -> [(origin, text)]
STANDARD: dict[str, list[tuple[str, str]]] = {
    ROOT_ADDRESS: [(".", ROOT_ZONE)],
    "192.5.6.30": [("com.", COM_ZONE)],
    "192.5.6.31": [("net.", NET_ZONE)],
    "192.0.2.1": [("example.com.", EXAMPLE_ZONE)],
    "192.0.2.2": [("example.com.", EXAMPLE_ZONE)],
}


def standard(**changes: Sequence[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """A copy of the standard population with `changes` by address (dots as underscores, prefixed with ``a``)."""
    result = dict(STANDARD)
    for key, zones in changes.items():
        result[key[1:].replace("_", ".")] = list(zones)
    return result


@dataclass
class Minet:
    """The network, the mesh in front of it and the store behind it."""

    net: FakeNet
    mesh: Mesh
    store: Store
    settings: Settings

    def ask(self, name: str, rtype: str = "A", *, cd: bool = False, trace: list[TraceStep] | None = None) -> Outcome:
        """Resolve one question to its end in virtual time."""
        found: list[Outcome] = []
        question = Question(names.from_text(name), c.type_from_text(rtype))
        self.mesh.submit(question, cd=cd, on_done=found.append, trace=trace)
        self.net.run(self.mesh, until=lambda: bool(found))
        assert len(found) == 1, f"{name} {rtype} got {len(found)} outcomes"
        return found[0]

    def start(self, name: str, rtype: str = "A", *, cd: bool = False) -> tuple[Any, list[Outcome]]:
        """Submit without waiting: the ticket and the list that the outcome will be put into."""
        found: list[Outcome] = []
        ticket = self.mesh.submit(Question(names.from_text(name), c.type_from_text(rtype)), cd=cd, on_done=found.append)
        return ticket, found


def build(
    population: Mapping[str, Sequence[tuple[str, str]]] = STANDARD,
    *,
    quirks: Mapping[str, ServerFaults] | None = None,
    links: Mapping[str, Link] | None = None,
    settings: Settings | None = None,
    seed: int = 1,
    hints: Sequence[tuple[str, tuple[str, ...]]] = (("a.root.", (ROOT_ADDRESS,)),),
    own: Sequence[str] = (),
    crypto: Any = None,
    **iteration: Any,
) -> Minet:
    """A mini-Internet; further keywords are fields of `IterationSettings`."""
    base = settings if settings is not None else Settings(dnssec=DnssecSettings(trust_anchors=()))
    base = replace(
        base,
        root_hints=tuple(RootServer(name, addresses) for name, addresses in hints),
        iteration=replace(base.iteration, **iteration) if iteration else base.iteration,
    )
    assert isinstance(base.iteration, IterationSettings)
    authorities = {
        address: Authority([Zone.from_text(origin, text) for origin, text in zones], quirks=(quirks or {}).get(address))
        for address, zones in population.items()
    }
    return assemble(FakeNet(hosts_from(authorities), dict(links or {}), seed), base, own=own, crypto=crypto)


def assemble(net: FakeNet, settings: Settings, *, own: Sequence[str] = (), crypto: Any = None) -> Minet:
    """A mesh with an empty cache in front of `net`; settings are dear to check and may be those of another one."""
    store = Store.create(1 << 22, seed=bytes(16))
    mesh = Mesh(
        exchange=net,
        crypto=crypto,
        clock=net,
        rng=SeededRandom(net.seed),
        store=store,
        settings=settings,
        own_addresses=own,
    )
    return Minet(net, mesh, store, settings)


def addresses(outcome: Outcome) -> list[str]:
    """The A addresses of an outcome, sorted."""
    sets = [rrset for rrset in outcome.answer if rrset.rtype == c.A]
    return sorted(".".join(map(str, rdata)) for rrset in sets for rdata in rrset.rdatas())


# --- servers that say what a test wants ---------------------------------------------------------------------------


def rr(text: str) -> RRset:
    """A set of one record from ``owner ttl type rdata``."""
    owner, ttl, rtype, rdata = text.split(None, 3)
    number = c.type_from_text(rtype)
    return RRset(names.from_text(owner), number, int(ttl), [rdata_from_text(number, rdata)])


def reply(
    packet: bytes,
    answer: Sequence[str | RRset] = (),
    authority: Sequence[str | RRset] = (),
    additional: Sequence[str | RRset] = (),
    *,
    rcode: int = c.NOERROR,
    flags: int = c.AA,
    tcp: bool = True,
) -> bytes:
    """A reply to `packet` with these records in its sections."""
    query = MessageView.parse(packet)
    builder = Builder(65535, reserve_opt=11)
    builder.start(query.id, c.QR | flags | rcode, query.qname, query.qtype)
    for section, records in ((c.ANSWER, answer), (c.AUTHORITY, authority), (c.ADDITIONAL, additional)):
        for record in records:
            assert builder.add(section, rr(record) if isinstance(record, str) else record, sigs=True)
    if query.edns is not None:
        builder.opt(1232)
    return builder.finish()


def scripted(script: Callable[[str, int, bytes], bytes | None]) -> Host:
    """A host whose `script` gets the lower-cased name as text, the type and the packet."""

    def host(packet: bytes, tcp: bool) -> bytes | None:
        view = MessageView.parse(packet)
        return script(names.to_text(names.lower(view.qname or names.ROOT)), view.qtype, packet)

    return host
