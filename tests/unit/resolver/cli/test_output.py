"""The output of rdig, compared exactly: equal reports give equal text.

The reports are written by hand, so that all branches are covered, including those that the playground does not reach.
"""

import json
from dataclasses import replace

from resolver.cli.output import EdnsReport, Report, ede_sentence, long_text, short_text, to_json, trace_text
from resolver.effects import Server, TraceStep
from resolver.wire import RRset, present
from resolver.wire import consts as c
from resolver.wire import name as names

NAME = names.from_text("www.example.org.")
TARGET = names.from_text("a-much-longer-name.example.org.")
SIGNATURE = present.rdata_from_text(c.RRSIG, "A 13 3 60 20300101000000 20200101000000 7 example.org. AAAA")
REPORT = Report(
    NAME,
    c.A,
    c.IN,
    c.NOERROR,
    c.QR | c.RD | c.RA,
    {
        c.ANSWER: [
            RRset(NAME, c.CNAME, 60, [TARGET]),
            RRset(TARGET, c.A, 86400, [b"\xc0\0\2\1", b"\xc0\0\2\2"], sigs=[SIGNATURE]),
        ],
        c.AUTHORITY: [],
        c.ADDITIONAL: [],
    },
    "192.0.2.53 port 53 over udp",
    12.34,
    octets=99,
    message_id=0,
    edns=EdnsReport(0, 1232, True, ((c.OPTION_NSID, b"one"), (c.OPTION_COOKIE, b"\1\2"), (65001, b"\xff"))),
    ede=((c.EDE_STALE_ANSWER, "old"), (c.EDE_OTHER, "")),
    verdict="secure",
    notes=("asked twice",),
)


def test_the_long_form() -> None:
    assert (
        long_text(REPORT)
        == """\
;; status: NOERROR, id: 0
;; flags: qr rd ra; records: answer 3, authority 0, additional 0
;; dnssec: secure
;; edns: version 0, payload 1232, do, NSID one, COOKIE 0102, OPT65001 ff
;; EDE: Stale Answer (3): old
;; EDE: Other (0)
;; note: asked twice

;; QUESTION
;www.example.org. IN A

;; ANSWER
www.example.org.                    60  IN  CNAME  a-much-longer-name.example.org.
a-much-longer-name.example.org.  86400  IN  A      192.0.2.1
a-much-longer-name.example.org.  86400  IN  A      192.0.2.2
a-much-longer-name.example.org.  86400  IN  RRSIG  A 13 3 60 20300101000000 20200101000000 7 example.org. AAAA

;; from 192.0.2.53 port 53 over udp in 12.3 ms, 99 octets
"""
    )
    assert "RRSIG" not in long_text(REPORT, signatures=False)


def test_a_long_name_does_not_shift_the_columns() -> None:
    deep = names.from_text(".".join(["label"] * 12) + ".")
    text = long_text(
        Report(
            NAME,
            c.A,
            c.IN,
            0,
            0,
            {c.ANSWER: [RRset(deep, c.A, 1, [bytes(4)]), RRset(NAME, c.A, 1, [bytes(4)])]},
            "iteration",
            1.0,
        )
    )
    assert "\nwww.example.org.  1  IN  A  0.0.0.0\n" in text
    assert ";; flags" not in text and text.startswith(";; status: NOERROR\n;; records: answer 2, ")


def test_short_has_aliases_and_no_signatures() -> None:
    assert short_text(REPORT) == "a-much-longer-name.example.org.\n192.0.2.1\n192.0.2.2\n"


