"""Properties of responses: charset, text, JSON, status.

There is no I/O here; test_client.py tests how responses are received.
"""

import encodings
from encodings.aliases import aliases

import pytest

from corenet.http import Headers, HttpStatusError, Response
from corenet.http.charset import decode_text


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
def test_encoding(content_type: str | None, encoding: str) -> None:
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
def test_strange_charsets_are_taken_for_utf_8(charset: str) -> None:
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


def test_unknown_charsets_are_not_remembered() -> None:
    known = len(encodings._cache)  # type: ignore[attr-defined]
    for number in range(100):
        assert response(f"text/plain; charset=x-{number}", b"a").text == "a"
    assert len(encodings._cache) == known  # type: ignore[attr-defined]


def test_json() -> None:
    assert response("application/json", b'{"a": [1]}').json() == {"a": [1]}
    with pytest.raises(ValueError, match="Expecting value"):
        response("application/json", b"nope").json()


def test_status() -> None:
    assert response(None).is_success and not response(None, status=302).is_success
    assert response(None, status=399).raise_for_status().status == 399
    with pytest.raises(HttpStatusError, match=r"GET https://example\.com/: 500 Reason"):
        response(None, status=500).raise_for_status()
    assert repr(response(None, b"abc")) == "<Response 200 Reason https://example.com/, 3 bytes>"
