"""The three forms of an explanation: text, JSON with documented keys, and a self-contained page.

Hostile names and errors go through all of them: no text from the network may control a terminal or a browser.
"""

import json
import re
import unicodedata
from html.parser import HTMLParser

import pytest
from support.minet import build, rr, scripted
from support.signed_net import NOW, explained, resolver_in

from resolver.explain import SCHEMA, Explanation, escape_controls, to_json, to_page, to_text
from resolver.explain.explanation import ServerReply
from resolver.playground import World, signed
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import Builder
from resolver.wire.edns import encode_ede
from resolver.wire.message import MessageView

# Names of the playground: secure, bogus, unsigned, aliases across zones, absent, truncated, refused.
SEEN = ("www.nsec.dnssec.playground.", "www.expired.dnssec.playground.", "www.insecure.dnssec.playground.",
        "far.chains.dnssec.playground.", "missing.nsec3.dnssec.playground.", "www.truncate.playground.",
        "www.lame-all.playground.", "self.loop.playground.")  # fmt: skip
EVIL = "\x1b]0;pwned\x07\x9b31m\u202egnp.exe <img src=x onerror=alert(1)> \"'&"
EVIL_NAME = r"\027[31m\060script\062alert\0401\041\060/script\062\034onload=x.example.com."


@pytest.fixture(scope="module")
def world() -> World:
    return signed.signed_world(NOW)


@pytest.fixture(scope="module", params=SEEN)
def explanation(request: pytest.FixtureRequest, world: World) -> Explanation:
    return explained(resolver_in(world), request.param)


@pytest.fixture(scope="module")
def hostile() -> Explanation:
    """A zone whose server puts escape sequences and markup into every text."""

    def script(qname, qtype, packet):
        query = MessageView.parse(packet)
        builder = Builder(4096, reserve_opt=200)
        builder.start(query.id, c.QR | c.AA, query.qname, query.qtype)
        builder.add(
            c.ANSWER,
            rr(f"{qname} 60 CNAME {EVIL_NAME}")
            if not qname.startswith("\\027")
            else rr(f'{qname} 60 TXT "\\027[2J<b>bold</b>"'),
        )
        builder.opt(1232, options=[(c.OPTION_EDE, encode_ede(24, EVIL)), (c.OPTION_COOKIE, bytes(16))])
        return builder.finish()

    minet = build()
    minet.net.hosts["192.0.2.1"] = minet.net.hosts["192.0.2.2"] = scripted(script)
    explanation = explained(minet, r"\060b\062.example.com.", "TXT", validating=False)
    explanation.outcome.ede.append((0, EVIL))
    answer = list(explanation.outcome.answer)
    explanation.server_reply = ServerReply("192.0.2.9", 53, 0, 0, 0.1, 10, "udp", answer, [(0, EVIL)], [EVIL])
    return explanation


def is_harmless(text: str) -> bool:
    return all(unicodedata.category(x) not in ("Cc", "Cf", "Zl", "Zp") or x == "\n" for x in text)


# --- text -----------------------------------------------------------------------------------------------------------


def test_control_characters_are_escaped() -> None:
    assert escape_controls("plain, naïve") == "plain, naïve"
    assert escape_controls("\x1b[31m") == "\\u{1b}[31m"
    escaped = escape_controls(EVIL)
    assert is_harmless(escaped) and "\\u{202e}" in escaped and "\\u{9b}" in escaped


def test_the_tree_begins_with_the_result(explanation: Explanation) -> None:
    text = to_text(explanation)
    lines = text.splitlines()
    assert lines[0] == f"{names.to_text(explanation.outcome.question.qname)} A"
    assert c.rcode_to_text(explanation.outcome.rcode) in lines[1] and lines[3].startswith("  why")
    assert ("\n  who " in text) == ("\n  hint " in text)
    for one in explanation.exchanges:
        assert one.address in text
    assert "\x1b" not in text and is_harmless(text)
    assert not any(line != line.rstrip() for line in lines)


def test_colour_adds_nothing_but_colour(explanation: Explanation) -> None:
    painted = to_text(explanation, colour=True)
    assert "\x1b[" in painted
    assert re.sub(r"\x1b\[[\d;]*m", "", painted) == to_text(explanation)


def test_ascii_terminals_get_ascii(explanation: Explanation) -> None:
    assert to_text(explanation, unicode=False).isascii()


