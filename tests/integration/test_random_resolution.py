"""Random worlds of forty zones with aliases into each other: our daemon and Unbound must get equal results.

The zones are on real servers, on other addresses than their parents, so every query needs referrals. Aliases lead to
other zones, wildcards, DNAME subtrees, lame delegations, loops and missing names. Generated from a seed.
"""

import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from support.random_zones import LABELS, random_zone
from support.servers import ask, program, serve_export
from support.subject import Subject, start_subject, upstream_port_for

from resolver.playground import World, Zone, world_tables
from resolver.playground.export import export
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView

pytestmark = pytest.mark.integration

ZONES = 40
QUESTIONS = 60
TYPES = (c.A, c.TXT, c.MX)
TIMEOUT = 15.0
LAME = "127.20.231.9"
SERVERS = {
    "a.root.": world_tables.ServerSpec("127.20.231.1"),
    "ns.zoo.": world_tables.ServerSpec("127.20.231.2"),
    "one.zones.zoo.": world_tables.ServerSpec("127.20.231.3"),
    "two.zones.zoo.": world_tables.ServerSpec("127.20.231.4"),
    "lame.zoo.": world_tables.ServerSpec(LAME),
}
ORIGINS = [f"z{n}.zoo." for n in range(ZONES)]


def random_world(seed: int) -> World:
    rng = random.Random(seed)
    zones = {".": world_tables.ZoneSpec(("a.root.",), "root"), "zoo.": world_tables.ZoneSpec(("ns.zoo.",), "test")}
    for origin in ORIGINS:
        text = random_zone(rng, origin, others=rng.sample(ORIGINS, 3), glue=LAME, most=16)
        servers = ("one.zones.zoo.", "two.zones.zoo.")[: rng.randint(1, 2)]
        zones[origin] = world_tables.ZoneSpec(servers, "random", text)
    zones["zones.zoo."] = world_tables.ZoneSpec(("ns.zoo.",), "home of the servers")
    return World(zones, SERVERS, ())


@dataclass
class Pair:
    ours: Subject
    theirs: Subject
    seed: int


@pytest.fixture(params=[1, 3])
def pair(request: pytest.FixtureRequest, tmp_path) -> Iterator[Pair]:
    program("knotd")
    program("unbound")
    world = random_world(request.param)
    port = upstream_port_for("unbound", world)
    with ExitStack() as stack:
        stack.enter_context(serve_export(export(world, tmp_path, "knot", port=port)))
        ours = stack.enter_context(start_subject(tmp_path / "ours", world, port, kind="resolverd"))
        theirs = stack.enter_context(start_subject(tmp_path / "theirs", world, port, kind="unbound"))
        yield Pair(ours, theirs, request.param)


def test_same_answers(pair: Pair) -> None:
    rng = random.Random(3)
    differences, kinds = [], set()
    for origin in ORIGINS:
        for _ in range(QUESTIONS):
            qname = ".".join([*rng.choices([*LABELS[:3], "d"], k=rng.randint(0, 4)), origin])
            qtype = rng.choice(TYPES)
            ours, theirs = (
                ask(one.address, one.port, qname, qtype, tcp=True, timeout=TIMEOUT) for one in (pair.ours, pair.theirs)
            )
            assert ours is not None and theirs is not None, (qname, qtype)
            kinds.add((theirs.rcode, len(theirs.answer)))
            if _essence(ours) != _essence(theirs):
                title = f"{qname} {c.type_to_text(qtype)}"
                differences.append(f"{title}\n  ours      {_essence(ours)}\n  Unbound's {_essence(theirs)}")
    assert len(kinds) > 6
    assert not differences, f"{len(differences)}\n" + "\n".join(differences[:10])


def test_an_alias_made_from_a_dname_never_stands_alone(pair: Pair) -> None:
    """Asked for the alias itself, a resolver shows the DNAME as well, now and from its cache (RFC 6672 section 3.1)."""
    zone = next(zone for zone in random_world(pair.seed).zones.values() if _renamed(zone))
    qname = "x." + names.to_text(_renamed(zone))
    for qtype in (c.CNAME, c.A, c.CNAME):
        for subject in (pair.theirs, pair.ours):
            view = ask(subject.address, subject.port, qname, qtype, tcp=True, timeout=TIMEOUT)
            assert view is not None
            assert [rrset.rtype for rrset in view.answer[:2]] == [c.DNAME, c.CNAME], (subject.kind, qname, qtype)


def _renamed(zone: Zone) -> bytes:
    """The owner of a DNAME in `zone`; empty when there is none."""
    return next((owner for owner, node in zone.nodes.items() if c.DNAME in node), b"")


def _essence(view: MessageView) -> object:
    """Code and records of the answer section; of a failure only that it is one."""
    if view.rcode == c.SERVFAIL:
        return "SERVFAIL"
    records = {
        f"{names.to_text(names.lower(rrset.name))} {c.type_to_text(rrset.rtype)} {rdata!r}"
        for rrset in view.answer
        for rdata in rrset.canonical_rdatas()
    }
    return c.rcode_to_text(view.rcode), sorted(records)
