"""The format of the second-level cache: what comes back is what was stored, and nothing else comes back."""

import random

import pytest

from resolver import limits
from resolver.cache.fleet_messages import FleetCodec
from resolver.cache.flush_marks import FlushMarks
from resolver.cache.second_level import MAC_SIZE, Codec, EntryError, SharedReply, Signer
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

NOW = 1_700_000_000
WWW = names.from_text("www.example.com.")
WEB = names.from_text("web.example.com.")
ZONE = names.from_text("example.com.")
SECURE, INSECURE = Verdict.SECURE, Verdict.INSECURE


def codec(secret: bytes = b"s" * 32, label: bytes = b"label", prefix: str = "test:") -> Codec:
    return Codec(Signer(secret), label, prefix)


def data(name: bytes = WWW, ttl: int = 300, verdict: int = SECURE) -> RRset:
    return RRset(name, c.A, ttl, [bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))], verdict=verdict)


def alias(name: bytes = WWW, target: bytes = WEB, verdict: int = SECURE) -> RRset:
    return RRset(name, c.CNAME, 60, [target], verdict=verdict)


def soa(ttl: int = 600) -> RRset:
    return RRset(ZONE, c.SOA, ttl, [ZONE + ZONE + bytes(20)], verdict=SECURE)


def positive(*sets: RRset, **fields: object) -> SharedReply:
    given = list(sets) or [data()]
    base = SharedReply(given, [], given[-1].name, c.NOERROR, min(one.verdict for one in given), False, False, 0)
    return base._replace(**fields)  # type: ignore[arg-type]


def denial(**fields: object) -> SharedReply:
    base = SharedReply([], [soa()], WWW, c.NXDOMAIN, SECURE, True, False, 120)
    return base._replace(**fields)  # type: ignore[arg-type]


def round_trip(reply: SharedReply, age: int = 0, qtype: int = c.A) -> SharedReply:
    entry = codec().encode(reply, WWW, qtype, NOW)
    assert entry is not None
    found, stored = codec().decode(entry, WWW, qtype, NOW + age)
    assert stored == NOW
    return found


def reason(entry: bytes, *, reader: Codec | None = None, name: bytes = WWW, qtype: int = c.A, now: int = NOW) -> str:
    with pytest.raises(EntryError) as caught:
        (reader or codec()).decode(entry, name, qtype, now)
    return caught.value.reason


def test_what_is_stored_comes_back_with_ttls_reduced_by_its_age() -> None:
    found = round_trip(positive(), age=100)
    assert found.answer == [data(ttl=200)]
    assert (found.answer[0].verdict, found.answer[0].trust) == (SECURE, Trust.VALIDATED)
    assert (found.rcode, found.verdict, found.denied, found.alias) == (c.NOERROR, SECURE, False, False)
    assert round_trip(denial(), age=20).ttl == 100
    chain = round_trip(positive(alias(), data(WEB)))
    assert [one.rtype for one in chain.answer] == [c.CNAME, c.A]
    assert round_trip(positive(alias(), name=WEB, alias=True)).alias


def test_insecure_data_have_the_lowest_trust_that_answers_clients() -> None:
    assert round_trip(positive(data(verdict=INSECURE))).answer[0].trust == Trust.NONAUTH_ANSWER


def test_an_entry_ends_with_its_first_ttl() -> None:
    entry = codec().encode(positive(alias(), data(WEB)), WWW, c.A, NOW)
    assert codec().decode(entry, WWW, c.A, NOW + 59)
    assert reason(entry, now=NOW + 60) == "expired"
    entry = codec().encode(denial(), WWW, c.A, NOW)
    assert reason(entry, now=NOW + 120) == "expired"
    assert codec().encode(positive(data(ttl=0)), WWW, c.A, NOW) is None


def test_clocks_may_differ_by_a_few_seconds() -> None:
    entry = codec().encode(positive(), WWW, c.A, NOW)
    ahead = limits.SECOND_LEVEL_CLOCK_SKEW
    assert codec().decode(entry, WWW, c.A, NOW - ahead)[0].answer[0].ttl == 300
    assert reason(entry, now=NOW - ahead - 1) == "future"


