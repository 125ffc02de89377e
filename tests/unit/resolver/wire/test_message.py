"""Hand-made packets: one for each kind of malformed message, and the grouping of valid ones into RRsets."""

import pytest

from resolver import limits
from resolver.wire import MessageView, WireError, name
from resolver.wire import consts as c
from resolver.wire.message import inspect_query

EXAMPLE = name.from_text("example")
AT_QNAME = b"\xc0\x0c"  # a compression pointer to offset 12, where the qname begins


def header(*counts: int, flags: int = c.QR, number: int = 1) -> bytes:
    """A header with up to four counts; the others are 0."""
    whole = [*counts, 0, 0, 0, 0][:4]
    return b"".join(value.to_bytes(2, "big") for value in (number, flags, *whole))


def record(
    owner: bytes, rtype: int, rdata: bytes, *, ttl: int = 60, rclass: int = 1, length: int | None = None
) -> bytes:
    """One record; `length` replaces the true RDLENGTH."""
    size = len(rdata) if length is None else length
    head = rtype.to_bytes(2, "big") + rclass.to_bytes(2, "big") + ttl.to_bytes(4, "big") + size.to_bytes(2, "big")
    return owner + head + rdata


def question(qname: bytes = EXAMPLE, qtype: int = c.A) -> bytes:
    """A question in class IN."""
    return qname + qtype.to_bytes(2, "big") + b"\0\1"


def reply(*records: bytes) -> bytes:
    """A reply about example. with these answers."""
    return header(1, len(records)) + question() + b"".join(records)


def rrsig(covered: int, signer: bytes = EXAMPLE, tail: bytes = b"sig") -> bytes:
    """RRSIG rdata."""
    return covered.to_bytes(2, "big") + bytes(16) + signer + tail


def parse_error(data: bytes) -> str:
    """Assert that `data` cannot be parsed; return the reason."""
    with pytest.raises(WireError) as caught:
        MessageView.parse(data)
    return caught.value.reason


# --- structure ----------------------------------------------------------------------------------------------------


def test_header_only() -> None:
    view = MessageView.parse(header(flags=c.QR | c.AA | c.RD | c.CD | 3, number=77))
    assert (view.id, view.rcode, view.opcode, view.question_count, view.qname) == (77, c.NXDOMAIN, 0, 0, None)
    assert (view.qr, view.aa, view.tc, view.rd, view.ra, view.ad, view.cd) == (
        True,
        True,
        False,
        True,
        False,
        False,
        True,
    )
    assert view.answer == view.authority == view.additional == []
    assert view.edns is None


def test_views_are_made_by_parse_only() -> None:
    with pytest.raises(TypeError):
        MessageView()
    assert MessageView.parse(bytearray(header())).id == 1
    assert MessageView.parse(memoryview(header())).wire == header()


@pytest.mark.parametrize("size", range(12))
def test_shorter_than_a_header(size: int) -> None:
    assert "header" in parse_error(header()[:size])


def test_longer_than_any_message() -> None:
    assert "65535" in parse_error(header() + bytes(65536))


@pytest.mark.parametrize("counts", [(1,), (0, 1), (0, 0, 1), (0, 0, 0, 1), (0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF), (2, 0)])
def test_counts_above_the_actual_records(counts: tuple[int, ...]) -> None:
    assert "ends" in parse_error(header(*counts) + (question() if counts[0] > 1 else b""))


def test_counts_below_the_actual_records() -> None:
    assert "follow" in parse_error(reply(record(AT_QNAME, c.A, bytes(4))) + b"\0")
    assert "follow" in parse_error(header(1) + question() + b"\0")


def test_every_truncation_is_detected() -> None:
    whole = reply(record(AT_QNAME, c.MX, b"\0\1\2mx" + AT_QNAME), record(AT_QNAME, c.TXT, b"\3abc"))
    MessageView.parse(whole)
    for size in range(12, len(whole)):
        with pytest.raises(WireError):
            MessageView.parse(whole[:size])


