"""Names against dnspython: text, order, ancestry and the forms made of one name from another.

dnspython is the oracle wherever it has the operation; where it has none the law itself is the test, such as that the
bytes of `canonical_key` sort exactly as `compare` says.
"""

import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.wire import WireError, name

LABEL = st.one_of(
    st.binary(min_size=1, max_size=4),
    st.sampled_from([b"a", b"A", b"b", b"*", b"\0", b"\0\0", b"a\0", b"Z", b"\xff", b"www", b"."]),
    st.binary(min_size=60, max_size=63),
)
LABELS = st.lists(LABEL, max_size=9).filter(lambda parts: sum(len(p) + 1 for p in parts) + 1 <= 255)


def wire(parts: list[bytes]) -> bytes:
    """The name of these labels, put together without the code under test."""
    return b"".join(bytes([len(p)]) + p for p in parts) + b"\0"


def oracle(parts: list[bytes]) -> dns.name.Name:
    """The same name for dnspython."""
    return dns.name.Name([*parts, b""])


@given(LABELS)
def test_labels_and_text_round_trip(parts: list[bytes]) -> None:
    made = wire(parts)
    assert name.labels(made) == parts
    assert name.label_count(made) == len(parts)
    assert name.is_valid(made)
    text = name.to_text(made)
    assert name.from_text(text) == made
    assert dns.name.from_text(text) == oracle(parts)
    assert name.from_text(oracle(parts).to_text()) == made
    assert text.isascii()


@given(LABELS, LABELS)
def test_order_is_the_canonical_one(first: list[bytes], second: list[bytes]) -> None:
    a, b = wire(first), wire(second)
    x, y = oracle(first), oracle(second)
    expected = (x > y) - (x < y)
    assert name.compare(a, b) == expected
    assert (name.canonical_key(a) > name.canonical_key(b)) - (name.canonical_key(a) < name.canonical_key(b)) == expected
    assert name.equal(a, b) == (x == y) == (name.lower(a) == name.lower(b))
    assert name.is_subdomain(a, b) == x.is_subdomain(y)
    # fullcompare counts the root's label, which label counts here leave out
    assert name.common_labels(a, b) == x.fullcompare(y)[2] - 1


@given(LABELS, st.integers(0, 9))
def test_suffixes(parts: list[bytes], kept: int) -> None:
    made = wire(parts)
    if kept > len(parts):
        with pytest.raises(ValueError):
            name.suffix(made, kept)
    else:
        assert name.suffix(made, kept) == wire(parts[len(parts) - kept :])
    assert name.parent(made) == wire(parts[1:])


@given(LABELS, LABELS, LABELS)
def test_replacing_a_suffix(prefix: list[bytes], old: list[bytes], new: list[bytes]) -> None:
    whole = wire(prefix)[:-1] + wire(old)
    if len(whole) > 255:
        assert not name.is_valid(whole)
        with pytest.raises(WireError):
            name.join(wire(prefix)[:-1], wire(old))
        return
    assert name.join(wire(prefix)[:-1], wire(old)) == whole
    moved = name.replace_suffix(whole, wire(old).swapcase() if b"".join(old).isalpha() else wire(old), wire(new))
    expected = wire(prefix)[:-1] + wire(new)
    assert moved == (expected if len(expected) <= 255 else None)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_name_or_an_error(data: bytes) -> None:
    if name.is_valid(data):
        assert wire(name.labels(data)) == data
        assert len(data) <= 255
        return
    for act in (name.lower, name.labels, name.to_text, name.parent, name.canonical_key, name.label_count):
        with pytest.raises(WireError):
            act(data)


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_an_error(text: str) -> None:
    try:
        made = name.from_text(text)
    except WireError:
        return
    assert name.is_valid(made)
    assert name.from_text(name.to_text(made)) == made