def test_hostile_text_is_escaped_in_the_tree(hostile: Explanation) -> None:
    text = to_text(hostile)
    assert is_harmless(text) and "\\u{1b}" in text
    painted = to_text(hostile, colour=True)
    assert is_harmless(re.sub(r"\x1b\[[\d;]*m", "", painted))


# --- JSON -----------------------------------------------------------------------------------------------------------

RECORD = {"name": str, "ttl": int, "class": str, "type": str, "data": str}
EDE = {"code": int, "name": str, "text": str}
DS = {"tag": int, "algorithm": int, "algorithm_name": str, "digest_type": int, "digest_name": str, "digest": str}
NUMBER, MAYBE_TEXT, MAYBE_INT, MAYBE_NUMBER = (
    (int, float),
    (str, type(None)),
    (int, type(None)),
    (int, float, type(None)),
)
CONNECTION = {
    "version": str, "cipher": str, "alpn": str, "resumed": bool, "subject": str, "names": [str], "issuer": str,
    "not_after": str, "pin": str, "connect_milliseconds": NUMBER, "http": str,
}
SHAPE: dict = {
    "schema": str,
    "source": str,
    "time": int,
    "question": {"name": str, "class": str, "type": str},
    "result": {
        "status": str, "dnssec": MAYBE_TEXT, "milliseconds": NUMBER, "queries": int, "checks": int, "from_cache": bool,
        "stale": bool, "answer": [RECORD], "authority": [RECORD], "aliases": [str], "ede": [EDE],
        "failure": ({"kind": str, "text": str}, None),
    },
    "advice": {"why": str, "who": str, "people": str, "zone": MAYBE_TEXT, "hint": str},
    "server": ({
        "address": str, "port": int, "status": str, "flags": [str], "milliseconds": NUMBER, "octets": int,
        "transport": str, "answer": [RECORD], "ede": [EDE], "notes": [str],
    }, None),
    "delegations": [{
        "zone": str, "parent": MAYBE_TEXT, "source": str, "for": str, "referred_by": MAYBE_TEXT, "ttl": MAYBE_INT,
        "servers": [{"name": MAYBE_TEXT, "addresses": [str]}], "ds": ([DS], None), "denial_of_ds": bool,
    }],
    "exchanges": [{
        "number": int, "depth": int, "for": str, "zone": str, "server": str, "port": int, "server_name": MAYBE_TEXT,
        "name": str, "type": str, "transport": str, "edns_payload": MAYBE_INT, "why": str,
        "candidates": [{"server": str, "server_name": MAYBE_TEXT, "state": str, "expected_milliseconds": MAYBE_NUMBER}],
        "at_milliseconds": NUMBER, "milliseconds": MAYBE_NUMBER, "timeout_milliseconds": MAYBE_NUMBER, "result": str,
        "usable": bool, "text": str, "rcode": MAYBE_TEXT, "flags": [str], "octets": MAYBE_INT,
        "server_edns_payload": MAYBE_INT, "server_cookie": bool, "connection": (CONNECTION, None), "ede": [str],
    }],
    "chain": [{
        "zone": str, "dnssec": str, "text": str, "trust_anchor": bool, "from_cache": bool, "ds": [DS],
        "keys": [{"tag": int, "algorithm": int, "algorithm_name": str, "flags": int, "role": str, "octets": int,
                  "secure_entry": bool}],
        "denial_of_ds": [RECORD],
    }],
    "signatures": [{
        "name": str, "type": str, "zone": str, "result": str, "text": str, "key_tag": MAYBE_INT, "algorithm": MAYBE_INT,
        "algorithm_name": MAYBE_TEXT, "inception": MAYBE_INT, "expiration": MAYBE_INT, "labels": MAYBE_INT,
        "original_ttl": MAYBE_INT, "key_tried": bool, "ede": MAYBE_INT,
    }],
    "proofs": [{"what": str, "zone": MAYBE_TEXT, "result": str, "text": str, "records": [RECORD]}],
    "cache": [{"name": str, "type": str, "text": str, "dnssec": MAYBE_TEXT, "records": int}],
    "steps": [{
        "at_milliseconds": MAYBE_NUMBER, "kind": str, "depth": int, "text": str, "zone": MAYBE_TEXT, "name": MAYBE_TEXT,
        "type": MAYBE_TEXT, "server": MAYBE_TEXT, "rcode": MAYBE_TEXT,
    }],
}  # fmt: skip


