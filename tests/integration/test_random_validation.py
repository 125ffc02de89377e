"""Random signed worlds: our daemon and Unbound must agree on secure, insecure and bogus data.

Forty zones under one parent are signed in different ways: NSEC, NSEC3 with and without opt-out, several algorithms,
not at all, and wrongly (expired signatures, a DS for another key, a DS for an unsigned zone). Aliases lead from one to
the other. Both resolvers have the root's key as trust anchor; response code, answer and AD bit must be equal.
"""

import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from support.servers import ask, program, serve_export
from support.signed_zoo import ORIGINS, random_name, signed_world
from support.subject import Subject, start_subject, upstream_port_for

from resolver.playground.export import export
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView

pytestmark = pytest.mark.integration

QUESTIONS = 40
TYPES = (c.A, c.TXT, c.MX, c.DS)
TIMEOUT = 15.0


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


def test_same_answers_and_the_same_security_status(pair: Pair) -> None:
    rng = random.Random(4)
    differences, kinds = [], set()
    for origin in ORIGINS:
        for _ in range(QUESTIONS):
            qname = random_name(rng, origin)
            qtype = rng.choice(TYPES)
            ours, theirs = (
                ask(one.address, one.port, qname, qtype, tcp=True, do=True, timeout=TIMEOUT)
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
