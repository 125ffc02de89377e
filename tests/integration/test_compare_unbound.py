"""Our daemon and Unbound with the same name servers and the same queries.

Response code and answer section must be equal; a TTL may differ only by the time between the two queries. The name
servers are real ones, then the playground, whose servers have faults that real ones do not have. Unbound queries port
53 only, so the servers use that port on their loopback addresses; without permission, this file is skipped.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from support.servers import ask, program, serve_export
from support.subject import Subject, serve_playground, start_subject, upstream_port_for

from resolver.playground import World, world_tables
from resolver.playground.export import export
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView

pytestmark = pytest.mark.integration

SERVERS = {"nsd": "nsd", "knot": "knotd", "bind": "named", "playground": None}
TIMEOUT = 15.0
TTL_SLACK = 2
TYPES = (c.A, c.AAAA, c.MX, c.TXT, c.SOA, c.NS, c.CNAME, c.DS, c.SRV)
# Unbound keeps querying dead servers, and those that drop EDNS, for longer than a client waits: nothing to compare.
SILENT = ("www.dead.playground.", "www.edns-drop.playground.")
GROUPS = {
    "specials": [(s.qname, c.type_from_text(s.qtype)) for s in world_tables.SPECIALS if s.qname not in SILENT],
    "apexes": [
        (origin, qtype)
        for origin in world_tables.ZONES
        for qtype in (c.SOA, c.NS, c.TXT)
        if not origin.startswith(("dead.", "edns-drop.", "lame-all", "upward.", "servfail.", "cycle-", "no-glue"))
    ],
    "well-made zone": [
        (f"{label}.example.playground.", qtype)
        for qtype in TYPES
        for label in (
            "a",
            "many",
            "six",
            "both",
            "mail",
            "_imap._tcp",
            "alias2",
            "ext",
            "x.y.z",
            "y.z",
            "z",
            "q.wild",
            "not.wild",
            "deep.wild",
            "q.alias-wild",
            "ttl5",
            "upper.CASE",
            "under_score",
            "none",
            "a.none",
            "sub",
            "www.sub",
            "up.sub",
            "sp\\032ace",
            "raw\\000\\255",
            "l" * 63,
        )
    ],
    "rare types": [
        (f"{label}.types.playground.", c.type_from_text(qtype))
        for label, qtype in (
            ("hinfo", "HINFO"),
            ("naptr", "NAPTR"),
            ("loc", "LOC"),
            ("sshfp", "SSHFP"),
            ("_443._tcp", "TLSA"),
            ("svcb", "SVCB"),
            ("https", "HTTPS"),
            ("uri", "URI"),
            ("rp", "RP"),
            ("afsdb", "AFSDB"),
            ("empty", "TXT"),
            ("multi", "TXT"),
            ("quoted", "TXT"),
            ("unknown", "TYPE65280"),
            ("nothing", "TYPE65281"),
        )
    ],
    # Not where the target does not exist: NSD says so in the rcode, which Unbound passes on, though not from its cache.
    "aliases asked for all their records": [
        (qname, qtype)
        for qtype in (c.ANY, c.CNAME, c.ANY)
        for qname in (
            "www.old.dname.playground.",
            "www.away.dname.playground.",
            "www.chain.dname.playground.",
            "www.dname-apex.com.",
            "alias2.example.playground.",
            "ext.example.playground.",
        )
    ]
    + [("www.old.dname.playground.", c.RRSIG), ("none.old.dname.playground.", c.RRSIG)],
    "nothing there": [
        (qname, qtype)
        for qtype in (c.A, c.NS)
        for qname in (
            "nonexistent.",
            "a.b.nonexistent.",
            "nonexistent.com.",
            "www.nonexistent.com.",
            "x.www.example.com.",
            "9.9.18.198.in-addr.arpa.",
            "deep.playground.",
            "x.one.deep.playground.",
            "nothing.chain.com.",
        )
    ],
}


@dataclass
class Pair:
    ours: Subject
    theirs: Subject
    served_by: str
    started: float


@pytest.fixture(scope="module", params=SERVERS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both resolvers in front of one kind of name server."""
    binary = SERVERS[request.param]
    if binary is not None:
        program(binary)
    program("unbound")
    world = World()
    port = upstream_port_for("unbound", world)
    directory = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        if binary is not None:
            stack.enter_context(serve_export(export(world, directory, request.param, port=port)))
        else:
            stack.enter_context(serve_playground(directory, world, port))
        ours = stack.enter_context(start_subject(directory / "ours", world, port, kind="resolverd"))
        theirs = stack.enter_context(start_subject(directory / "theirs", world, port, kind="unbound"))
        yield Pair(ours, theirs, request.param, time.monotonic())


