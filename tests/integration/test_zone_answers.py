"""Answers of an own zone, compared with NSD, Knot and BIND that serve the same file: unsigned, NSEC and NSEC3."""

import io
from pathlib import Path

import pytest
from support.servers import ask
from support.zone_peers import KINDS, ZONE, Peer, reply_sets, serve, sign

from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView
from resolver.zones.answer import Answerer
from resolver.zones.load import read_zone
from resolver.zones.table import message

pytestmark = pytest.mark.integration

ORIGIN = "e.test."
NAMES = ["", "a", "A", "ns1", "q.wild", "q.r.wild", "wild", "*.wild", "q.wc", "wc", "deep", "ent.deep", "b.ent.deep",
         "no.ent.deep", "alias", "chain", "out", "dn", "x.dn", "y.dn", "x.target", "target", "sub", "ns.sub", "w.sub",
         "ext", "w.ext", "safe", "w.safe", "none", "x.y.none", "zzz", "0", "only.sub2", "sub2", "u.only.sub2",
         "w.u.only.sub2", "q.only.sub2"]
TYPES = [c.A, c.AAAA, c.TXT, c.NS, c.DS, c.CNAME, c.SOA, c.DNSKEY, c.NSEC]
SIGNING = {"plain": None, "nsec": (), "nsec3": ("-n", "-s", "ab12", "-t", "3"), "optout": ("-n", "-p", "-s", "-")}

# Where a server differs from the other two.
DEVIATIONS: dict[str, set[int]] = {"nsd": set(), "knot": {c.NSEC}, "bind": {c.NSEC}}
DEVIATING_NAMES: dict[str, set[str]] = {"nsd": {"y.dn", "*.wild"}, "knot": set(), "bind": set()}


def zone_text(how: str, home: Path) -> str:
    options = SIGNING[how]
    text = ZONE.format(serial=5)
    if options is None:
        return text
    if "-" in options:
        options = tuple(one for one in options if one not in ("-s", "-"))
    return sign(text, ORIGIN, home, *options)


def differences(answerer: Answerer, peer: Peer) -> list[str]:
    found = []
    for label in NAMES:
        for qtype in TYPES:
            qname = f"{label}.{ORIGIN}".lstrip(".")
            if qtype in DEVIATIONS[peer.kind] or label in DEVIATING_NAMES[peer.kind]:
                continue
            theirs = ask("127.0.0.1", peer.port, qname, qtype, tcp=True, do=True, flags=0)
            assert theirs is not None
            wire = names.from_text(qname)
            ours = MessageView.parse(message(answerer.answer(wire, qtype), wire, qtype))
            left, right = reply_sets(ours), reply_sets(theirs)
            if theirs.aa:
                # Servers add the NS set of the zone to positive answers.
                right["authority"] = [text for text in right["authority"] if " NS " not in text]
            if left != right:
                changed = {
                    key: (sorted({*left[key]} - {*right[key]}), sorted({*right[key]} - {*left[key]}))
                    if isinstance(left[key], list) else (left[key], right[key])
                    for key in left if left[key] != right[key]
                }
                found.append(f"{qname} {c.type_to_text(qtype)} (ours, theirs): {changed}")
    return found


@pytest.mark.parametrize("how", SIGNING)
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_other_servers(kind: str, how: str, tmp_path: Path) -> None:
    text = zone_text(how, tmp_path / "keys")
    zone = read_zone(io.StringIO(text), "zone", names.from_text(ORIGIN))
    with serve(Peer(kind, tmp_path / kind, text=text)) as peer:
        found = differences(Answerer(zone), peer)
    assert found == [], "\n".join(found[:5]) + f"\n{len(found)} differences"