def test_only_who_has_the_secret_makes_entries() -> None:
    entry = codec().encode(positive(), WWW, c.A, NOW)
    assert reason(entry, reader=codec(b"t" * 32)) == "checksum"
    assert reason(entry, reader=codec(b"")) == "checksum"
    assert codec(b"").decode(codec(b"").encode(positive(), WWW, c.A, NOW), WWW, c.A, NOW)


def test_an_entry_belongs_to_its_question_settings_and_prefix() -> None:
    entry = codec().encode(positive(), WWW, c.A, NOW)
    assert reason(entry, name=WEB) == "checksum"
    assert reason(entry, qtype=c.AAAA) == "checksum"
    assert reason(entry, reader=codec(label=b"other")) == "checksum"
    assert reason(entry, reader=codec(prefix="other:")) == "checksum"
    upper = names.from_text("WWW.example.COM.")
    found, _ = codec().decode(entry, upper, c.A, NOW)
    assert found.answer[0].name == upper


def test_another_version_is_not_read() -> None:
    entry = codec().encode(positive(), WWW, c.A, NOW)
    assert reason(b"\0" + entry[1:]) == reason(b"\2" + entry[1:]) == reason(b"") == "version"


@pytest.mark.parametrize("reply", [
    positive(data(verdict=Verdict.BOGUS)),
    positive(data(verdict=Verdict.INDETERMINATE)),
    positive(data(verdict=INSECURE), verdict=SECURE),
    positive(data(WEB)),
    positive(data(), alias()),
    positive(alias()),
    positive(alias(), data(WEB), alias=True),
    positive(alias(), data(WWW)),
    positive(rcode=c.NXDOMAIN),
    positive(rcode=c.SERVFAIL),
    positive(authority=[soa()]),
    positive(RRset(WWW, c.TXT, 60, [b"\1x"], verdict=SECURE)),
    positive(RRset(WEB, c.DNAME, 60, [ZONE], verdict=SECURE), data()),
    denial(authority=[]),
    denial(authority=[soa(), data()]),
    denial(name=names.from_text("other.test.")),
    denial(ttl=0),
    denial(denied=False),
], ids=str)
def test_what_is_no_validated_answer_is_not_stored(reply: SharedReply) -> None:
    assert codec().encode(reply, WWW, c.A, NOW) is None


@pytest.mark.parametrize("qtype", [c.NS, c.DS, c.DNSKEY, c.RRSIG, c.ANY, 0, 128, 250])
def test_types_of_the_delegation_and_of_the_chain_of_trust_are_not_stored(qtype: int) -> None:
    assert codec().encode(denial(), WWW, qtype, NOW) is None


def test_large_entries_are_neither_written_nor_read() -> None:
    big = RRset(WWW, c.TXT, 60, [bytes((255,)) + bytes((n,)) * 255 for n in range(250)], verdict=SECURE)
    assert codec().encode(positive(big), WWW, c.TXT, NOW) is not None
    bigger = RRset(names.from_text("a."), c.A, 60, [bytes(4)], sigs=[], verdict=SECURE)
    assert codec().encode(positive(big, bigger), WWW, c.TXT, NOW) is None
    body = bytes(limits.SECOND_LEVEL_ENTRY)
    mac = Signer(b"s" * 32).mac(b"entry", b"\1", codec().key(WWW, c.A), body)
    assert reason(b"\1" + mac + body) == "checksum"


def test_a_writer_with_the_secret_cannot_do_harm_either() -> None:
    """Bodies are damaged and signed again: each is refused, or is still a validated answer to the question."""
    source = random.Random(17)
    signer = Signer(b"s" * 32)
    entries = [codec().encode(reply, WWW, c.A, NOW) for reply in (positive(), denial(), positive(alias(), data(WEB)))]
    refused = 0
    for number in range(3000):
        body = bytearray(entries[number % 3][1 + MAC_SIZE :])
        for _ in range(source.randint(1, 3)):
            at = source.randrange(len(body))
            if source.random() < 0.2:
                del body[at:]
                body = body or bytearray(1)
            else:
                body[at] = source.randrange(256)
        mac = signer.mac(b"entry", b"\1", codec().key(WWW, c.A), bytes(body))
        try:
            found, _ = codec().decode(b"\1" + mac + bytes(body), WWW, c.A, NOW + 5)
        except EntryError:
            refused += 1
            continue
        assert found.verdict in (SECURE, INSECURE)
        assert codec().encode(found, WWW, c.A, NOW) is not None or found.lifetime <= 0
    assert refused > 1000


