"""Text forms: parsing, output, and that dnspython is imported only when they are used."""

import subprocess
import sys

import pytest

from resolver.wire import Builder, MessageView, RRset, name, present
from resolver.wire import consts as c

ZONE = r"""
$ORIGIN example.
$TTL 300
@        IN SOA ns host 1 2 3 4 5
         IN NS  ns
         IN RRSIG NS 8 1 300 20300101000000 20200101000000 1 @ AAAA
ns   60     A   192.0.2.1
            A   192.0.2.2
www         CNAME ns
            TXT "beside a CNAME" ; a mistake that tests need
odd         TYPE65280 \# 3 abcdef
            RRSIG MX 8 2 300 20300101000000 20200101000000 1 @ AAAA
$ORIGIN sub.example.
deep        AAAA 2001:db8::1
out.test.   A   192.0.2.9
"""


def test_zone() -> None:
    sets = {
        (name.to_text(r.name), c.type_to_text(r.rtype)): r
        for r in present.zone_from_text(ZONE, name.from_text("example"))
    }
    assert list(sets) == [
        ("example.", "SOA"),
        ("example.", "NS"),
        ("ns.example.", "A"),
        ("www.example.", "CNAME"),
        ("www.example.", "TXT"),
        ("odd.example.", "TYPE65280"),
        ("deep.sub.example.", "AAAA"),
        ("out.test.", "A"),
        ("odd.example.", "RRSIG"),
    ]
    assert sets["example.", "NS"].sig_len == 1
    assert sets["example.", "NS"].targets() == [name.from_text("ns.example")]
    assert (sets["ns.example.", "A"].ttl, len(sets["ns.example.", "A"])) == (60, 2)
    assert sets["odd.example.", "TYPE65280"].rdatas() == [b"\xab\xcd\xef"]


@pytest.mark.parametrize(
    "text",
    [
        "a IN A 192.0.2.1",
        "$TTL 5\na A nonsense",
        "$INCLUDE /etc/passwd",
        "$TTL 5\na NOTYPE x",
        "$GENERATE 1-9 a$ A 192.0.2.$",
        "$TTL 5\na A ( 192.0.2.1",
    ],
)
def test_zone_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match="zone text"):
        present.zone_from_text(text, name.from_text("example"))


def test_rdata_round_trip() -> None:
    for rtype, text in (
        (c.MX, "10 mx.example."),
        (c.TXT, '"a b" "c"'),
        (c.CAA, '0 issue "x"'),
        (65280, r"\# 2 abcd"),
        (65280, r"\# 0"),
    ):
        assert present.rdata_to_text(rtype, present.rdata_from_text(rtype, text)) == text
    assert present.rdata_from_text(c.NS, "ns", name.from_text("example")) == name.from_text("ns.example")
    assert present.rdata_from_text(c.A, r"\# 4 c0000201") == b"\xc0\0\2\1"
    for rtype, text in ((c.A, "x"), (c.A, r"\# 3 c00002"), (c.MX, "mx"), (65280, "abc")):
        with pytest.raises(ValueError):
            present.rdata_from_text(rtype, text)


def test_rdata_without_text_form_is_shown_as_hexadecimal() -> None:
    assert present.rdata_to_text(c.A, b"abc") == r"\# 3 616263"
    assert present.rdata_to_text(65280, b"") == r"\# 0"


def test_rrset() -> None:
    rrset = present.zone_from_text(ZONE, name.from_text("example"))[1]
    assert present.rrset_to_text(rrset) == [
        "example. 300 IN NS ns.example.",
        "example. 300 IN RRSIG NS 8 1 300 20300101000000 20200101000000 1 example. AAAA",
    ]
    assert len(present.rrset_to_text(rrset, sigs=False)) == 1


