"""A resolver with real NSD, Knot and BIND that serve the playground, queried by real dig, kdig and drill.

The results must be those of the playground's tables for every server and client. SUBJECT=unbound tests Unbound instead
of our daemon; all tests hold for it too. First the simulated servers are compared with the real ones: the same query to
the same address gives the same reply.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.servers import ask_packet, program, serve_export
from support.subject import SUBJECT, Subject, start_subject, upstream_port_for
from support.tools import TOOLS, look_up

from resolver.playground import World, world_tables
from resolver.playground.export import Export, export
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.build import make_query
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

pytestmark = pytest.mark.integration

DAEMONS = {"nsd": "nsd", "knot": "knotd", "bind": "named"}
# Faults that the exported world has not, because real servers cannot be told to have them.
MADE_UP = ("www.blind.playground.",)
# Where all servers are dead Unbound keeps trying for longer than any client waits, and says nothing meanwhile.
TOO_SLOW = ("www.dead.playground.",) if SUBJECT == "unbound" else ()
ASKED = [special for special in world_tables.SPECIALS if special.qname not in (*MADE_UP, *TOO_SLOW)]


@dataclass
class Setting:
    world: World
    export: Export
    daemon: str
    directory: Path


@pytest.fixture(scope="module", params=DAEMONS)
def setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    """The playground, served by real name servers."""
    program(DAEMONS[request.param])
    world = World()
    directory = tmp_path_factory.mktemp(request.param)
    written = export(world, directory, request.param, port=upstream_port_for(SUBJECT, world))
    with serve_export(written):
        yield Setting(world, written, request.param, directory)


@pytest.fixture(scope="module")
def subject(setting: Setting) -> Iterator[Subject]:
    with start_subject(setting.directory / "subject", setting.world, setting.export.port) as running:
        yield running


# --- the resolver in front of real servers ----------------------------------------------------------------------------


@pytest.mark.parametrize("special", ASKED, ids=lambda special: f"{special.qname}{special.qtype}")
def test_each_tool_gets_the_documented_answers(subject: Subject, special: world_tables.TestQuestion) -> None:
    expected = _expected(special)
    shown = None
    for tool, tcp in itertools.product(TOOLS, (False, True)):
        if tool == "drill" and (special.qtype == "TYPE65281" or "\\" in special.qname):
            continue  # drill can neither print empty rdata nor take an escaped dot
        seen = look_up(tool, subject.address, subject.port, special.qname, special.qtype, tcp=tcp)
        assert seen.rcode == special.rcode, seen.text
        assert "ra" in seen.flags and "aa" not in seen.flags, seen.text
        shown = shown or seen
        assert seen == shown, f"{seen.text}\n--- but before\n{shown.text}"
        if special.rcode != "SERVFAIL":
            assert {record[1:] for record in expected} <= {record[1:] for record in seen.answer}, seen.text
            assert all(0 <= ttl <= 3600 for ttl in seen.ttls.values()), seen.text


@pytest.mark.parametrize("tool", TOOLS)
def test_large_answers_are_complete_over_tcp_and_truncated_over_udp(subject: Subject, tool: str) -> None:
    whole = look_up(tool, subject.address, subject.port, "huge.big.playground.", "TXT", tcp=True)
    assert len(whole.answer) == 20
    packet = make_query(3, names.from_text("huge.big.playground."), c.TXT, edns_payload=512)
    cut = ask_packet(subject.address, subject.port, packet)
    assert cut is not None and cut.tc and len(cut.wire) <= 512


def test_ttls_count_down_from_what_the_zone_says(subject: Subject) -> None:
    first = look_up("dig", subject.address, subject.port, "www.wiki.org.")
    again = look_up("dig", subject.address, subject.port, "www.wiki.org.")
    (key,) = first.ttls
    assert 3600 >= first.ttls[key] >= again.ttls[key] >= 3590


def _expected(special: world_tables.TestQuestion) -> set[tuple[bytes, int, bytes]]:
    """What the zone itself holds under the name; aliases and renamed names are checked by comparing with Unbound."""
    world = World()
    wire = names.from_text(special.qname)
    qtype = c.type_from_text(special.qtype)
    holders = [zone for zone in world.zones.values() if names.is_subdomain(wire, zone.origin)]
    zone = max(holders, key=lambda zone: names.label_count(zone.origin))
    found = zone.lookup(wire, qtype)
    return {(names.lower(wire), rrset.rtype, rdata.lower()) for rrset in found.rrsets for rdata in rrset.rdatas()}


# --- the simulated servers beside the real ones ---------------------------------------------------------------------


def _questions() -> list[tuple[str, int]]:
    asked = [(special.qname, c.type_from_text(special.qtype)) for special in world_tables.SPECIALS]
    for qname in (
        "example.playground.",
        "alias.example.playground.",
        "not.wild.example.playground.",
        "sub.example.playground.",
        "old.dname.playground.",
        "x.y.old.dname.playground.",
        "empty.playground.",
        "b.c.empty.playground.",
        "types.playground.",
        "nothing.at.all.example.com.",
    ):
        asked += [(qname, qtype) for qtype in (c.A, c.NS, c.SOA, c.DS, c.MX, c.DNAME, c.CNAME, c.TXT)]
    for label in (
        "hinfo",
        "naptr",
        "loc",
        "sshfp",
        "_443._tcp",
        "svcb",
        "https",
        "uri",
        "rp",
        "afsdb",
        "empty",
        "multi",
    ):
        name = f"{label}.types.playground."
        world_types = {"_443._tcp": c.TLSA, "empty": c.TXT, "multi": c.TXT}
        asked.append((name, world_types.get(label) or c.type_from_text(label.upper())))
    return asked


def test_simulated_servers_answer_as_real_ones_do(setting: Setting) -> None:
    """At every address, for every question worth asking, both say the same; known liberties are named below."""
    differences = []
    compared = 0
    for server in setting.world.servers.values():
        plain = server.authority.quirks == type(server.authority.quirks)(mirror=server.authority.quirks.mirror)
        if not server.listening or not plain:
            continue
        for qname, qtype in _questions():
            if server.authority.zone_for(names.from_text(qname), qtype) is None:
                continue
            packet = make_query(5, names.from_text(qname), qtype, flags=0)
            ours = server.authority.answer(packet, tcp=True)
            theirs = ask_packet(server.address, setting.export.port, packet, tcp=True)
            assert ours is not None and theirs is not None
            compared += 1
            if (mine := _essence(MessageView.parse(ours))) != (real := _essence(theirs)):
                differences.append(
                    f"{server.name} {qname} {c.type_to_text(qtype)}\n  ours  {mine}\n  {setting.daemon}  {real}"
                )
    assert compared > 300
    assert not differences, "\n".join(differences)


def _essence(view: MessageView) -> object:
    """What a resolver makes of a reply: how it ends, and the records that decide it.

    A chain of aliases counts up to its first link: how far a server follows one is its own choice (RFC 1034 section
    3.6.2 asks for it, NSD and Knot stop at the zone), and with it change the code and what denies the rest. Of the
    addresses beside a referral only glue counts: BIND leaves out what the asker could find elsewhere.
    """
    first = view.answer[:1]
    aliased = bool(first) and first[0].rtype in (c.CNAME, c.DNAME) and first[0].rtype != view.qtype
    if aliased:
        return view.aa, _sets(first)
    denial = [rrset for rrset in view.authority if rrset.rtype == c.SOA]
    referral = [rrset for rrset in view.authority if rrset.rtype == c.NS] if not view.aa else []
    glue = [
        rrset
        for rrset in view.additional
        for cut in referral
        if rrset.rtype in (c.A, c.AAAA) and names.is_subdomain(rrset.name, cut.name)
    ]
    return c.rcode_to_text(view.rcode), view.aa, _sets(view.answer), _sets(denial), _sets(referral), _sets(glue)


def _sets(rrsets: list[RRset]) -> list[str]:
    lines = [line for rrset in rrsets for line in present.rrset_to_text(rrset.with_name(names.lower(rrset.name)))]
    return sorted(lines)