def fits(value: object, shape: object, where: str = "$") -> None:
    """Exactly these keys, each of its type."""
    if isinstance(shape, dict):
        assert isinstance(value, dict) and list(value) == list(shape), f"{where}: {value}"
        for key, inner in shape.items():
            fits(value[key], inner, f"{where}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), where
        for position, item in enumerate(value):
            fits(item, shape[0], f"{where}[{position}]")
    elif isinstance(shape, tuple) and None in shape:
        if value is not None:
            fits(value, shape[0], where)
    else:
        kinds = shape if isinstance(shape, tuple) else (shape,)
        assert isinstance(value, kinds), f"{where}: {value!r} is not {shape}"
        assert not isinstance(value, bool) or bool in kinds, f"{where}: {value!r}"


def test_json_has_the_documented_keys(explanation: Explanation) -> None:
    value = json.loads(to_json(explanation))
    fits(value, SHAPE)
    assert value["schema"] == SCHEMA == "rdig-explain/1"
    assert value["result"]["queries"] == len(value["exchanges"])


def test_json_of_a_server_s_reply_and_of_hostile_text(hostile: Explanation) -> None:
    text = to_json(hostile)
    fits(json.loads(text), SHAPE)
    assert text.isascii() and text.isprintable()


@pytest.mark.checkout
def test_the_handbook_page_lists_every_key() -> None:
    from pathlib import Path

    text = (Path(__file__).parents[4] / "docs" / "explain.md").read_text(encoding="utf-8")

    def walk(shape: object) -> set[str]:
        if isinstance(shape, dict):
            return {*shape, *(key for inner in shape.values() for key in walk(inner))}
        return {key for inner in shape for key in walk(inner)} if isinstance(shape, list | tuple) else set()

    missing = [key for key in walk(SHAPE) if f"`{key}`" not in text]
    assert missing == []


# --- the page -------------------------------------------------------------------------------------------------------

VOID = {"meta", "br"}
ALLOWED = {"html", "head", "meta", "title", "style", "body", "main", "section", "h1", "h2", "small", "ul", "li", "dl",
           "dt",
           "dd", "div", "span", "b", "em", "p", "svg", "path", "circle", "rect", "text", "details", "summary", "header",
           "table", "thead", "tbody", "tr", "th", "td", "br", "ol", "footer"}  # fmt: skip


class Reader(HTMLParser):
    """Notes elements and attributes, and that everything opened is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    return reader


def test_the_page_is_complete_and_self_contained(explanation: Explanation) -> None:
    page = to_page(explanation)
    reader = read(page)
    assert reader.seen <= ALLOWED, "no script, link, image or frame"
    assert not {"src", "href", "onclick", "onload", "onerror", "srcset", "data"} & reader.attributes
    assert "url(" not in page and "@import" not in page and "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page
    assert page.count('<summary class="line"') == len(explanation.exchanges)
    assert "prefers-color-scheme: dark" in page and "max-width: 40rem" in page


def test_every_zone_and_signature_is_drawn(explanation: Explanation) -> None:
    page = to_page(explanation)
    assert page.count('class="card zone') == len(explanation.zones) + len(explanation.proofs)
    links = len(re.findall('<svg class="link', page))
    assert links == max(len(explanation.zones) - 1, 0), "each zone but the anchor's hangs on its parent"
    assert page.count('<li class="good">') + page.count('<li class="bad">') + page.count('<li class="open">') == sum(
        len(zone.checks) for zone in explanation.zones
    )


def test_hostile_text_is_escaped_in_the_page(hostile: Explanation) -> None:
    page = to_page(hostile)
    reader = read(page)
    assert reader.seen <= ALLOWED and "onerror" not in reader.attributes and "onload" not in reader.attributes
    assert "<img src=x" in "".join(reader.text), "it is shown"
    assert is_harmless(page.partition("</style>")[2])


def test_bars_lie_within_the_timeline(explanation: Explanation) -> None:
    for left, width in re.findall(r'<rect class="bar-\w+" x="([\d.]+)" y="7" width="([\d.]+)"', to_page(explanation)):
        assert 0 <= float(left) and float(left) + float(width) <= 1000.2 and float(width) >= 4
