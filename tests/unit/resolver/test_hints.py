"""Root hints and trust anchors: the built-in data is consistent, and the parsers report what is wrong in a file."""

import base64
import hashlib
from ipaddress import ip_address
from pathlib import Path

import pytest

from resolver import hints

DEBIAN = Path("/usr/share/dns")


def key_tag(rdata: bytes) -> int:
    """RFC 4034 appendix B, from the text."""
    total = 0
    for index, byte in enumerate(rdata):
        total += byte if index & 1 else byte << 8
    return (total + (total >> 16)) & 0xFFFF


def test_thirteen_letters_each_with_one_address_of_both_kinds():
    assert [name for name, _ in hints.ROOT_SERVERS] == [f"{letter}.root-servers.net." for letter in "abcdefghijklm"]
    for _, (four, six) in hints.ROOT_SERVERS:
        assert (ip_address(four).version, ip_address(six).version) == (4, 6)
    assert len({address for _, both in hints.ROOT_SERVERS for address in both}) == 26


def test_anchors_are_the_digests_of_the_keys():
    for anchor, key in zip(hints.ROOT_ANCHORS, hints.ROOT_KEYS, strict=True):
        flags, protocol, algorithm, *data = key.split()[3:]
        rdata = int(flags).to_bytes(2, "big") + bytes([int(protocol), int(algorithm)]) + base64.b64decode("".join(data))
        digest = hashlib.sha256(b"\0" + rdata).hexdigest().upper()
        assert anchor == f". IN DS {key_tag(rdata)} {algorithm} 2 {digest}"


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="dns-root-data is not installed")
def test_the_built_in_data_is_that_of_debian():
    assert hints.parse_hints((DEBIAN / "root.hints").read_text()) == hints.ROOT_SERVERS
    assert hints.parse_anchors((DEBIAN / "root.ds").read_text()) == hints.ROOT_ANCHORS
    assert hints.parse_anchors((DEBIAN / "root.key").read_text()) == hints.ROOT_KEYS


def test_hints_with_ttl_class_comments_and_repeated_owner():
    text = "; roots\n. 3600 IN NS K.root.\n  NS L.root.\nK.root. A 192.0.2.1 ; here\n 7200 IN AAAA 2001:db8::1\n"
    assert hints.parse_hints(text) == (("k.root.", ("192.0.2.1", "2001:db8::1")),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no root server"),
        (". NS a.\n", "no root server"),
        ("example. NS a.\na. A 192.0.2.1\n", "line 1: example. NS is neither"),
        ("\n\n. 300 IN\n", "line 3: no record type"),
        (". NS ( a.\n", "line 1: the opening parenthesis"),
        (". NS a. )\n", "line 1: a closing parenthesis"),
    ],
)
def test_wrong_hints_name_their_line(text, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        hints.parse_hints(text)


def test_anchor_file_in_the_form_of_dig_with_several_lines():
    text = "; <<>> dig\nexample. 3600 IN DNSKEY 257 3 13 (\n  AAAA\n  BBBB ) ; key\nexample. IN RRSIG DNSKEY 13 1\n"
    assert hints.parse_anchors(text) == ("example. 3600 IN DNSKEY 257 3 13 AAAA BBBB",)


def test_anchor_file_without_anchors():
    with pytest.raises(ValueError, match="no DS or DNSKEY"):
        hints.parse_anchors("example. A 192.0.2.1\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (". IN A 192.0.2.1", "neither DS nor DNSKEY"),
        (". DS 1 8 2", "needs three numbers"),
        (". DS x 8 2 00", "needs three numbers"),
        (". DS 65536 8 2 00", "65536 is above the maximum of its field"),
        (". DS 1 256 2 00", "256 is above the maximum of its field"),
        (". DNSKEY 257 256 8 AAAA", "256 is above the maximum of its field"),
        (". DS 1 8 2 zz", "."),
        (". DNSKEY 257 3 8 ====", "."),
        (".", "no record type"),
        ("", "."),
    ],
)
def test_wrong_anchors_are_refused(text, words):
    with pytest.raises(ValueError, match=f"^here: .*{words}"):
        hints.check_anchor(text, "here")