# --- compression --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [25, 26, 40, 0x3FFF])
def test_pointer_that_does_not_point_backwards(target: int) -> None:
    # the owner of the first answer stands at 25
    assert "backwards" in parse_error(reply(record((0xC000 | target).to_bytes(2, "big"), c.A, bytes(4))))


def test_pointer_into_the_header() -> None:
    assert "backwards" in parse_error(reply(record(b"\xc0\x00", c.A, bytes(4))))


def test_loop_through_a_label() -> None:
    # at 25: the label "a", then a pointer to 25 itself
    assert "backwards" in parse_error(reply(record(b"\1a\xc0\x19", c.A, bytes(4))))


def test_chain_of_pointers() -> None:
    allowed = limits.COMPRESSION_HOPS
    for hops, good in ((allowed, True), (allowed + 1, False)):
        chain = AT_QNAME + b"".join((0xC000 | (36 + 2 * i)).to_bytes(2, "big") for i in range(hops - 2))
        owner = (0xC000 | (36 + 2 * (hops - 2))).to_bytes(2, "big")
        # Header 12, question 13: the first record is at 25. Owner 1, fixed fields 10: its rdata is at 36.
        packet = header(1, 2) + question() + record(b"\0", 65280, chain) + record(owner, c.A, bytes(4))
        if good:
            assert [r.name for r in MessageView.parse(packet).answer] == [b"\0", EXAMPLE]
        else:
            assert "too many" in parse_error(packet)


def test_a_name_may_not_exceed_255_octets_when_decompressed() -> None:
    long = b"\x3f" + b"a" * 63
    packet = header(1, 1) + question(long * 3 + b"\0") + record(long + AT_QNAME, c.A, bytes(4))
    assert "255" in parse_error(packet)


@pytest.mark.parametrize(("last", "fits"), [(61, True), (62, False)])
def test_a_name_has_at_most_255_octets(last: int, fits: bool) -> None:
    head, tail = (b"\x3f" + b"a" * 63) * 3, bytes((last,)) + b"b" * last + b"\0"
    whole = header(1) + question(head + tail)
    in_two = header(1, 1) + question(tail) + record(head + AT_QNAME, c.A, bytes(4))
    if fits:
        assert MessageView.parse(whole).qname == head + tail
        assert MessageView.parse(in_two).answer[0].name == head + tail
    else:
        assert "255" in parse_error(whole)
        assert "255" in parse_error(in_two)


@pytest.mark.parametrize("byte", [0x40, 0x80, 0xBF])
def test_unknown_label_types(byte: int) -> None:
    assert "label type" in parse_error(reply(record(bytes((byte, 0)), c.A, bytes(4))))


def test_nothing_after_the_end_is_read() -> None:
    # A label length is compared with the rest of the message before the label is read.
    long = (b"\x3f" + b"a" * 63) * 3 + b"\x3f"
    assert "ends" in parse_error(header(1) + long)
    assert "ends" in parse_error(header(1) + EXAMPLE[:-1] + b"\xc0")
    assert "past the end of its rdata" in parse_error(reply(record(AT_QNAME, c.NS, long)) + b"a" * 63 + b"\0")
    assert "past the end of its rdata" in parse_error(reply(record(AT_QNAME, c.NS, b"\2ns")) + b"\x80")


def test_name_in_rdata_must_end_there() -> None:
    assert "past the end of its rdata" in parse_error(reply(record(AT_QNAME, c.NS, b"\2ns", length=3) + b"\0"))
    assert "past the end of its rdata" in parse_error(reply(record(AT_QNAME, c.NS, b"\2ns\xc0", length=4)) + b"\0")
    assert "past the end of its rdata" in parse_error(reply(record(AT_QNAME, c.MX, b"\0\1\2m")) + b"\0")


