"""Names: limits of length, escapes, the root, and the keyed hash against published vectors."""

from itertools import pairwise

import pytest

from resolver.wire import ROOT, WireError, name


def test_text_with_escapes() -> None:
    made = name.from_text(r"a\.b.\000\255\".Example")
    assert name.labels(made) == [b"a.b", b'\0\xff"', b"Example"]
    assert name.to_text(made) == r"a\.b.\000\255\".Example."


def test_root() -> None:
    assert name.from_text(".") == ROOT == b"\0"
    assert name.to_text(ROOT) == "."
    assert name.label_count(ROOT) == 0
    assert name.parent(ROOT) == ROOT
    assert name.labels(ROOT) == []
    assert name.is_subdomain(name.from_text("a"), ROOT)
    assert not name.is_subdomain(ROOT, name.from_text("a"))
    assert name.wildcard(ROOT) == b"\1*\0"
    assert name.suffix(name.from_text("a.b"), 0) == ROOT
    assert name.canonical_key(ROOT) == b""


def test_the_zone_of_a_ds_set_is_looked_up_by_the_name_above() -> None:
    www = name.from_text("WWW.Example")
    assert name.zone_lookup_name(www, 43) == name.from_text("example")
    assert name.zone_lookup_name(www, 1) == name.from_text("www.example")
    assert name.zone_lookup_name(ROOT, 43) == ROOT


def test_closest_ancestor_in_a_table() -> None:
    com, example = name.from_text("com"), name.from_text("example.com")
    table = {com: 1, example: 2}
    assert name.closest_in(name.from_text("a.b.example.com"), table) == example
    assert name.closest_in(example, table) == example
    assert name.closest_in(name.from_text("bexample.com"), table) == com
    assert name.closest_in(name.from_text("net"), table) is None
    assert name.closest_in(name.from_text("net"), {ROOT}) == ROOT
    with pytest.raises(WireError):
        name.closest_in(b"\3co", table)


@pytest.mark.parametrize(
    "text", ["", "..", ".a", "a..b", "a" * 64, ".".join(["a" * 63] * 4), "a\\", "a\\25", "a\\2x5", "a\\256", "bücher"]
)
def test_malformed_texts_are_refused(text: str) -> None:
    with pytest.raises(WireError):
        name.from_text(text)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1",
        b"\1a",
        b"\1a\0\0",
        b"\xc0\x0c",
        b"\x40a\0",
        b"\x80\0",
        b"\x3f" + b"a" * 62,
        (b"\1a" * 127) + b"\1a\0",
    ],
)
def test_malformed_bytes_are_refused(data: bytes) -> None:
    assert not name.is_valid(data)
    with pytest.raises(WireError):
        name.lower(data)


def test_longest_name() -> None:
    longest = b"\1a" * 127 + b"\0"
    assert len(longest) == 255
    assert name.label_count(longest) == 127
    assert name.from_text(name.to_text(longest)) == longest
    with pytest.raises(WireError):
        name.prepend(b"b", longest)
    with pytest.raises(WireError):
        name.wildcard(longest)
    assert name.replace_suffix(longest, ROOT, b"\1b\0") is None


def test_not_bytes() -> None:
    assert not name.is_valid("a")
    assert not name.is_valid(None)
    root = name.ROOT
    for call in (
        lambda: name.lower(None), lambda: name.equal(None, root), lambda: name.equal(root, None),
        lambda: name.is_subdomain(None, root), lambda: name.is_subdomain(root, None), lambda: name.label_count(None),
        lambda: name.parent(None), lambda: name.suffix(None, 0), lambda: name.zone_lookup_name(None, 1),
        lambda: name.wildcard(None), lambda: name.closest_in(None, {}),
    ):
        with pytest.raises(TypeError):
            call()


def test_canonical_order_of_the_rfc() -> None:
    # RFC 4034 section 6.1, the example in full
    ordered = [
        name.from_text(text)
        for text in (
            "example",
            "a.example",
            "yljkjljk.a.example",
            "Z.a.example",
            "zABC.a.EXAMPLE",
            "z.example",
            r"\001.z.example",
            "*.z.example",
            r"\200.z.example",
        )
    ]
    assert sorted(set(ordered), key=name.canonical_key) == ordered
    assert all(name.compare(a, b) == -1 and name.compare(b, a) == 1 for a, b in pairwise(ordered))


def test_pieces() -> None:
    www = name.from_text("WWW.Example.com")
    assert name.suffix(www, 2) == name.from_text("Example.com")
    assert name.suffix(www, 3) is www
    assert name.lower(www) == name.from_text("www.example.com")
    assert name.lower(name.lower(www)) is not None
    assert name.common_labels(www, name.from_text("ftp.EXAMPLE.com")) == 2
    assert name.prepend(b"a", www) == name.from_text("a.WWW.Example.com")
    assert name.replace_suffix(www, name.from_text("example.COM"), name.from_text("net")) == name.from_text("WWW.net")
    assert not name.is_subdomain(name.from_text("notexample.com"), name.from_text("example.com"))
    with pytest.raises(ValueError):
        name.replace_suffix(www, name.from_text("net"), ROOT)
    with pytest.raises(WireError):
        name.prepend(b"", www)


def test_a_zero_octet_inside_a_label_does_not_end_a_name() -> None:
    # "\001b" ends in the bytes of the one-label name "b" only by accident
    assert not name.is_subdomain(b"\3a\1b\0", b"\1b\0")


def test_reverse_addresses() -> None:
    assert name.to_text(name.reverse_address("192.0.2.1")) == "1.2.0.192.in-addr.arpa."
    assert name.to_text(name.reverse_address("2001:db8::1")) == (
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."
    )
    with pytest.raises(ValueError):
        name.reverse_address("example")


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, 0xABAC0158050FC4DC),
        (1, 0xC9F49BF37D57CA93),
        (7, 0xD3927D989BB11140),
        (15, 0xD320D86D2A519956),
        (16, 0xCC4FDD1A7D908B66),
        (63, 0x9D199062B7BBB3A8),
    ],
)
def test_keyed_hash(size: int, expected: int) -> None:
    # The key 00..0f and the input 00..: agrees with CPython's own SipHash-1-3, see the next test.
    assert name.keyed_hash(0x0706050403020100, 0x0F0E0D0C0B0A0908, bytes(range(size))) == expected


def test_keyed_hash_is_the_interpreters() -> None:
    import os
    import subprocess
    import sys

    if sys.hash_info.algorithm != "siphash13":
        pytest.fail(f"this interpreter hashes with {sys.hash_info.algorithm}, so it cannot be the oracle")
    program = "print([hash(bytes(range(n))) & 0xFFFFFFFFFFFFFFFF for n in range(1, 40)])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == str([name.keyed_hash(0, 0, bytes(range(n))) for n in range(1, 40)])
