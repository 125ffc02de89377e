"""DNS over HTTPS without I/O: which requests carry a message, what the others are answered with, and for how long."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.service_parts import QNAME, Parts, Sink, address, failed, positive, query

from resolver import limits
from resolver.net import doh
from resolver.net.doh import BodyWanted, Refusal
from resolver.wire import consts as c
from resolver.wire.rrset import RRset

PATH = b"/dns-query"
TYPE = b"application/dns-message"


def get(parameter: bytes) -> bytes | BodyWanted | Refusal:
    return doh.classify_request(b"GET", PATH + b"?dns=" + parameter, None, False, PATH)


def status(found: bytes | BodyWanted | Refusal) -> int:
    return found.status if isinstance(found, Refusal) else 200


@given(st.binary(min_size=1, max_size=600))
def test_any_message_is_decoded_from_the_parameter(message: bytes) -> None:
    text = base64.urlsafe_b64encode(message).rstrip(b"=")
    assert get(text) == message
    assert get(text + b"&x=1") == message
    target = b"https://dns.example" + PATH + b"?a=b&dns=" + text
    assert doh.classify_request(b"GET", target, None, False, PATH) == message


@given(st.binary(max_size=80))
def test_a_parameter_has_only_one_valid_form(text: bytes) -> None:
    found = get(text)
    if isinstance(found, bytes):
        assert base64.urlsafe_b64encode(found).rstrip(b"=") == text
    else:
        assert status(found) == 400


@pytest.mark.parametrize(
    "text", [b"", b"A", b"AAAA=", b"AAA=", b"AA==", b"AA+A", b"AA/A", b"AA A", b"AA%2BA", b"AB", b"AAB"]
)
def test_other_spellings_of_base64url_are_refused(text: bytes) -> None:
    assert status(get(text)) == 400


@pytest.mark.parametrize(
    ("method", "target", "content_type", "coded", "expected"),
    [
        (b"GET", b"/dns-query", None, False, 400),
        (b"GET", b"/dns-query?dns=AAAA&dns=AAAA", None, False, 400),
        (b"GET", b"/dns-query?DNS=AAAA", None, False, 400),
        (b"GET", b"*", None, False, 400),
        (b"GET", b"dns-query?dns=AAAA", None, False, 400),
        (b"GET", b"/", None, False, 404),
        (b"GET", b"/dns-query/?dns=AAAA", None, False, 404),
        (b"GET", b"/DNS-QUERY?dns=AAAA", None, False, 404),
        (b"GET", b"/%64ns-query?dns=AAAA", None, False, 404),
        (b"GET", b"https://x", None, False, 404),
        (b"GET", b"/dns-query?dns=" + b"A" * limits.DOH_TARGET, None, False, 414),
        (b"POST", b"/dns-query", TYPE, False, 200),
        (b"POST", b"/dns-query?anything", b"Application/DNS-Message ; charset=x", False, 200),
        (b"POST", b"/dns-query", None, False, 415),
        (b"POST", b"/dns-query", b"text/plain", False, 415),
        (b"POST", b"/dns-query", b"application/dns-messages", False, 415),
        (b"POST", b"/dns-query", TYPE, True, 415),
        (b"POST", b"/other", TYPE, False, 404),
        (b"HEAD", b"/dns-query?dns=AAAA", None, False, 405),
        (b"PUT", b"/dns-query", TYPE, False, 405),
        (b"OPTIONS", b"/dns-query", None, False, 405),
        (b"BREW", b"/dns-query", None, False, 501),
        (b"get", b"/dns-query?dns=AAAA", None, False, 501),
    ],
)
def test_each_wrong_request_has_its_status(
    method: bytes, target: bytes, content_type: bytes | None, coded: bool, expected: int
) -> None:
    found = doh.classify_request(method, target, content_type, coded, PATH)
    assert status(found) == expected
    if isinstance(found, Refusal):
        assert found.text.endswith(".") and found.text.isascii()


def reply(*answer: RRset, authority: tuple[RRset, ...] = ()) -> bytes:
    parts = Parts()
    sink = Sink(stream=True)
    outcome = positive(*answer)
    outcome.authority.extend(authority)
    parts.answer(query(), outcome, sink=sink)
    packet = sink.packets[-1]
    assert packet is not None
    return packet


def test_a_reply_is_fresh_for_its_smallest_ttl() -> None:
    assert doh.freshness(reply(address(300), RRset(QNAME, c.TXT, 60, [b"\1x"]))) == 60
    assert doh.cache_control(60) == b"max-age=60"
    assert doh.cache_control(0) == b"max-age=0"


def test_a_negative_reply_is_fresh_for_the_minimum_of_its_soa() -> None:
    soa = RRset(QNAME, c.SOA, 900, [b"\0\0" + bytes(16) + (120).to_bytes(4, "big")])
    parts, sink = Parts(), Sink(stream=True)
    outcome = positive()
    outcome.answer.clear()
    outcome.authority.append(soa)
    parts.answer(query(), outcome, sink=sink)
    packet = sink.packets[-1]
    assert packet is not None and doh.freshness(packet) == 120


def test_failures_and_malformed_replies_are_not_cacheable() -> None:
    parts, sink = Parts(), Sink(stream=True)
    parts.answer(query(), failed(), sink=sink)
    packet = sink.packets[-1]
    assert packet is not None and doh.freshness(packet) is None
    assert doh.freshness(b"\0" * 5) is None
    assert doh.cache_control(None) == b"no-store"
    truncated = bytearray(reply())
    truncated[2] |= 2
    assert doh.freshness(bytes(truncated)) is None
