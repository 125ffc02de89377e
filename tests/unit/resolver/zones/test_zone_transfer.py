"""Transfers as state machines: our own messages come back as the zone, IXFR of every kind, and what is refused."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.zone_versions import ORIGIN, difference, soa, version

from resolver import limits
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import Builder
from resolver.wire.rrset import RRset
from resolver.zones.outgoing import History, transfer_messages
from resolver.zones.schedule import after_failure, after_success, expiry, is_newer
from resolver.zones.transfer import Transfer, TransferError, make_soa_query, make_transfer_query, read_soa_reply
from resolver.zones.tsig import Key, TsigError, Verifier, sign, split
from resolver.zones.zone import Record, SoaFields, Zone, ZoneError

KEY = Key(names.from_text("k.test."), "hmac-sha256", b"0123456789abcdef")
NOW = 1_800_000_000
ID = 77


def message(*records: Record, qtype: int = c.IXFR, flags: int = c.QR | c.AA, query_id: int = ID) -> bytes:
    builder = Builder()
    builder.start(query_id, flags, ORIGIN, qtype)
    for owner, rtype, ttl, rdata in records:
        assert builder.add(c.ANSWER, RRset(owner, rtype, ttl, [rdata]))
    return builder.finish()


def run(transfer: Transfer, *packets: bytes) -> Zone | None:
    for packet in packets[:-1]:
        assert not transfer.feed(packet, NOW)
    assert transfer.feed(packets[-1], NOW)
    transfer.finish()
    return transfer.zone


@pytest.mark.parametrize("key", [None, KEY])
def test_a_large_zone_comes_back_from_our_own_axfr(key: Key | None) -> None:
    many = [(names.from_text(f"h{n}.e.test."), c.TXT, 60, b"\xc8" + b"x" * 200) for n in range(2000)]
    zone = Zone.from_records(ORIGIN, [*version(5), *many])
    query = make_transfer_query(ORIGIN, ID, None)
    mac = b""
    if key is not None:
        _, mac = sign(query, key, NOW)
    packets = list(transfer_messages(zone, ORIGIN, c.AXFR, ID, key=key, mac=mac, now=lambda: NOW))
    assert len(packets) > 5
    transfer = Transfer(ORIGIN, ID, None, None if key is None else Verifier(key, mac))
    made = run(transfer, *packets)
    assert made is not None and sorted(made) == sorted(zone)


@settings(max_examples=60)
@given(st.lists(st.sets(st.integers(2, 20)), min_size=2, max_size=6), st.integers(0, 4))
def test_ixfr_of_any_versions_is_the_last_version(hosts: list[set[int]], start: int) -> None:
    versions = [version(10 + n, *sorted(one)) for n, one in enumerate(hosts)]
    history = History()
    for old, new in itertools.pairwise(versions):
        history.add(difference(old, new))
    current = versions[min(start, len(versions) - 1)]
    last = versions[-1]
    packets = list(transfer_messages(last, ORIGIN, c.IXFR, ID, client_serial=current.serial, history=history))
    made = run(Transfer(ORIGIN, ID, current), *packets)
    if current is last:
        assert made is None
    else:
        assert made is not None and sorted(made) == sorted(last)


def test_the_differences_are_those_of_the_moment_of_the_query() -> None:
    """A refresh during a transfer adds to the history, or replaces it."""
    zones = [version(serial, *range(1, serial + 1)) for serial in (1, 2, 3)]
    for replaced in (False, True):
        history = History()
        history.add(difference(zones[0], zones[1]))
        packets = transfer_messages(zones[1], ORIGIN, c.IXFR, ID, client_serial=1, history=history)
        if replaced:
            history.clear()
        history.add(difference(zones[1], zones[2]))
        transfer = Transfer(ORIGIN, ID, zones[0])
        made = run(transfer, *packets)
        assert made is not None and sorted(made) == sorted(zones[1]) and transfer.differences


def test_an_unknown_version_gets_the_whole_zone() -> None:
    packets = list(transfer_messages(version(9, 2), ORIGIN, c.IXFR, ID, client_serial=3, history=History()))
    made = run(Transfer(ORIGIN, ID, version(3)), *packets)
    assert made is not None and made.serial == 9


def test_the_parts_may_come_in_any_messages() -> None:
    old, new = version(1, 2), version(2, 3)
    removed, added = difference(old, new)
    packets = [message(one) for one in [soa(new), *removed, *added, soa(new)]]
    made = run(Transfer(ORIGIN, ID, old), *packets)
    assert made is not None and sorted(made) == sorted(new)


OLD, NEW = version(1, 2), version(2, 3)
WHOLE = (soa(NEW), *list(NEW)[1:])


@pytest.mark.parametrize(("records", "says", "whole"), [
    ((soa(NEW), soa(OLD), (ORIGIN, c.A, 60, bytes(4)), soa(NEW), soa(NEW)), "removed but does not exist", True),
    ((soa(NEW), soa(version(7)), soa(NEW), soa(NEW)), "starts at serial 7, not at 1", True),
    ((soa(NEW), soa(OLD), soa(NEW), soa(version(3))), "has records after its last version", True),
    (((ORIGIN, c.A, 60, bytes(4)),), "first record is not the SOA", False),
    ((soa(NEW), soa(NEW)), "no records but its SOA", False),
    ((*WHOLE, soa(version(9))), "changed during the transfer", False),
    ((*WHOLE, soa(NEW), soa(NEW)), "after the end", False),
    ((*WHOLE, (names.from_text("a.test."), c.A, 60, bytes(4)), soa(NEW)), "outside of the zone", False),
    ((soa(NEW), (names.from_text("x.e.test."), c.SOA, 60, NEW.soa.rdata(0))), "SOA record of another zone", False),
])
def test_malformed_transfers_are_refused(records: tuple[Record, ...], says: str, whole: bool) -> None:
    transfer = Transfer(ORIGIN, ID, OLD)
    with pytest.raises(TransferError, match=says) as caught:
        run(transfer, message(*records))
    assert caught.value.try_whole is whole
    assert transfer.zone is None


@pytest.mark.parametrize(("packet", "says"), [
    (message(soa(NEW), query_id=1), "no reply to the query"),
    (message(soa(NEW), flags=0), "no reply to the query"),
    (message(soa(NEW), flags=c.QR | c.TC), "truncates"),
    (message(flags=c.QR | c.REFUSED), "answers REFUSED"),
    (message(soa(NEW), qtype=c.A), "another question"),
    (message(), "has no records"),
    (b"\0\x4d\x80", "malformed"),
])
def test_messages_that_are_refused(packet: bytes, says: str) -> None:
    with pytest.raises(TransferError, match=says):
        Transfer(ORIGIN, ID, OLD).feed(packet, NOW)


def test_a_transfer_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ZONE_RECORDS", 10)
    transfer = Transfer(ORIGIN, ID, None)
    transfer.feed(message(*WHOLE, qtype=c.AXFR), NOW)
    more = [message(*WHOLE[1:], qtype=c.AXFR)] * 10
    with pytest.raises(TransferError, match="more than 10 records"):
        run(transfer, *more)


def test_the_expanded_size_of_a_transfer_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of two octets in a message may take 255 in memory."""
    monkeypatch.setattr(limits, "ZONE_OCTETS", 50_000)
    long = b"".join(b"\x3c" + bytes((97 + part,)) * 60 for part in range(3)) + b"\x28" + b"z" * 40 + ORIGIN
    packet = message(*WHOLE, *((long, c.NS, 60, b"\1" + bytes((97 + n,)) + long) for n in range(26)), qtype=c.AXFR)
    transfer = Transfer(ORIGIN, ID, None)
    assert not transfer.feed(packet, NOW) and transfer.octets < 2_500 < 12_000 < transfer.expanded
    again = message(*((long, c.NS, 60, b"\2a" + bytes((97 + n,)) + long) for n in range(26)), qtype=c.AXFR)
    with pytest.raises(TransferError, match="more than 50000 octets of names and data"):
        run(transfer, *[again] * 10)
    assert transfer.octets < 15_000