@pytest.mark.parametrize("rtype", [c.NS, c.CNAME, c.PTR, c.DNAME, c.MB])
def test_compressed_names_in_rdata_are_decompressed(rtype: int) -> None:
    (rrset,) = MessageView.parse(reply(record(AT_QNAME, rtype, b"\2Ns" + AT_QNAME))).answer
    assert rrset.rdatas() == [b"\2Ns" + EXAMPLE]


def test_compressed_names_after_other_fields() -> None:
    cases = {
        c.MX: b"\0\1",
        c.SRV: bytes(6),
        c.RT: b"\0\1",
        c.AFSDB: b"\0\1",
        c.KX: b"\0\1",
        c.NAPTR: bytes(4) + b"\1a\0\2bc",
        c.RP: b"\1m\0",
        c.MINFO: b"\1m\0",
        c.PX: b"\0\1\1m\0",
    }
    for rtype, front in cases.items():
        (rrset,) = MessageView.parse(reply(record(AT_QNAME, rtype, front + AT_QNAME))).answer
        assert rrset.rdatas() == [front + EXAMPLE], rtype
    soa = AT_QNAME + b"\1h" + AT_QNAME + bytes(20)
    (rrset,) = MessageView.parse(reply(record(AT_QNAME, c.SOA, soa))).answer
    assert rrset.rdatas() == [EXAMPLE + b"\1h" + EXAMPLE + bytes(20)]
    (rrset,) = MessageView.parse(reply(record(AT_QNAME, c.RRSIG, rrsig(c.A, AT_QNAME)))).answer
    assert rrset.rdatas() == [rrsig(c.A)]
    (rrset,) = MessageView.parse(reply(record(AT_QNAME, c.NSEC, AT_QNAME + b"\0\1\x40"))).answer
    assert rrset.rdatas() == [EXAMPLE + b"\0\1\x40"]


def test_names_of_newer_types_are_never_decompressed() -> None:
    assert "none is allowed" in parse_error(reply(record(AT_QNAME, c.SVCB, b"\0\1" + AT_QNAME)))
    (rrset,) = MessageView.parse(reply(record(AT_QNAME, 65280, AT_QNAME))).answer
    assert rrset.rdatas() == [AT_QNAME]


# --- rdata --------------------------------------------------------------------------------------------------------

NAME = b"\1a\0"


@pytest.mark.parametrize(
    ("rtype", "rdata"),
    [
        (c.A, bytes(3)),
        (c.A, bytes(5)),
        (c.A, b""),
        (c.AAAA, bytes(15)),
        (c.AAAA, bytes(17)),
        (c.NS, b""),
        (c.NS, NAME + b"\0"),
        (c.SOA, NAME * 2 + bytes(19)),
        (c.SOA, NAME * 2 + bytes(21)),
        (c.SOA, NAME),
        (c.MX, b"\0"),
        (c.MX, b"\0\1"),
        (c.MX, b"\0\1" + NAME + b"x"),
        (c.SRV, bytes(6)),
        (c.SRV, bytes(5)),
        (c.TXT, b""),
        (c.TXT, b"\5abc"),
        (c.HINFO, b"\1a"),
        (c.RRSIG, bytes(17)),
        (c.RRSIG, bytes(18)),
        (c.RRSIG, bytes(18) + NAME),
        (c.DS, bytes(4)),
        (c.DS, bytes(3)),
        (c.DNSKEY, bytes(3)),
        (c.NSEC, NAME + b"\0"),
        (c.NSEC, NAME + b"\0\0"),
        (c.NSEC, NAME + b"\0\x21" + bytes(33)),
        (c.NSEC, NAME + b"\1\1\1\0\1\1"),
        (c.NSEC, NAME + b"\0\1\1\0\1\1"),
        (c.NSEC, NAME + b"\0\2\1"),
        (c.NSEC3, bytes(4)),
        (c.NSEC3, b"\1\0\0\0\0"),
        (c.NSEC3, b"\1\0\0\0\0\0"),
        (c.NSEC3, b"\1\0\0\0\5ab"),
        (c.NSEC3PARAM, b"\1\0\0\0\1"),
        (c.NSEC3PARAM, b"\1\0\0\0\0\0"),
        (c.CAA, b"\0"),
        (c.CAA, b"\0\0v"),
        (c.CAA, b"\0\5ab"),
        (c.SVCB, b"\0\1" + NAME + b"\0\1"),
        (c.SVCB, b"\0\1" + NAME + b"\0\1\0\0\0\1\0\0"),
        (c.SVCB, b"\0\1" + NAME + b"\0\1\0\5ab"),
        (c.HTTPS, b"\0\1"),
        (c.APL, b"\0\1\x18\3ab"),
        (c.LOC, bytes(15)),
        (c.NAPTR, bytes(4) + b"\1a\1b"),
        (c.EUI48, bytes(5)),
        (c.LP, b"\0\1"),
        (c.A6, b"\x81"),
        (c.A6, b"\x40" + bytes(8)),
        (c.A6, b"\0" + bytes(15)),
        (c.SSHFP, b"\1\1"),
        (c.TLSA, b"\1\1"),
    ],
)
def test_rdata_that_does_not_fit_its_type(rtype: int, rdata: bytes) -> None:
    parse_error(reply(record(AT_QNAME, rtype, rdata)))


