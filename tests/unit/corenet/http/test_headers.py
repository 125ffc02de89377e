"""Header fields: case, order, repetition, and no forbidden bytes in either direction."""

from typing import Any

import pytest

from corenet.http.errors import LocalProtocolError
from corenet.http.headers import Headers


def test_lookup_ignores_case_and_keeps_order() -> None:
    headers = Headers([(b"Set-Cookie", b"a=1"), (b"X", b"y"), (b"SET-COOKIE", b"b=2")])
    assert headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert headers["Set-Cookie"] == "a=1, b=2"
    assert "x" in headers and "z" not in headers and 1 not in headers
    assert list(headers) == [("Set-Cookie", "a=1"), ("X", "y"), ("SET-COOKIE", "b=2")]
    assert len(headers) == 3
    assert headers.get("nothing") is None and headers.get("nothing", "else") == "else"
    with pytest.raises(KeyError):
        headers["nothing"]


def test_list_values_are_split_into_members() -> None:
    headers = Headers([(b"Connection", b"close, X ,,"), (b"connection", b"Y")])
    assert headers.get_members("Connection") == ["close", "x", "y"]


def test_fields_can_be_changed() -> None:
    headers = Headers.of({"A": "1"})
    headers.add("a", "2")
    headers.set("A", " 3 ")
    assert headers.raw == [(b"A", b"3")]
    assert headers.remove("a") == 1 and len(headers) == 0


def test_headers_can_be_made_from_mappings_and_pairs() -> None:
    wanted = Headers([(b"A", b"1"), (b"B", b"2")])
    assert Headers.of({"a": "1", "b": "2"}) == wanted
    assert Headers.of([("A", "1"), (b"B", b"2")]) == wanted
    copy = Headers.of(wanted)
    copy.add("C", "3")
    assert copy != wanted and len(wanted) == 2
    assert Headers.of({"x": "\xe9"}).raw == [(b"x", b"\xe9")]
    assert wanted != "text"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a b", "1"),
        ("", "1"),
        ("a:", "1"),
        ("ä", "1"),
        ("a", "x\r\ny: z"),
        ("a", "\x00"),
        ("a", "\u20ac"),
        ("a\n", "1"),
    ],
)
def test_dangerous_fields_are_refused(name: str, value: str) -> None:
    with pytest.raises(LocalProtocolError):
        Headers.of({name: value})


def test_credentials_do_not_show_in_logs() -> None:
    shown = repr(Headers([(b"Authorization", b"Basic c2VjcmV0"), (b"X", b"plain")]))
    assert "c2VjcmV0" not in shown and "plain" in shown


@pytest.mark.parametrize("source", [{"Content-Length": 1 << 60}, {"X": None}, [(5, "x")]])
def test_other_types_are_refused_as_fields(source: Any) -> None:
    with pytest.raises(TypeError, match="str or bytes, not"):
        Headers.of(source)