# --- flushes --------------------------------------------------------------------------------------------------------


def test_a_mark_covers_what_was_stored_before_it() -> None:
    marks, skew = FlushMarks(), limits.SECOND_LEVEL_CLOCK_SKEW
    assert not marks.covers([WWW], NOW)
    marks.add(WWW, NOW)
    assert marks.covers([WWW], NOW)
    assert marks.covers([WEB, WWW], NOW + skew), "another clock may be ahead"
    assert not marks.covers([WWW], NOW + skew + 1)
    assert not marks.covers([WEB], NOW)
    marks.add(ZONE, NOW + 100, subtree=True)
    assert marks.covers([WEB], NOW + 50)
    assert not marks.covers([names.from_text("example.net.")], NOW)
    marks.add(None, NOW + 200)
    assert marks.covers([names.from_text("example.net.")], NOW + 150)


def test_marks_are_bounded_and_never_forget() -> None:
    marks = FlushMarks()
    for number in range(limits.FLUSH_MARKS + 10):
        marks.add(names.from_text(f"n{number}.test."), NOW)
    assert marks.covers([names.from_text("n0.test.")], NOW)
    assert len(marks._names) <= limits.FLUSH_MARKS
    copy = FlushMarks()
    copy.carry_over(marks)
    assert copy.covers([names.from_text("n0.test.")], NOW)


# --- messages -------------------------------------------------------------------------------------------------------


def fleet(secret: bytes = b"s" * 32, sender: str = "a") -> FleetCodec:
    return FleetCodec(Signer(secret), "test:", sender)


def message_reason(reader: FleetCodec, data: bytes, now: int = NOW) -> str:
    with pytest.raises(EntryError) as caught:
        reader.decode(data, now)
    return caught.value.reason


def test_a_message_is_accepted_once_and_in_order() -> None:
    writer, reader = fleet(), fleet(sender="b")
    first, second = (writer.encode("flush", {"name": None}, NOW) for _ in range(2))
    found = reader.decode(first, NOW)
    assert (found.kind, found.when, found.fields, found.own) == ("flush", NOW, {"name": None}, False)
    assert message_reason(reader, first) == "repeated"
    assert reader.decode(second, NOW)
    assert message_reason(reader, first) == "repeated"
    assert writer.decode(second, NOW).own


def test_a_message_that_is_old_foreign_or_damaged_is_not_accepted() -> None:
    data, reader = fleet().encode("flush", {}, NOW), fleet(sender="b")
    assert message_reason(reader, data, NOW + limits.FLEET_MESSAGE_LIFE + 1) == "expired"
    assert message_reason(reader, data, NOW - limits.SECOND_LEVEL_CLOCK_SKEW - 1) == "future"
    assert message_reason(fleet(b"t" * 32, "b"), data) == "checksum"
    assert message_reason(reader, data[:-1] + b"!") == "checksum"
    assert message_reason(reader, b"\7" + data[1:]) == "version"
    for body in (b"", b"[]", b"{}", b"[" * 1000, b'{"kind":1,"from":"x","number":1,"time":1,"fields":{}}'):
        mac = Signer(b"s" * 32).mac(b"fleet", b"\1", b"test:", body)
        assert message_reason(reader, b"\1" + mac + body) == "malformed"
    with pytest.raises(ValueError, match="longer"):
        fleet().encode("flush", {"name": "x" * limits.FLEET_MESSAGE}, NOW)


def test_negative_trust_anchors_need_a_secret() -> None:
    with pytest.raises(ValueError, match="secret"):
        fleet(b"").encode("nta-add", {}, NOW)
    body = b'{"kind":"nta-add","from":"x","number":1,"time":%d,"fields":{}}' % NOW
    mac = Signer().mac(b"fleet", b"\1", b"test:", body)
    assert message_reason(fleet(b""), b"\1" + mac + body) == "unsigned"
    assert fleet().decode(fleet(sender="b").encode("nta-add", {}, NOW), NOW).kind == "nta-add"


def test_the_table_of_senders_is_bounded() -> None:
    reader = fleet()
    for number in range(limits.FLEET_MEMBERS + 5):
        reader.decode(fleet(sender=f"s{number}").encode("flush", {}, NOW), NOW)
    assert len(reader._last) == limits.FLEET_MEMBERS