def test_hints() -> None:
    text = (
        ". NS A.ROOT.\n. NS b.root.\na.root. A 192.0.2.1\nA.root. AAAA ::1\nb.root. 5 A 192.0.2.2\nelse. A 192.0.2.3\n"
    )
    assert [(name.to_text(r.name), r.rtype, r.ttl) for r in present.hints_from_text(text)] == [
        (".", c.NS, 3_600_000),
        ("a.root.", c.A, 3_600_000),
        ("A.root.", c.AAAA, 3_600_000),
        ("b.root.", c.A, 5),
    ]
    for broken in ("", ". NS a.", "a. A 192.0.2.1", ". NS a.\nb. A 192.0.2.1"):
        with pytest.raises(ValueError, match="root hints"):
            present.hints_from_text(broken)


def test_message() -> None:
    builder = Builder()
    builder.start(5, c.QR | c.RD | c.RA | c.AD | c.NXDOMAIN, name.from_text("www.example"), c.A)
    assert builder.add(c.ANSWER, RRset(name.from_text("www.example"), c.A, 5, [bytes(4)]))
    assert builder.add(c.AUTHORITY, RRset(name.from_text("example"), c.NS, 6, [name.from_text("ns.example")]))
    assert builder.opt(
        1232,
        do=True,
        options=[
            (c.OPTION_EDE, b"\0\6why"),
            (c.OPTION_EDE, b"\0"),
            (c.OPTION_PADDING, bytes(3)),
            (c.OPTION_NSID, b"id"),
            (65001, b""),
        ],
    )
    assert present.message_to_text(MessageView.parse(builder.finish())).splitlines() == [
        ";; ->>HEADER<<- opcode: QUERY, status: NXDOMAIN, id: 5",
        ";; flags: qr rd ra ad; QUERY: 1, ANSWER: 1, AUTHORITY: 1, ADDITIONAL: 1",
        "",
        ";; OPT PSEUDOSECTION:",
        "; EDNS: version: 0, flags: do; udp: 1232",
        "; EDE: 6 (DNSSEC Bogus): (why)",
        "; EDE: malformed 00",
        "; PADDING: 3 bytes",
        "; NSID: 6964",
        "; OPT65001:",
        "",
        ";; QUESTION SECTION:",
        ";www.example. IN A",
        "",
        ";; ANSWER SECTION:",
        "www.example. 5 IN A 0.0.0.0",
        "",
        ";; AUTHORITY SECTION:",
        "example. 6 IN NS ns.example.",
    ]


def test_the_import_does_not_load_dnspython() -> None:
    program = "import sys, resolver.wire; sys.exit(any(m == 'dns' or m.startswith('dns.') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_numbers_and_texts() -> None:
    assert (c.type_to_text(c.NSAP_PTR), c.type_to_text(c.AAAA), c.type_to_text(1234)) == (
        "NSAP-PTR",
        "AAAA",
        "TYPE1234",
    )
    assert (c.type_from_text("aaaa"), c.type_from_text("type65535"), c.type_from_text("TYPE1")) == (28, 65535, 1)
    assert (c.class_to_text(3), c.class_to_text(9), c.class_from_text("in"), c.class_from_text("CLASS9")) == (
        "CH",
        "CLASS9",
        1,
        9,
    )
    assert (c.rcode_to_text(3), c.rcode_to_text(999)) == ("NXDOMAIN", "RCODE999")
    assert (c.opcode_to_text(4), c.opcode_to_text(9)) == ("NOTIFY", "OPCODE9")
    assert (c.ede_to_text(22), c.ede_to_text(999)) == ("No Reachable Authority", "EDE 999")
    assert (c.option_to_text(10), c.option_to_text(999)) == ("COOKIE", "OPT999")
    for text in ("", "TYPE", "TYPE65536", "TYPE-1", "TYPE 1", "NOPE", "TYPE²"):
        with pytest.raises(ValueError):
            c.type_from_text(text)
        with pytest.raises(ValueError):
            c.class_from_text(text)