def test_records_of_other_sections_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ZONE_RECORDS", 50)
    builder = Builder()
    builder.start(ID, c.QR | c.AA, ORIGIN, c.AXFR)
    for section, many in ((c.ANSWER, 1), (c.AUTHORITY, 5), (c.ADDITIONAL, 5)):
        for number in range(many):
            assert builder.add(section, RRset(ORIGIN, c.A, 60, [bytes((192, 0, 2, number))]))
    packet = builder.finish()
    transfer = Transfer(ORIGIN, ID, None)
    transfer.feed(message(*WHOLE, qtype=c.AXFR), NOW)
    with pytest.raises(TransferError, match="more than 50 records"):
        run(transfer, *[packet] * 10)


def test_an_older_zone_is_refused() -> None:
    transfer = Transfer(ORIGIN, ID, None, newer_than=5)
    transfer.feed(message(*WHOLE, soa(NEW), qtype=c.AXFR), NOW)
    with pytest.raises(TransferError, match="older than ours"):
        transfer.finish()


def test_the_serial_of_a_primary() -> None:
    reply = message(soa(NEW), qtype=c.SOA)
    assert read_soa_reply(reply, ORIGIN, ID, None, NOW).serial == 2
    with pytest.raises(TransferError, match="not authoritative"):
        read_soa_reply(message(soa(NEW), qtype=c.SOA, flags=c.QR), ORIGIN, ID, None, NOW)


# --- TSIG -------------------------------------------------------------------------------------------------------------


def signed_reply(*, key: Key = KEY, at: int = NOW) -> tuple[bytes, Verifier]:
    _, mac = sign(make_soa_query(ORIGIN, ID), KEY, NOW)
    packet, _ = sign(message(soa(NEW), qtype=c.SOA), key, at, prior=mac)
    return packet, Verifier(KEY, mac)


def test_a_signed_reply_is_accepted() -> None:
    packet, verifier = signed_reply()
    assert verifier.check(packet, NOW + limits.TSIG_FUDGE) == message(soa(NEW), qtype=c.SOA)
    assert verifier.complete


