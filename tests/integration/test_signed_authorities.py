"""DNSSEC replies of the simulated servers compared with those of NSD, Knot and BIND for the same signed zones.

The zones are signed by dnspython. Each server selects NSEC or NSEC3 records and signatures by its own reading of
RFC 4035 section 3 and RFC 5155 section 7. Our replies must equal theirs in what `_compared` compares.
"""

from collections.abc import Iterator

import pytest
from support.ports import free_port
from support.servers import ask_packet, program, serve_export
from support.signing import Nsec3, ZoneKey, sign_zone

from resolver.playground import Authority, World, Zone
from resolver.playground.export import Export, export
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView

pytestmark = pytest.mark.integration

DAEMONS = {"nsd": "nsd", "knot": "knotd", "bind": "named"}
#: zone: its NSEC3 parameters, None for NSEC.
SIGNED = {
    "example.playground.": None,
    "dname.playground.": None,
    "types.playground.": Nsec3(5, "cafe"),
    "empty.playground.": Nsec3(),
    "playground.": Nsec3(opt_out=True),
}
ADDRESS = {"playground.": "127.20.3.1", "example.playground.": "127.20.11.1"}
DEFAULT_ADDRESS = "127.20.10.1"
LABELS = {
    "example.playground.": ("", "a", "missing", "y.z", "z", "q.wild", "r.q.wild", "not.wild", "alias3", "q.alias-wild",
                            "sub", "www.sub", "dangle", "*.wild", "aa.a", "zzz", "mail"),
    "dname.playground.": ("", "www.old", "old", "www.chain", "new", "nothing"),
    "types.playground.": ("", "unknown", "hinfo", "missing", "a.b.missing", "_tcp", "_443._tcp", "zz._tcp"),
    "empty.playground.": ("", "www.a.b.c", "a.b.c", "b.c", "c", "x.b.c", "d"),
    "playground.": ("", "missing", "example", "www.example", "dead", "www.loop", "deep", "about"),
}  # fmt: skip
TYPES = (c.A, c.AAAA, c.TXT, c.NS, c.DS, c.DNSKEY)


def signed_world() -> World:
    world = World()
    for origin, nsec3 in SIGNED.items():
        text = sign_zone(origin, world.zones[origin].to_text(), [ZoneKey(origin)], nsec3=nsec3)
        world.zones[origin] = Zone.from_text(origin, text)
    return world


@pytest.fixture(scope="module")
def world() -> World:
    return signed_world()


@pytest.fixture(scope="module", params=DAEMONS)
def served(request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Export]:
    program(DAEMONS[request.param])
    written = export(world, tmp_path_factory.mktemp(request.param), request.param, port=free_port("127.20.0.1"))
    with serve_export(written):
        yield written


@pytest.mark.parametrize("origin", SIGNED)
def test_same_records_signatures_and_proofs(served: Export, world: World, origin: str) -> None:
    address = ADDRESS.get(origin, DEFAULT_ADDRESS)
    server = next(server for server in world.servers.values() if server.address == address)
    ours = Authority([world.zones[held] for held in server.zones])
    differences, with_nsec = [], 0
    for label in LABELS[origin]:
        for qtype in TYPES:
            qname = f"{label}.{origin}" if label else origin
            packet = make_query(5, names.from_text(qname), qtype, flags=0, do=True)
            mine = ours.answer(packet, tcp=True)
            real = ask_packet(address, served.port, packet, tcp=True)
            assert mine is not None and real is not None
            here, there = _compared(MessageView.parse(mine)), _compared(real)
            if here != there:
                differences.append(f"{qname} {c.type_to_text(qtype)}\n  ours  {here}\n  real  {there}")
            with_nsec += "NSEC" in str(there)
    assert with_nsec > 10  # replies with NSEC or NSEC3 records; without them nothing would be compared
    assert not differences, "\n".join(differences)


def _compared(view: MessageView) -> object:
    """What is compared: rcode, AA, and owner, type and number of RRSIGs of each RRset of the answer, and of the SOA,
    DS, NSEC and NSEC3 RRsets of the authority section.

    Of a reply that begins with an alias only that alias is compared, as in test_authorities.
    """
    first = view.answer[:1]
    if first and first[0].rtype in (c.CNAME, c.DNAME) and first[0].rtype != view.qtype:
        return "alias", _sets(first)
    wanted = (c.SOA, c.DS, c.NSEC, c.NSEC3)
    authority = [rrset for rrset in view.authority if rrset.rtype in wanted]
    return c.rcode_to_text(view.rcode), view.aa, _sets(view.answer), _sets(authority)


def _sets(rrsets: list) -> list[str]:
    lines = []
    for rrset in rrsets:
        owner = names.to_text(names.lower(rrset.name))
        lines.append(f"{owner} {c.type_to_text(rrset.rtype)} signatures={len(rrset.sigs())}")
    return sorted(lines)
