"""Properties of responses: charset, text, JSON, status.

There is no I/O here; test_client.py tests how responses are received.
"""

import codecs
import encodings
from encodings.aliases import aliases

import pytest
import webencodings
from webencodings.labels import LABELS

from corenet.http import Headers, HttpStatusError, Response
from corenet.http.charset import TextDecoder, decode_text
from corenet.http.charset_labels import CODECS, REPLACEMENT, USER_DEFINED
from corenet.http.event_stream import EventStream
from corenet.http.links import parse_links
from corenet.limits import HTTP_LINKS_SIZE


def response(content_type: str | None, body: bytes = b"", status: int = 200) -> Response:
    headers = Headers() if content_type is None else Headers.of({"Content-Type": content_type})
    return Response(status, "Reason", headers, body, url="https://example.com/")


@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [
        (None, "utf-8"),
        ("text/html", "utf-8"),
        ("text/html; charset=ISO-8859-1", "iso-8859-1"),
        ('text/html;charset="koi8-r"', "koi8-r"),
        ("text/html; x=y; CHARSET=utf-16 ; z", "utf-16"),
        ('text/html; charset=""', "utf-8"),
        ("text/html; notcharset=x", "utf-8"),
    ],
)
def test_the_encoding_of_a_response(content_type: str | None, encoding: str) -> None:
    assert response(content_type).encoding == encoding


def test_text_never_fails() -> None:
    assert response("text/plain; charset=latin-1", b"\xe9").text == "é"
    assert response(None, b"\xff").text == "\ufffd"
    assert response("text/plain; charset=unheard-of", b"a\xff").text == "a\ufffd"


@pytest.mark.parametrize(
    "charset",
    [
        "undefined", "idna", "punycode", "base64", "base64_codec", "zlib", "hex", "bz2", "quopri", "uu", "rot13",
        "mbcs", "oem", "unicode_escape", "raw-unicode-escape", "unicode-escape", "a\0b", "\xe9", ".", "..", "aliases",
        "charmap", "x" * 10_000, "-", "_", "__init__", "utf-8\0", "\x80",
        "encodings.utf_8", "string-escape", "%s", "\ud800",
    ],
)  # fmt: skip
def test_unsupported_charsets_are_read_as_utf_8(charset: str) -> None:
    strange = response(None, b"\\d a\xff\xc3\xa9")
    strange.headers = Headers([(b"Content-Type", b"text/plain; charset=" + charset.encode("utf-8", "surrogatepass"))])
    assert strange.text == "\\d a\ufffdé"
    assert decode_text(b"\\d a\xff\xc3\xa9", charset) == "\\d a\ufffdé"


def test_every_alias_of_the_standard_library_gives_text() -> None:
    for charset in [*aliases, *aliases.values(), "iso-8859-1", "utf-8-sig", "KOI8-U", "windows-1252", "cp874", "UTF-7"]:
        for body in (b"", b"plain", bytes(range(256)), b"\xff\xfe\x00", b"\\N{x} +AGE \x1b$B"):
            assert isinstance(decode_text(body, charset), str)
    assert decode_text("żółw".encode("iso-8859-2"), "ISO-8859-2") == "żółw"
    assert decode_text("\ufeffx".encode("utf-16"), "UTF-16") == "\ufeffx"


def test_unknown_charsets_are_not_cached() -> None:
    known = len(encodings._cache)  # type: ignore[attr-defined]
    for number in range(100):
        assert response(f"text/plain; charset=x-{number}", b"a").text == "a"
    assert len(encodings._cache) == known  # type: ignore[attr-defined]


def test_json() -> None:
    assert response("application/json", b'{"a": [1]}').json() == {"a": [1]}
    with pytest.raises(ValueError, match="Expecting value"):
        response("application/json", b"nope").json()
    with pytest.raises(ValueError, match="too deeply"):
        response("application/json", b"[" * 200_000).json()


def test_status() -> None:
    assert response(None).is_success and not response(None, status=302).is_success
    assert response(None, status=399).raise_for_status().status == 399
    with pytest.raises(HttpStatusError, match=r"GET https://example\.com/: 500 Reason"):
        response(None, status=500).raise_for_status()
    assert repr(response(None, b"abc")) == "<Response 200 Reason https://example.com/, 3 bytes>"


