"""URLs against ada, the parser of Node.js: what is accepted is read as the WHATWG URL standard reads it."""

import ada_url
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corenet.http.errors import InvalidUrl
from corenet.http.url import parse_url

pytestmark = pytest.mark.integration

# fmt: off
PIECES = [
    "a", "b.c", ".", "..", "%2e", "%2E", "%", "%4", "%41", "/", "//", "?", "#", "&", "=", ";", ",", "'", '"', "`",
    "<", ">", "{", "}", "^", "|", "[", "]", "!", "$", "~", ":", "@", "\\", " ", "\x00", "\x1f", "\x7f", "\x80", "\xe4",
    "\ufffe", "\U0001f4a9", "\ud800", "\udfff",
]
# fmt: on
PARTS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
TAILS = st.lists(st.sampled_from(PIECES) | st.characters(), max_size=12).map("".join)
# fmt: off
LABELS = st.sampled_from([
    "a", "A-", "-b", "r3---sn", "xn--a", "xn--zca", "xn--53h", "\u2615", "b\xfc", "Z\u0308", "\xdf", "\u05d0", "1",
    "07", "0x1", "_", "\xad", "\uff21", "\u3002", "\u0661", "\u0301", "\u0915\u094d\u200d\u0937", "\u200d", "\u2488",
    "\ufffd", "", "a" * 64,
])
# fmt: on
HOSTS = st.one_of(
    st.just("host.example"),
    st.lists(LABELS, min_size=1, max_size=4).map(".".join),
    st.lists(st.integers(0, 260).map(str), min_size=4, max_size=4).map(".".join),
    st.ip_addresses(v=6).map(lambda address: f"[{address.exploded}]"),
)
PORTS = st.sampled_from(["", ":", ":80", ":443", ":0443", ":8080", ":65536", ":0", ":a"])
SCHEMES = st.sampled_from(["http", "https", "HTTP"])


def _unicode(text: str) -> str:
    """Lone surrogates as U+FFFD: as which the standard encodes them, and ada takes UTF-8 only."""
    return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)


@given(SCHEMES, HOSTS, PORTS, TAILS)
def test_what_is_accepted_is_read_as_browsers_read_it(scheme: str, host: str, port: str, tail: str) -> None:
    text = f"{scheme}://{host}{port}/{tail}"
    try:
        url = parse_url(text)
    except InvalidUrl:
        return
    assert str(url) == ada_url.URL(_unicode(text)).href


@given(HOSTS, TAILS)
def test_what_browsers_refuse_is_refused(host: str, tail: str) -> None:
    text = f"http://{host}/{tail}"
    try:
        ada_url.URL(_unicode(text))
    except ValueError:
        with pytest.raises(InvalidUrl):
            parse_url(text)


@given(PARTS, PARTS)
def test_references_are_joined_as_browsers_join_them(base: str, reference: str) -> None:
    try:
        start = parse_url(f"http://a.example/{base.partition('#')[0]}")
        joined = start.join(reference)
    except InvalidUrl:
        return
    assert str(joined) == ada_url.URL(_unicode(reference), base=str(start)).href