def test_rdata_length_beyond_the_message() -> None:
    assert "ends" in parse_error(reply(record(AT_QNAME, 65280, b"ab", length=3)))


def test_a6() -> None:
    for rdata in (b"\0" + bytes(16), b"\x40" + bytes(8) + NAME, b"\x80" + NAME):
        (rrset,) = MessageView.parse(reply(record(AT_QNAME, c.A6, rdata))).answer
        assert rrset.rdatas() == [rdata]
    (rrset,) = MessageView.parse(reply(record(AT_QNAME, c.A6, b"\x80" + AT_QNAME))).answer
    assert rrset.rdatas() == [b"\x80" + EXAMPLE]


def test_address_of_another_class_is_opaque() -> None:
    (rrset,) = MessageView.parse(reply(record(AT_QNAME, c.A, b"\1a\0\0\1", rclass=c.CH))).answer
    assert rrset.rclass == c.CH
    assert rrset.rdatas() == [b"\1a\0\0\1"]


def test_update_without_rdata() -> None:
    (rrset,) = MessageView.parse(reply(record(AT_QNAME, c.A, b"", rclass=c.CLASS_ANY))).answer
    assert rrset.rdatas() == [b""]


# --- grouping -----------------------------------------------------------------------------------------------------


def test_records_are_grouped_into_rrsets_regardless_of_case_and_order() -> None:
    view = MessageView.parse(
        reply(
            record(AT_QNAME, c.A, b"\1\1\1\1", ttl=90),
            record(AT_QNAME, c.TXT, b"\1a"),
            record(name.from_text("EXAMPLE"), c.A, b"\2\2\2\2", ttl=30),
            record(name.from_text("other"), c.A, b"\3\3\3\3"),
            record(AT_QNAME, c.A, b"\1\1\1\1", ttl=60),
        )
    )
    assert [(r.name, r.rtype, r.ttl, len(r)) for r in view.answer] == [
        (EXAMPLE, c.A, 30, 2),
        (EXAMPLE, c.TXT, 60, 1),
        (name.from_text("other"), c.A, 60, 1),
    ]
    assert view.answer[0].rdatas() == [b"\1\1\1\1", b"\2\2\2\2"]
    assert view.answer is view.answer


def test_classes_do_not_mix() -> None:
    view = MessageView.parse(reply(
        record(AT_QNAME, c.A, bytes(4)), record(AT_QNAME, c.A, b"\1\2\3\4", rclass=c.CH), record(AT_QNAME, c.A, b"abcd")
    ))
    assert [(rrset.rclass, rrset.rdatas()) for rrset in view.answer] == [
        (c.IN, [bytes(4), b"abcd"]), (c.CH, [b"\1\2\3\4"])
    ]


