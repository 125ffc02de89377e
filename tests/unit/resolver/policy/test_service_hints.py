"""Addresses in the hints of SVCB and HTTPS records."""

import pytest

from resolver.policy.service_hints import hinted_addresses, read_parameters

HEAD = b"\0\1\3svc\0"


def record(*parameters: tuple[int, bytes]) -> bytes:
    return HEAD + b"".join(key.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value for key, value in parameters)


@pytest.mark.parametrize(
    ("value", "complete"), [(b"", 0), (b"\xc0\0\2", 0), (b"\xc0\0\2\1", 1), (b"\xc0\0\2\1\xc0", 1)]
)
def test_what_is_left_of_a_hint_is_no_address(value: bytes, complete: int) -> None:
    """A server may send any octets there: a message with them is read."""
    found = list(hinted_addresses(record((1, b"\2h2"), (4, value), (6, bytes(16) + value))))
    assert found == [value[:4]] * complete + [bytes(16)]


def test_all_of_a_record_is_read() -> None:
    assert read_parameters(record((1, b"\2h2"), (3, b"\1\xbb"))) == (HEAD, [(b"\0\1", b"\2h2"), (b"\0\3", b"\1\xbb")])
    assert read_parameters(HEAD) == (HEAD, [])