def test_json_is_one_object_with_fixed_keys() -> None:
    steps = [
        TraceStep(
            "ask", "why", server=Server("192.0.2.1", 53, NAME), qname=NAME, qtype=c.A, rtt=0.0123, rcode=0, zone=b"\0"
        )
    ]
    value = json.loads(to_json(REPORT, signatures=False, steps=steps))
    assert list(value) == [
        "question",
        "status",
        "flags",
        "dnssec",
        "ede",
        "answer",
        "authority",
        "additional",
        "edns",
        "connection",
        "notes",
        "source",
        "milliseconds",
        "octets",
        "trace",
    ]
    assert value["question"] == {"name": "www.example.org.", "class": "IN", "type": "A"}
    assert value["answer"][1] == {
        "name": "a-much-longer-name.example.org.",
        "ttl": 86400,
        "class": "IN",
        "type": "A",
        "data": "192.0.2.1",
    }
    assert value["ede"][0] == {"code": 3, "name": "Stale Answer", "text": "old"}
    assert value["edns"] == {
        "version": 0,
        "payload": 1232,
        "do": True,
        "options": [{"code": 3, "data": "6f6e65"}, {"code": 10, "data": "0102"}, {"code": 65001, "data": "ff"}],
    }
    assert value["milliseconds"] == 12.34
    assert value["trace"] == [
        {
            "kind": "ask",
            "depth": 0,
            "text": "why",
            "zone": ".",
            "name": "www.example.org.",
            "type": "A",
            "server": "192.0.2.1",
            "server_name": "www.example.org.",
            "rcode": "NOERROR",
            "milliseconds": 12.3,
        }
    ]
    assert "\n" not in to_json(REPORT)
    bare = json.loads(to_json(Report(NAME, c.A, c.IN, 0, 0, {}, "iteration", 1.0)))
    assert bare["edns"] is None and bare["octets"] is None and "trace" not in bare


def test_the_trace() -> None:
    server = Server("192.0.2.1", 53, names.from_text("ns.example."))
    steps = [
        TraceStep("cut", "the root, from hints"),
        TraceStep("ask", "never asked before", depth=1, server=server, qname=NAME, qtype=c.A),
        TraceStep("reply", "referral", depth=1, server=server, rcode=c.NOERROR, rtt=0.0015),
    ]
    assert (
        trace_text(steps)
        == """\
;; TRACE
   1  cut       the root, from hints
   2    ask       never asked before  [www.example.org. A, known as ns.example.]
   3    reply     referral  [NOERROR, 1.5 ms]

"""
    )


def test_extended_errors_in_words() -> None:
    assert ede_sentence(c.EDE_DNSSEC_BOGUS, "no key") == "DNSSEC Bogus (6): no key"


def test_errors_notes_and_identities_of_servers_are_escaped() -> None:
    evil = "\x1b[2J\u202e"
    edns = EdnsReport(0, 1232, False, ((c.OPTION_NSID, b"\x1b[31mred"),))
    report = Report(names.ROOT, c.NS, c.IN, 0, 0, {}, "x", 1.0, edns=edns, ede=[(0, evil)], notes=[evil])
    text = long_text(report) + trace_text([TraceStep("reply", evil)])
    assert "\x1b" not in text and "\u202e" not in text and text.count("\\u{1b}[2J") == 3 and "\\u{1b}[31mred" in text


CONNECTION = {
    "version": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384", "alpn": "h2", "http": "2", "resumed": True,
    "subject": "dns.example", "names": ("dns.example",), "issuer": "CA\x1b[31m",
    "not_after": "Jun  1 12:00:00 2027 GMT",
    "pin": "AAAA", "connect_seconds": 0.0123, "handshake_seconds": 0.0045,
}  # fmt: skip


def test_an_encrypted_connection_is_shown_without_control_characters() -> None:
    report = replace(REPORT, connection=CONNECTION)
    [line] = [line for line in long_text(report).splitlines() if line.startswith(";; connection: ")]
    assert line == (
        ";; connection: TLSv1.3, TLS_AES_256_GCM_SHA384, session resumed, ALPN h2, HTTP/2, handshake in 4.5 ms,"
        " connected in 12.3 ms, certificate of dns.example by CA\\u{1b}[31m until Jun  1 12:00:00 2027 GMT,"
        " key sha256//AAAA"
    )
    shown = json.loads(to_json(report))["connection"]
    assert (shown["handshake_milliseconds"], shown["names"], shown["resumed"]) == (4.5, ["dns.example"], True)
    assert json.loads(to_json(REPORT))["connection"] is None
    bare = CONNECTION | {"subject": "", "names": (), "pin": "", "alpn": "", "http": "", "resumed": False}
    assert "full handshake, ALPN none, handshake" in long_text(replace(REPORT, connection=bare))
    assert "certificate not verified" in long_text(replace(REPORT, connection=bare))


def test_padding_is_counted() -> None:
    report = replace(REPORT, edns=EdnsReport(0, 1232, False, ((c.OPTION_PADDING, bytes(300)),)))
    assert "PADDING 300 octets" in long_text(report)