def test_sections_do_not_mix() -> None:
    data = header(1, 1, 1, 1) + question() + record(AT_QNAME, c.A, bytes(4)) * 3
    view = MessageView.parse(data)
    assert view.answer == view.authority == view.additional
    assert len(view.answer) == len(view.answer[0]) == 1


def test_rrsigs_belong_to_the_rrset_that_they_cover() -> None:
    view = MessageView.parse(
        reply(
            record(AT_QNAME, c.RRSIG, rrsig(c.A), ttl=20),
            record(AT_QNAME, c.RRSIG, rrsig(c.MX)),
            record(AT_QNAME, c.A, bytes(4)),
            record(AT_QNAME, c.RRSIG, rrsig(c.A, tail=b"two")),
            record(AT_QNAME, c.RRSIG, rrsig(c.RRSIG)),
            record(AT_QNAME, c.TXT, b"\0"),
        )
    )
    assert [(r.rtype, len(r), r.sig_len, r.ttl) for r in view.answer] == [
        (c.RRSIG, 2, 0, 60),
        (c.A, 1, 2, 20),
        (c.TXT, 1, 0, 60),
    ]
    assert view.answer[0].rdatas() == [rrsig(c.MX), rrsig(c.RRSIG)]
    assert view.answer[1].sigs() == [rrsig(c.A), rrsig(c.A, tail=b"two")]


@pytest.mark.parametrize(("ttl", "expected"), [(0x7FFFFFFF, 0x7FFFFFFF), (0x80000000, 0), (0xFFFFFFFF, 0)])
def test_ttl_with_the_top_bit(ttl: int, expected: int) -> None:
    # RFC 2181 section 8
    assert MessageView.parse(reply(record(AT_QNAME, c.A, bytes(4), ttl=ttl))).answer[0].ttl == expected


def test_duplicates_in_large_rrsets_are_removed() -> None:
    members = [record(AT_QNAME, c.A, bytes((0, 0, i % 40, 1))) for i in range(200)]
    (rrset,) = MessageView.parse(reply(*members)).answer
    assert rrset.rdatas() == [bytes((0, 0, i, 1)) for i in range(40)]


def test_numbers_of_records_per_rrset_and_message_are_limited() -> None:
    allowed = limits.RRSET_RECORDS
    members = [record(AT_QNAME, c.A, i.to_bytes(4, "big")) for i in range(allowed + 1)]
    assert len(MessageView.parse(reply(*members[:allowed])).answer[0]) == allowed
    assert "in one set" in parse_error(reply(*members))
    assert "in one set" in parse_error(
        reply(record(AT_QNAME, c.A, bytes(4)), *[record(AT_QNAME, c.RRSIG, rrsig(c.A))] * (allowed + 1))
    )
    many = limits.MESSAGE_RECORDS + 1
    assert "in one message" in parse_error(header(0, many) + record(b"\0", 65280, b"") * many)


@pytest.mark.parametrize("rtype", [c.MX, c.RRSIG])
def test_the_decompressed_size_of_an_rrset_is_limited(rtype: int) -> None:
    long = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"b" * 61 + b"\0"
    front = {c.MX: b"", c.RRSIG: c.A.to_bytes(2, "big") + bytes(14)}[rtype]
    tail = {c.MX: b"", c.RRSIG: b"s"}[rtype]
    count = limits.RRSET_BYTES // (len(front) + 2 + len(long) + len(tail) + 2)

    def packet(number: int) -> bytes:
        rdatas = [front + i.to_bytes(2, "big") + AT_QNAME + tail for i in range(number)]
        records = [record(AT_QNAME, c.A, bytes(4)), *(record(AT_QNAME, rtype, rdata) for rdata in rdatas)]
        return header(1, len(records)) + question(long) + b"".join(records)

    sets = MessageView.parse(packet(count)).answer
    assert sum(len(one) + one.sig_len for one in sets) == count + 1
    assert "written out" in parse_error(packet(count + 1))