@pytest.mark.parametrize("group", GROUPS)
def test_same_answers(pair: Pair, group: str) -> None:
    differences = []
    for qname, qtype in GROUPS[group]:
        theirs = _asked(pair.theirs, qname, qtype)
        ours = _asked(pair.ours, qname, qtype)
        title = f"{qname} {c.type_to_text(qtype)}"
        if theirs is None or ours is None:
            differences.append(f"{title}: ours {_shown(ours)}, Unbound's {_shown(theirs)}")
        elif _essence(ours) != _essence(theirs):
            differences.append(f"{title}:\n  ours      {_shown(ours)}\n  Unbound's {_shown(theirs)}")
        else:
            differences += [f"{title}: {text}" for text in _ttl_faults(ours, theirs, pair.started)]
    assert not differences, "\n".join(differences)


def test_special_names_have_the_documented_answers(pair: Pair) -> None:
    """Also where Unbound is silent; the faults themselves only exist in the playground."""
    wrong = {}
    for special in world_tables.SPECIALS:
        if special.qname == "www.a.b.c.blind.playground." and pair.served_by != "playground":
            continue
        view = _asked(pair.ours, special.qname, c.type_from_text(special.qtype))
        rcode = "nothing" if view is None else c.rcode_to_text(view.rcode)
        if rcode != special.rcode:
            wrong[special.qname] = f"{rcode} instead of {special.rcode}"
    assert not wrong


@pytest.mark.parametrize("qname", ["huge.big.playground.", "wide.big.playground.", "www.example.playground."])
def test_udp_and_tcp_give_the_same_answers(pair: Pair, qname: str) -> None:
    qtype = c.TXT if qname.startswith("huge") else c.A
    for subject in (pair.ours, pair.theirs):
        over_tcp = ask(subject.address, subject.port, qname, qtype, tcp=True, timeout=TIMEOUT)
        over_udp = ask(subject.address, subject.port, qname, qtype, timeout=TIMEOUT)
        assert over_tcp is not None and over_udp is not None
        assert over_udp.tc or _essence(over_udp) == _essence(over_tcp)
        assert not over_tcp.tc and over_tcp.answer


def _asked(subject: Subject, qname: str, qtype: int) -> MessageView | None:
    return ask(subject.address, subject.port, qname, qtype, tcp=True, timeout=TIMEOUT)


def _essence(view: MessageView) -> tuple[int, frozenset[tuple[bytes, int, bytes]]]:
    """Response code and answer section; of a failure only that it is one, partial chains of aliases do not count."""
    if view.rcode == c.SERVFAIL:
        return c.SERVFAIL, frozenset()
    records = {
        (names.lower(rrset.name), rrset.rtype, rdata) for rrset in view.answer for rdata in rrset.canonical_rdatas()
    }
    return view.rcode, frozenset(records)


def _ttl_faults(ours: MessageView, theirs: MessageView, started: float) -> list[str]:
    """TTLs that differ by more than both caches' age; aliases made from a DNAME have no TTL of their own."""
    allowed = time.monotonic() - started + TTL_SLACK
    made = any(rrset.rtype == c.DNAME for rrset in ours.answer)
    reference = {rrset.key: rrset.ttl for rrset in theirs.answer}
    return [
        f"TTL of {names.to_text(rrset.name)} {c.type_to_text(rrset.rtype)}: {rrset.ttl}, theirs {reference[rrset.key]}"
        for rrset in ours.answer
        if abs(rrset.ttl - reference[rrset.key]) > allowed and not (made and rrset.rtype == c.CNAME)
    ]


def _shown(view: MessageView | None) -> str:
    if view is None:
        return "nothing"
    records = sorted(
        f"{names.to_text(owner)} {c.type_to_text(rtype)} {rdata!r}" for owner, rtype, rdata in _essence(view)[1]
    )
    return f"{c.rcode_to_text(view.rcode)} {records}"