@pytest.mark.parametrize(("change", "says"), [
    (lambda packet: packet[:30] + bytes([packet[30] ^ 1]) + packet[31:], "does not match"),
    (lambda packet: split(packet).message, "is not signed"),
])
def test_a_changed_reply_is_refused(change, says: str) -> None:  # type: ignore[no-untyped-def]
    packet, verifier = signed_reply()
    with pytest.raises((TsigError, ValueError), match=says):
        verifier.check(change(packet), NOW)


def test_other_keys_and_times_are_refused() -> None:
    for key in (KEY._replace(secret=b"another secret!!"), KEY._replace(name=names.from_text("other."))):
        packet, verifier = signed_reply(key=key)
        with pytest.raises(TsigError):
            verifier.check(packet, NOW)
    packet, verifier = signed_reply(at=NOW - limits.TSIG_FUDGE - 1)
    with pytest.raises(TsigError, match="clocks differ"):
        verifier.check(packet, NOW)


def test_a_transfer_with_too_many_unsigned_messages_is_refused() -> None:
    packet, verifier = signed_reply()
    verifier.check(packet, NOW)
    plain = message(soa(NEW))
    for _ in range(limits.TSIG_UNSIGNED):
        verifier.check(plain, NOW)
    assert not verifier.complete
    with pytest.raises(TsigError, match="not signed"):
        verifier.check(plain, NOW)


def test_signatures_are_those_of_dnspython() -> None:
    import dns.message
    import dns.tsig

    theirs = dns.message.make_query("e.test.", "SOA")
    theirs.use_tsig(dns.tsig.Key("k.test.", KEY.secret, "hmac-sha256"))
    wire = theirs.to_wire()
    assert Verifier(KEY).check(wire, split(wire).signed_at)[12:] == wire[12:12 + len(ORIGIN) + 4]  # type: ignore[union-attr]
    ours, _ = sign(make_soa_query(ORIGIN, ID), KEY, split(wire).signed_at)  # type: ignore[union-attr]
    assert dns.message.from_wire(ours, keyring={dns.name.from_text("k.test."): KEY.secret}).had_tsig


# --- timers -----------------------------------------------------------------------------------------------------------


def test_serials_wrap() -> None:
    assert is_newer(1, 0xFFFFFFFF)
    assert not is_newer(0xFFFFFFFF, 1)
    assert not is_newer(5, 5)
    assert not is_newer(1 << 31, 0), "undefined by RFC 1982: not newer"


def test_timers_follow_the_soa_within_limits() -> None:
    timers = SoaFields(1, 3600, 600, 86400, 60)
    assert after_success(100, timers, 0.0, 60) == 3700
    assert 100 + 3600 * 0.9 <= after_success(100, timers, 1.0, 60) < 3700
    assert [after_failure(0, timers, n, 0.0, 60) for n in (1, 2, 3, 4, 50)] == [600, 1200, 2400, 3600, 3600]
    assert after_failure(0, None, 1, 0.0, 60) == 60
    assert after_success(0, SoaFields(1, 0, 0, 0, 0), 0.0, 60) == 60
    assert after_success(0, SoaFields(1, 1 << 31, 0, 0, 0), 0.0, 60) == limits.ZONE_REFRESH_MAX
    assert expiry(1000, timers) == 87400
    assert expiry(1000, SoaFields(1, 1, 1, 1 << 31, 1)) == 1000 + limits.ZONE_EXPIRE_MAX


def test_differences_that_lead_back_are_not_taken() -> None:
    back = version(1, 2)
    transfer = Transfer(ORIGIN, ID, NEW, newer_than=NEW.serial)
    removed, added = difference(NEW, back)
    transfer.feed(message(soa(back), *removed, *added, soa(back)), NOW)
    with pytest.raises(TransferError, match=f"serial 1, older than ours \\({NEW.serial}\\)"):
        transfer.finish()
    assert transfer.zone is None


@pytest.mark.parametrize("key", [None, KEY])
def test_the_longest_record_is_transferred_and_a_longer_one_is_refused(key: Key | None) -> None:
    owner = names.from_text(".".join(["x" * 63, "y" * 63, "z" * 63, "w" * 50, "e.test."]))
    strings = [b"\xff" + b"t" * 255] * 249  # 63,744 octets
    longest = b"".join(strings)
    longest += bytes([limits.ZONE_RDATA - len(longest) - 1]) + b"t" * (limits.ZONE_RDATA - len(longest) - 1)
    assert len(longest) == limits.ZONE_RDATA
    zone = Zone.from_records(ORIGIN, [*version(5), (owner, c.TXT, 60, longest)])
    mac = b"" if key is None else sign(make_transfer_query(ORIGIN, ID, None), key, NOW)[1]
    packets = list(transfer_messages(zone, ORIGIN, c.AXFR, ID, key=key, mac=mac, now=lambda: NOW))
    made = run(Transfer(ORIGIN, ID, None, None if key is None else Verifier(key, mac)), *packets)
    assert made is not None and sorted(made) == sorted(zone)
    with pytest.raises(ZoneError, match="more than 64000 octets"):
        Zone.from_records(ORIGIN, [*version(5), (owner, c.TXT, 60, longest + b"\0")])