def test_charset_labels_are_those_of_the_encoding_standard() -> None:
    assert set(CODECS) == set(LABELS)
    for label, name in LABELS.items():
        # Their own codecs: one character for all, private use for the upper half.
        if CODECS[label] not in (REPLACEMENT, USER_DEFINED):
            theirs = webencodings.lookup(label).codec_info
            for text in ("plain", "é", "ж", "日本", "ﷺ"):
                encoded = theirs.encode(text, "ignore")[0]
                assert decode_text(encoded, label) == decode_text(encoded, name), label
                assert decode_text(encoded, f" {label.upper()}\t") == theirs.decode(encoded, "replace")[0], label


@pytest.mark.parametrize(
    ("body", "charset", "text"),
    [
        (b"\xef\xbb\xbfa\xc3\xa9", "latin1", "aé"),
        (b"\xff\xfea\x00", "utf-8", "a"),
        (b"\xfe\xff\x00a", "koi8-r", "a"),
        (b"\xef\xbb\xbf", "utf-8", ""),
        (b"\x80\x81\x9d\xe9", "iso-8859-1", "€\x81\x9dé"),
        (b"\x81\xaa", "windows-1253", "\x81\ufffd"),
        (b"any text", "iso-2022-kr", "\ufffd"),
        (b"", "hz-gb-2312", ""),
        (b"a\x80\xff", "x-user-defined", "a\uf780\uf7ff"),
        (b"+AGE-", "utf-7", "+AGE-"),
        (b"a\x00", "utf16", "a"),
    ],
)
def test_text_is_decoded_by_the_encoding_standard(body: bytes, charset: str, text: str) -> None:
    assert decode_text(body, charset) == text
    decoder = TextDecoder(charset)
    assert "".join(decoder.feed(body[at : at + 1]) for at in range(len(body))) + decoder.feed(b"", last=True) == text


@pytest.mark.parametrize("charset", ["iso-2022-jp", "iso2022_jp_2", "iso2022_kr"])
def test_an_invalid_sequence_that_arrives_in_pieces_does_not_raise(charset: str) -> None:
    decoder = TextDecoder(charset)
    text = decoder.feed(b"\x1b\x24") + decoder.feed(b"\x0e\xff\x0e\x24\x28\x1b\x1b") + decoder.feed(b"ok", last=True)
    assert "\ufffd" in text and text.endswith("ok")


def test_an_event_stream_is_utf_8_whatever_it_begins_with() -> None:
    """WHATWG HTML section 9.2.6: only the byte order mark of UTF-8 is removed."""
    assert [one.data for one in EventStream().feed(b"\xef\xbb\xbfdata: a\n\n")] == ["a"]
    assert [*EventStream().feed(codecs.BOM_UTF16_LE + "data: a\n\n".encode("utf-16-le"))] == []


def test_malformed_links_end_the_parsing() -> None:
    assert [(one.url, one.rel, one.params) for one in parse_links(
        ['<a>; rel="x; y", <b>;rel=z;rel=w; title="q\\"; <c>";;x , ,<d>', "<e> junk, <f>", "g", "<h", '<i>; a="b']
    )] == [
        ("a", ("x;", "y"), {}), ("b", ("z",), {"title": 'q"; <c>', "x": ""}), ("d", (), {}), ("e", (), {}),
        ("i", (), {"a": ""}),
    ]  # fmt: skip
    base = response(None)
    base.headers = Headers([(b"Link", b'<../x>; rel=up'), (b"Link", b"<javascript:x>; rel=bad")])
    assert [one.url for one in base.links] == ["https://example.com/x"]


def test_short_links_against_a_long_url_do_not_fill_memory() -> None:
    base = response(None)
    base.url = "https://example.com/" + "x" * 60_000 + "/"
    base.headers = Headers([(b"Link", b",".join(b"<%d>" % number for number in range(1000)))])
    assert len(base.links) == HTTP_LINKS_SIZE // 60_030
