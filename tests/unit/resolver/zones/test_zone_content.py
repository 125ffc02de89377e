"""Content of zones: what a file may hold and where its errors are, changes, memory, and the table of served zones."""

import io
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from support.zone_versions import soa, version

from resolver import limits
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView
from resolver.zones import ServedZone, Zone, ZoneError, ZoneTable, zone, zonemd
from resolver.zones.answer import Answer
from resolver.zones.load import ZoneFileError, missing_glue, read_zone
from resolver.zones.table import Mode
from resolver.zones.zone import Difference, in_canonical_order

ORIGIN = names.from_text("e.test.")
HEAD = "$TTL 300\n@ SOA ns host 7 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\n"


def zone_of(text: str) -> Zone:
    return read_zone(io.StringIO(HEAD + text), "e.zone", ORIGIN)


def record(owner: str, rtype: int, rdata: bytes, ttl: int = 300) -> tuple[bytes, int, int, bytes]:
    return names.from_text(owner), rtype, ttl, rdata


@pytest.mark.parametrize(("line", "says"), [
    ("a A 192.0.2.1\na CNAME b\n", "e.zone:6: a.e.test. has a CNAME and other data (A)"),
    ("a.other.test. A 192.0.2.1\n", "e.zone:5: a.other.test. is outside of the zone e.test."),
    ("sub SOA a b 1 2 3 4 5\n", "e.zone:5: sub.e.test. has a SOA record but is not the zone's apex"),
    ("a CNAME b\na CNAME d\n", "e.zone:6: a.e.test. has two CNAME records"),
    ("a NONSENSE 1\n", "e.zone:5: unknown rdatatype 'NONSENSE'"),
    ("$INCLUDE /does/not/exist\n", "No such file"),
])
def test_an_error_has_file_and_line(line: str, says: str) -> None:
    with pytest.raises((ZoneFileError, OSError)) as caught:
        zone_of(line)
    assert says in str(caught.value)


def test_an_included_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "more.zone").write_text("a A 192.0.2.1\nb.other.test. A 192.0.2.2\n")
    with pytest.raises(ZoneFileError, match=r"more\.zone:2: b\.other\.test\. is outside"):
        zone_of(f"$INCLUDE {tmp_path}/more.zone\n")


@pytest.mark.parametrize("text", ["@ NS ns\n", "@ SOA a b 1 2 3 4 5\n"])
def test_a_zone_without_soa_or_ns_is_refused(text: str) -> None:
    with pytest.raises(ZoneFileError, match="has no"):
        read_zone(io.StringIO("$TTL 5\n" + text), "e.zone", ORIGIN)


def test_the_number_of_records_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ZONE_RECORDS", 100)
    with pytest.raises(ZoneFileError, match="more than 100 records"):
        zone_of("$GENERATE 1-4000000000 h$ A 192.0.2.1\n")
    with pytest.raises(ZoneError, match="more than 100 records"):
        Zone.from_records(ORIGIN, [*zone_of(""), *(record(f"h{n}.e.test.", c.A, bytes(4)) for n in range(100))])


