"""Random signed worlds: our daemon and Unbound have to believe, mark and refuse the same.

Forty zones under one parent are signed in different ways: NSEC, NSEC3 with and without opt-out, several algorithms,
not at all, and wrongly (signatures that are over, a DS for another key, a DS for an unsigned zone). Aliases lead from
one to the other. Both resolvers start from the root's key; response code, answer and AD bit have to be equal.
"""

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from support.random_zones import LABELS, random_zone
from support.servers import ask, program, serve_export
from support.signing import ECDSAP256, ED25519, RSASHA256, Nsec3, ZoneKey, sign_zone
from support.subject import Subject, start_subject, upstream_port_for

from resolver.playground import World, Zone, atlas
from resolver.playground.export import export
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView

pytestmark = pytest.mark.integration

ZONES = 40
QUESTIONS = 40
TYPES = (c.A, c.TXT, c.MX, c.DS)
PATIENCE = 15.0
DAY = 86400
LAME = "127.20.232.9"
SERVERS = {
    "a.root.": atlas.ServerSpec("127.20.232.1"),
    "ns.zoo.": atlas.ServerSpec("127.20.232.2"),
    "one.zones.zoo.": atlas.ServerSpec("127.20.232.3"),
    "lame.zoo.": atlas.ServerSpec(LAME),
}
ORIGINS = [f"z{n}.zoo." for n in range(ZONES)]
CHAINS = (None, Nsec3(), Nsec3(3, "ab"), Nsec3(opt_out=True))
ALGORITHMS = (ECDSAP256, ED25519, RSASHA256)
# What a zone is: mostly sound, sometimes unsigned, sometimes broken in one of three ways.
FATES = ("sound",) * 6 + ("unsigned",) * 2 + ("expired", "wrong DS", "stripped")


def signed_world(seed: int) -> tuple[World, str]:
    """The world and the root's anchor."""
    rng, now = random.Random(seed), int(time.time())
    specs = {".": atlas.ZoneSpec(("a.root.",), "root"), "zoo.": atlas.ZoneSpec(("ns.zoo.",), "zoo")}
    for origin in ORIGINS:
        text = random_zone(rng, origin, others=rng.sample(ORIGINS, 3), glue=LAME)
        specs[origin] = atlas.ZoneSpec(("one.zones.zoo.",), "random", text)
    specs["zones.zoo."] = atlas.ZoneSpec(("ns.zoo.",), "home of the servers")
    world = World(specs, SERVERS, ())
    links: dict[str, list[str]] = {"zoo.": [], ".": []}
    for origin in [*ORIGINS, "zoo.", "."]:
        fate = rng.choice(FATES) if origin in ORIGINS else "sound"
        key = ZoneKey(origin, rng.choice(ALGORITHMS), label=f"random{rng.randint(1, 3)}")
        text = world.zones[origin].to_text() + "".join(links.get(origin, ()))
        if fate not in ("unsigned", "stripped"):
            begin, end = (now - 9 * DAY, now - 2 * DAY) if fate == "expired" else (now - DAY, now + DAY)
            # With opt-out, what a wildcard says below a cut's empty non-terminals cannot be proved either way.
            unclear = "*" in text and " NS ns." in text
            chain = rng.choice(CHAINS[:-1] if unclear else CHAINS)
            text = sign_zone(origin, text, [key], nsec3=chain, inception=begin, expiration=end)
        world.zones[origin] = Zone.from_text(origin, text)
        if origin in ORIGINS and fate != "unsigned":
            told = ZoneKey(origin, ECDSAP256, label="another") if fate == "wrong DS" else key
            links["zoo."].append(f"{origin} 3600 IN DS {told.ds()}\n")
        if origin == "zoo.":
            links["."].append(f"zoo. 3600 IN DS {key.ds()}\n")
    return world, key.anchor()


@dataclass
class Pair:
    ours: Subject
    theirs: Subject


@pytest.fixture(params=[1, 5, 7])
def pair(request: pytest.FixtureRequest, tmp_path) -> Iterator[Pair]:
    program("named")
    program("unbound")
    world, anchor = signed_world(request.param)
    port = upstream_port_for("unbound", world)
    with ExitStack() as stack:
        stack.enter_context(serve_export(export(world, tmp_path, "bind", port=port)))
        ours = stack.enter_context(start_subject(tmp_path / "ours", world, port, kind="resolverd", anchor=anchor))
        theirs = stack.enter_context(start_subject(tmp_path / "theirs", world, port, kind="unbound", anchor=anchor))
        yield Pair(ours, theirs)


def test_same_answers_and_the_same_belief(pair: Pair) -> None:
    rng = random.Random(4)
    differences, kinds = [], set()
    for origin in ORIGINS:
        for _ in range(QUESTIONS):
            qname = ".".join([*rng.choices([*LABELS[:3], "d"], k=rng.randint(0, 4)), origin])
            qtype = rng.choice(TYPES)
            ours, theirs = (
                ask(one.address, one.port, qname, qtype, tcp=True, do=True, timeout=PATIENCE)
                for one in (pair.ours, pair.theirs)
            )
            assert ours is not None and theirs is not None, (qname, qtype)
            kinds.add((theirs.rcode, theirs.ad, bool(theirs.answer)))
            if _essence(ours) != _essence(theirs):
                title = f"{qname} {c.type_to_text(qtype)}"
                differences.append(f"{title}\n  ours      {_essence(ours)}\n  Unbound's {_essence(theirs)}")
    assert len(kinds) > 6
    assert not differences, f"{len(differences)}\n" + "\n".join(differences[:10])


def _essence(view: MessageView) -> object:
    """Code, AD, and records of the answer section with the number of signatures; of a failure only that it is one.

    Only what stands on the way from the question counts: Unbound also shows an alias that owns a part of the name and
    that it met while minimising.
    """
    assert view.qname is not None
    if view.rcode == c.SERVFAIL:
        return "SERVFAIL"
    path = [names.lower(view.qname)]
    for rrset in view.answer:
        if rrset.rtype == c.CNAME and names.lower(rrset.name) == path[-1]:
            path.append(names.lower(rrset.targets()[0]))
    records = {
        f"{names.to_text(names.lower(rrset.name))} {c.type_to_text(rrset.rtype)} {len(rrset.sigs())} {rdata!r}"
        for rrset in view.answer
        if rrset.rtype == c.DNAME or names.lower(rrset.name) in path
        for rdata in rrset.canonical_rdatas()
    }
    return c.rcode_to_text(view.rcode), view.ad, sorted(records)