def test_rdata_may_not_exceed_65535_octets_when_decompressed() -> None:
    """The signer points into the owner. Read from there, its labels span owner, header and rdata: 255 octets of 2."""
    owner = (b"\x3f\x3f" + b"a" * 62) * 3 + b"\x22\x3d" + b"a" * 33 + b"\0"
    rdata = bytes(18) + b"\xc0\x0d"
    room = 65535 - 12 - len(owner) - 10
    packet = header(0, 1) + record(owner, c.RRSIG, rdata + bytes(room - len(rdata)))
    assert len(packet) == 65535
    assert "larger than 65535" in parse_error(packet)
    fits = header(0, 1) + record(owner, c.RRSIG, rdata + bytes(100))
    assert len(MessageView.parse(fits).answer[0].rdata(0)) == 18 + 255 + 100


def test_grouping_many_owners_takes_linear_time() -> None:
    count = limits.MESSAGE_RECORDS
    owners = [bytes((3,)) + b"%03x" % i + b"\0" for i in range(count)]
    view = MessageView.parse(header(0, count) + b"".join(record(owner, 65280, b"") for owner in owners))
    assert [r.name for r in view.answer] == owners
    # half of the slots are free: two or three probes per record; comparing all pairs takes thousands
    assert count <= view.probes < 8 * count


# --- OPT ----------------------------------------------------------------------------------------------------------


def opt(rdata: bytes = b"", *, owner: bytes = b"\0", ttl: int = 0x8000, payload: int = 1232) -> bytes:
    """An OPT record."""
    return record(owner, c.OPT, rdata, ttl=ttl, rclass=payload)


def test_edns() -> None:
    data = header(1, 0, 0, 2, flags=c.QR | 7) + question() + opt(b"\0\3\0\2id\0\x0f\0\2\0\6", ttl=0x01008000)
    view = MessageView.parse(data + record(b"\0", c.TSIG, b"x", rclass=c.CLASS_ANY, ttl=0))
    assert view.edns is not None
    assert (view.edns.payload, view.edns.version, view.edns.do, view.edns.ext_rcode) == (1232, 0, True, 1)
    assert view.rcode == 0x17 == c.BADCOOKIE
    assert view.edns.options == [(c.OPTION_NSID, b"id"), (c.OPTION_EDE, b"\0\6")]
    assert view.edns.get(c.OPTION_NSID) == b"id"
    assert view.edns.get(c.OPTION_COOKIE) is None
    assert view.additional == []


def test_edns_in_wrong_places() -> None:
    assert "more than one" in parse_error(header(1, 0, 0, 2) + question() + opt() * 2)
    assert "outside" in parse_error(reply(opt()))
    assert "outside" in parse_error(header(1, 0, 0, 1) + question() + opt(owner=AT_QNAME))
    assert "options" in parse_error(header(1, 0, 0, 1) + question() + opt(b"\0\3\0\5id"))
    assert "options" in parse_error(header(1, 0, 0, 1) + question() + opt(b"\0\3\0"))


# --- queries without the GIL --------------------------------------------------------------------------------------


# Codes of inspect_query: 0 plain, 1 left to Python, -1 dropped, below -1 malformed.


def query(*additional: bytes, flags: int = c.RD, qtype: int = c.A) -> bytes:
    """A query for example."""
    return header(1, 0, 0, len(additional), flags=flags) + question(qtype=qtype) + b"".join(additional)


def test_plain_query() -> None:
    code, fields = inspect_query(query())
    assert code == 0
    assert (fields["qname"], fields["qtype"], fields["qclass"], fields["question_end"]) == (EXAMPLE, c.A, 1, 25)
    assert (fields["has_edns"], fields["do_bit"], fields["unusual"], fields["cookie"]) == (False, False, False, None)


