"""What responses say of themselves: charset, text, JSON, status.

Everything here is pure; how responses come about is in test_client.py.
"""

import pytest

from corenet.http import Headers, HttpStatusError, Response


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