@pytest.mark.parametrize(("limit", "value"), [("ZONE_RECORDS", 1000), ("ZONE_OCTETS", 100_000)])
def test_names_without_records_are_limited(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    """RFC 4592 section 2.2.2: each of these records makes 110 names."""
    deep = [record(f"{'a.' * 110}h{n}.e.test.", c.A, bytes(4)) for n in range(20)]
    monkeypatch.setattr(limits, limit, value)
    assert Zone.from_records(ORIGIN, [*zone_of(""), *deep[:2]]).exists(names.from_text("a.a.h1.e.test."))
    with pytest.raises(ZoneError, match="names without records included"):
        Zone.from_records(ORIGIN, [*zone_of(""), *deep])
    before = Zone.from_records(ORIGIN, [*zone_of(""), *deep[:2]])
    soa = next(iter(before))
    newer = (soa[0], soa[1], soa[2], soa[3][:-20] + (8).to_bytes(4, "big") + soa[3][-16:])
    with pytest.raises(ZoneError, match="names without records included"):
        before.changed([Difference([soa], [newer, *deep[2:]])])


def test_the_size_of_a_set_is_limited() -> None:
    many = [record("a.e.test.", c.A, n.to_bytes(4, "big")) for n in range(limits.RRSET_RECORDS + 1)]
    with pytest.raises(ZoneError, match="more than 512 records of type A"):
        Zone.from_records(ORIGIN, [*zone_of(""), *many])


def test_the_number_of_sets_of_a_name_is_limited() -> None:
    """A primary could otherwise make each query for the name slow."""
    apex = list(version(1))
    many = [record("a.e.test.", 1000 + n, b"\0") for n in range(limits.ZONE_TYPES)]
    zone = Zone.from_records(ORIGIN, [*apex, *many])
    assert len(zone.rrsets(names.from_text("a.e.test."), b"\1A" + ORIGIN)) == limits.ZONE_TYPES
    one_more = record("a.e.test.", c.A, b"\xc0\0\2\1")
    with pytest.raises(ZoneError, match=f"more than {limits.ZONE_TYPES} record sets"):
        Zone.from_records(ORIGIN, [*apex, *many, one_more])
    old, new = soa(version(1)), soa(version(2))
    with pytest.raises(ZoneError, match=f"more than {limits.ZONE_TYPES} record sets"):
        zone.changed([Difference([old], [new, one_more])])
    assert zone.changed([Difference([old, many[0]], [new, one_more])]).serial == 2


def test_missing_glue_is_found() -> None:
    zone = zone_of("sub NS ns.sub\nfine NS ns.fine\nns.fine A 192.0.2.2\next NS ns.other.test.\n")
    assert missing_glue(zone) == [names.from_text("ns.sub.e.test.")]


def test_a_change_keeps_the_old_zone() -> None:
    old = zone_of("a A 192.0.2.5\nb.c.d A 192.0.2.6\n")
    soa = old.soa.rdata(0)
    next_soa = soa[:-20] + (8).to_bytes(4, "big") + soa[-16:]
    new = old.changed([Difference(
        [record("e.test.", c.SOA, soa), record("b.c.d.e.test.", c.A, bytes([192, 0, 2, 6]))],
        [record("e.test.", c.SOA, next_soa), record("x.y.e.test.", c.A, bytes([192, 0, 2, 9]))],
    )])
    assert (old.serial, new.serial) == (7, 8)
    assert old.exists(names.from_text("d.e.test."))
    assert not new.exists(names.from_text("d.e.test.")), "an empty non-terminal ends with the last name below it"
    assert new.exists(names.from_text("y.e.test."))
    assert sorted(new) == sorted(Zone.from_records(ORIGIN, new))


@pytest.mark.parametrize(("removed", "added", "says"), [
    ([record("no.e.test.", c.A, bytes(4))], [], "is removed but does not exist"),
    ([], [record("ns.e.test.", c.A, bytes([192, 0, 2, 1]))], "is added but exists"),
    ([], [record("ns.e.test.", c.CNAME, b"\1a\0")], "has a CNAME and other data"),
    ([], [record("a.test.", c.A, bytes(4))], "is outside of the zone"),
    ([], [record("a.e.test.", c.A, bytes(3))], "rdata is shorter"),
])
def test_a_change_that_does_not_fit_is_refused(removed: list, added: list, says: str) -> None:  # type: ignore[type-arg]
    zone = zone_of("")
    soa = record("e.test.", c.SOA, zone.soa.rdata(0))
    with pytest.raises(ZoneError, match=says):
        zone.changed([Difference([soa, *removed], [soa, *added])])


def test_the_root_zone_costs_less_than_a_hundred_octets_a_record() -> None:
    """A zone like the root: 1,450 delegations with some six name servers, glue, DS, RRSIG and NSEC."""
    rng = random.Random(7)
    made = [record(".", c.SOA, b"\1a\0\1b\0" + bytes(20)), record(".", c.NS, b"\1a\0")]
    for tld in range(1450):
        zone = names.prepend(b"tld%d" % tld, names.ROOT)
        for server in range(6):
            ns = names.prepend(b"ns%d" % server, zone)
            made += [(zone, c.NS, 300, ns), (ns, c.A, 300, rng.randbytes(4)), (ns, c.AAAA, 300, rng.randbytes(16))]
        made.append((zone, c.DS, 300, rng.randbytes(36)))
        made.append((zone, c.RRSIG, 300, b"\0\x2b" + rng.randbytes(16) + b"\0" + rng.randbytes(256)))
    zone_ = Zone.from_records(names.ROOT, made)
    rdata = sum(len(one[3]) for one in made)
    held = sum(sys.getsizeof(table) + sum(sys.getsizeof(key) + sys.getsizeof(node) for key, node in table.items())
               for table in (zone_._nodes, zone_._hashed))
    held += sys.getsizeof(zone_._cuts) + sys.getsizeof(zone_._between)
    assert zone_.records == len(made) > 25_000
    assert (held - rdata) / len(made) < 100


# --- the table ------------------------------------------------------------------------------------------------------


def table_of(mode: Mode, *, fallback: bool = False, expires: int = 0, now: int = 0) -> ZoneTable:
    table = ZoneTable([ServedZone(ORIGIN, mode, fallback=fallback)], lambda: now)
    table.put(ORIGIN, zone_of("a A 192.0.2.5\nsub NS ns.sub\nns.sub A 192.0.2.9\n"), expires)
    return table


def test_an_authoritative_zone_answers_until_it_expires() -> None:
    name = names.from_text("A.e.test.")
    found = table_of(Mode.AUTHORITATIVE, expires=100, now=99).answer(name, c.A)
    assert found is not None and found.answer[0].name == name
    late = table_of(Mode.AUTHORITATIVE, expires=100, now=100).answer(name, c.A)
    assert late is not None and late.rcode == c.SERVFAIL
    assert table_of(Mode.AUTHORITATIVE, fallback=True, expires=100, now=100).answer(name, c.A) is None


def test_a_zone_for_delegations_answers_no_client() -> None:
    table, late = (table_of(Mode.DELEGATIONS, expires=100, now=now) for now in (0, 100))
    below = names.from_text("w.sub.e.test.")
    assert table.answer(names.from_text("a.e.test."), c.A) is None
    packet = table.reply(ORIGIN, below, c.A)
    assert packet is not None
    view = MessageView.parse(packet)
    assert not view.aa and [rrset.rtype for rrset in view.authority] == [c.NS] and len(view.additional) == 1
    assert late.reply(ORIGIN, below, c.A) is None
    assert table.delegation(below) is not None
    assert late.delegation(below) is None
    assert table.delegation(names.from_text("test.")) is None


def test_ds_of_the_apex_belongs_to_the_parent() -> None:
    assert table_of(Mode.AUTHORITATIVE).answer(ORIGIN, c.DS) is None
    found = table_of(Mode.AUTHORITATIVE).answer(names.from_text("sub.e.test."), c.DS)
    assert found is not None and not found.referral and not found.answer


# --- other threads run meanwhile ------------------------------------------------------------------------------------


def test_names_are_sorted_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sort holds the GIL until it ends, so the event loop would stand still for seconds."""
    sizes: list[int] = []

    def counted(given: list[Any], **options: Any) -> list[Any]:
        sizes.append(len(given))
        return builtin(given, **options)

    builtin = sorted
    rng = random.Random(5)
    owners = [rng.randbytes(1).join((b"\2", b"")) + bytes((rng.randrange(256),)) + ORIGIN for _ in range(1000)]
    monkeypatch.setattr(limits, "ZONE_SORT", 64)
    for module in (zone, zonemd):
        monkeypatch.setattr(module, "sorted", counted, raising=False)
    assert in_canonical_order(owners) == builtin(owners, key=names.canonical_key)
    assert (in_canonical_order([]), in_canonical_order(owners[:1])) == ([], owners[:1])
    hosts = "".join(f"h{number} A 192.0.2.1\nh{number} NSEC h A\n" for number in range(200))
    signed = zone_of(f"{hosts}@ RRSIG SOA 13 2 300 20380101000000 20200101000000 1 e.test. {'A' * 86}==\n")
    assert len(signed.chain().names) == 200 and len(list(zonemd.canonical(signed))) > 400
    assert 64 in sizes and max(sizes) == 64


def test_what_was_a_policy_zone_does_not_serve() -> None:
    """It has no chain of proofs, which the first query would make in the event loop."""
    table = ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE)], lambda: 0)
    table.carry_over(table_of(Mode.POLICY))
    assert table.answer(names.from_text("a.e.test."), c.A) == Answer(c.SERVFAIL, [], [], [], False)
    table.carry_over(table_of(Mode.DELEGATIONS))
    found = table.answer(names.from_text("a.e.test."), c.A)
    assert found is not None and found.answer


def test_the_hashes_of_a_denial_are_bounded() -> None:
    """A primary chooses the iterations of its zone."""
    nsec3 = b"\1\0" + (65_535).to_bytes(2, "big") + b"\0\x14" + bytes(20) + b"\0\1\x40"
    rrsig = c.SOA.to_bytes(2, "big") + bytes(16) + ORIGIN + bytes(64)
    records = [*version(5, 2), (ORIGIN, c.RRSIG, 300, rrsig), (names.prepend(b"0" * 32, ORIGIN), c.NSEC3, 300, nsec3)]
    assert Zone.from_records(ORIGIN, records).chain().iterations == limits.NSEC3_ITERATIONS.maximum