def test_query_with_edns() -> None:
    code, fields = inspect_query(query(opt(b"\0\x0a\0\x08abcdefgh")))
    assert code == 0
    assert (fields["has_edns"], fields["payload"], fields["do_bit"], fields["edns_version"]) == (True, 1232, True, 0)
    assert (fields["cookie"], fields["unusual"]) == (b"abcdefgh", False)


@pytest.mark.parametrize(
    "data",
    [
        query(opt(b"\0\3\0\0")),
        query(opt(ttl=0x10000)),
        query(opt(ttl=1)),
        query(flags=c.TC),
        query(flags=c.AA),
        query(flags=0x40),
        header(1, flags=0) + EXAMPLE + b"\0\1\0\3",
    ],
)
def test_queries_that_are_plain_but_unusual(data: bytes) -> None:
    code, fields = inspect_query(data)
    assert (code, fields["unusual"]) == (0, True)


@pytest.mark.parametrize(
    "data",
    [
        header(flags=0),
        header(2, flags=0) + question() * 2,
        query(flags=c.NOTIFY << 11),
        query(record(b"\0", c.TSIG, b"", ttl=0)),
        query(opt(), opt()),
        header(1, 1, flags=0) + question() + record(AT_QNAME, c.A, bytes(4)),
        query(record(b"\1", c.OPT, b"")),  # a name begins where the root should stand
    ],
)
def test_queries_that_are_left_to_python(data: bytes) -> None:
    assert inspect_query(data)[0] == 1


@pytest.mark.parametrize("data", [b"", bytes(11), query(flags=c.QR)])
def test_packets_that_are_dropped(data: bytes) -> None:
    assert inspect_query(data)[0] == -1


@pytest.mark.parametrize(
    "data",
    [
        query() + b"\0",
        query()[:-1],
        header(1, flags=0),
        header(1, flags=0) + AT_QNAME + b"\0\1\0\1",
        query(opt())[:-1],
        query(opt(b"\0\x0a\0\x07abcdefg")),
        query(opt(b"\0\x0a\0\x29" + bytes(41))),
        query(opt(b"\0\x0a\0\x09" + bytes(9))),
        query(opt(b"\0\3\0\1")),
        query(opt(b"\0\3\0")),
        query(opt(b"\0\x0a\0\x08" + bytes(4))) + bytes(4),  # the option ends with the packet, not with its record
        query(opt()) + b"x",
        header(1, 0, 0, 1, flags=0) + question(),
    ],
)
def test_malformed_queries(data: bytes) -> None:
    assert inspect_query(data)[0] < -1


@pytest.mark.parametrize("rclass", [c.IN, 254, 255, 0x04D0])
@pytest.mark.parametrize("rtype", [c.NS, c.MX, c.SRV, c.SOA, c.A, c.RRSIG, c.NSEC3])
def test_empty_rdata_of_types_that_need_rdata_is_malformed(rtype: int, rclass: int) -> None:
    """Found by fuzzing: in classes 254 and above empty rdata was accepted, then read and written past its end."""
    packet = reply(record(AT_QNAME, rtype, b"", rclass=rclass))
    if rtype == c.A and rclass != c.IN:
        assert MessageView.parse(packet).answer[0].rdatas() == [b""]  # A is defined for class IN only
    else:
        assert parse_error(packet)


@pytest.mark.parametrize("rclass", [254, 255])
@pytest.mark.parametrize("rtype", [c.NS, c.MX, c.SRV, c.SOA, c.A, c.RRSIG, c.NSEC3])
def test_an_update_deletes_with_empty_rdata(rtype: int, rclass: int) -> None:
    """RFC 2136 sections 2.4 and 2.5: empty rdata is valid in an UPDATE, and nothing after it is read."""
    packet = header(1, 1, flags=c.UPDATE << 11) + question() + record(AT_QNAME, rtype, b"", rclass=rclass)
    [rrset] = MessageView.parse(packet).answer
    assert rrset.rdatas() == [b""]
