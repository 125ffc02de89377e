"""The built-in root hints and root trust anchors, and parsers of the files that replace them.

The data is that of the operators of the root zone (named.root and root-anchors, as in Debian's dns-root-data). The
parsers do not use dnspython, because its import takes 100 ms and both file formats are simple. They get the text of a
file and open none.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from types import MappingProxyType

__all__ = [
    "ALGORITHMS", "ROOT_ANCHORS", "ROOT_KEYS", "ROOT_SERVERS", "check_anchor", "negative_anchor",
    "parse_anchors", "parse_hints",
]

ROOT_SERVERS: tuple[tuple[str, tuple[str, str]], ...] = (
    ("a.root-servers.net.", ("198.41.0.4", "2001:503:ba3e::2:30")),
    ("b.root-servers.net.", ("170.247.170.2", "2801:1b8:10::b")),
    ("c.root-servers.net.", ("192.33.4.12", "2001:500:2::c")),
    ("d.root-servers.net.", ("199.7.91.13", "2001:500:2d::d")),
    ("e.root-servers.net.", ("192.203.230.10", "2001:500:a8::e")),
    ("f.root-servers.net.", ("192.5.5.241", "2001:500:2f::f")),
    ("g.root-servers.net.", ("192.112.36.4", "2001:500:12::d0d")),
    ("h.root-servers.net.", ("198.97.190.53", "2001:500:1::53")),
    ("i.root-servers.net.", ("192.36.148.17", "2001:7fe::53")),
    ("j.root-servers.net.", ("192.58.128.30", "2001:503:c27::2:30")),
    ("k.root-servers.net.", ("193.0.14.129", "2001:7fd::1")),
    ("l.root-servers.net.", ("199.7.83.42", "2001:500:9f::42")),
    ("m.root-servers.net.", ("202.12.27.33", "2001:dc3::35")),
)
"""Name, IPv4 and IPv6 address of each root server (named.root of 2024-04-18)."""

ROOT_ANCHORS: tuple[str, ...] = (
    ". IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D",
    ". IN DS 38696 8 2 683D2D0ACB8C9B712A1948B27F741219298D0A450D612C483AF444A4C0FB2B16",
)
"""The root key signing keys of 2017 and 2024 as DS records."""

ROOT_KEYS: tuple[str, ...] = (
    ". IN DNSKEY 257 3 8 AwEAAaz/tAm8yTn4Mfeh5eyI96WSVexTBAvkMgJzkKTOiW1vkIbzxeF3+/4RgWOq7HrxRixHlFlExOLAJr5emLvN7SWX"
    "gnLh4+B5xQlNVz8Og8kvArMtNROxVQuCaSnIDdD5LKyWbRd2n9WGe2R8PzgCmr3EgVLrjyBxWezF0jLHwVN8efS3rCj/EWgvIWgb9tarpVUDK/b5"
    "8Da+sqqls3eNbuv7pr+eoZG+SrDK6nWeL3c6H5Apxz7LjVc1uTIdsIXxuOLYA4/ilBmSVIzuDWfdRUfhHdY6+cn8HFRm+2hM8AnXGXws9555KrUB"
    "5qihylGa8subX2Nn6UwNR1AkUTV74bU=",
    ". IN DNSKEY 257 3 8 AwEAAa96jeuknZlaeSrvyAJj6ZHv28hhOKkx3rLGXVaC6rXTsDc449/cidltpkyGwCJNnOAlFNKF2jBosZBU5eeHspaQ"
    "WOmOElZsjICMQMC3aeHbGiShvZsx4wMYSjH8e7Vrhbu6irwCzVBApESjbUdpWWmEnhathWu1jo+siFUiRAAxm9qyJNg/wOZqqzL/dL/q8PkcRU5o"
    "UKEpUge71M3ej2/7CPqpdVwuMoTvoB+ZOT4YeGyxMvHmbrxlFzGOHOijtzN+u1TQNatX2XBuzZNQ1K+s2CXkPIZo7s6JgZyvaBevYtxPvYLw4z9m"
    "R7K2vaF18UYH9Z9GNUUeayffKC73PYc=",
)
"""The same two keys as DNSKEY records; their tags and digests match `ROOT_ANCHORS` (a test computes them)."""


ALGORITHMS: Mapping[str, int] = MappingProxyType(
    {
        "RSAMD5": 1,
        "DSA": 3,
        "RSASHA1": 5,
        "DSA-NSEC3-SHA1": 6,
        "NSEC3DSA": 6,
        "RSASHA1-NSEC3-SHA1": 7,
        "NSEC3RSASHA1": 7,
        "RSASHA256": 8,
        "RSASHA512": 10,
        "ECC-GOST": 12,
        "ECCGOST": 12,
        "ECDSAP256SHA256": 13,
        "ECDSAP384SHA384": 14,
        "ED25519": 15,
        "ED448": 16,
    }
)
"""Mnemonics that are permitted instead of an algorithm number (RFC 4034 appendix A.1 and later registrations)."""


def _records(text: str) -> list[tuple[int, list[str]]]:
    """Zone file text as (line number, tokens): without comments, with parentheses joined and missing owners repeated.
    """
    found: list[tuple[int, list[str]]] = []
    owner = ""
    pending: list[str] = []
    depth = start = 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split(";", 1)[0]
        if depth == 0:
            start = number
            pending = []
            if line[:1].isspace() and owner:
                pending.append(owner)
        depth += line.count("(") - line.count(")")
        if depth < 0:
            raise ValueError(f"line {number}: a closing parenthesis without an opening one")
        pending += re.sub(r"[()]", " ", line).split()
        if depth == 0 and len(pending) > 1:
            owner = pending[0]
            found.append((start, pending))
    if depth:
        raise ValueError(f"line {start}: the opening parenthesis has no closing one")
    return found


def _typed(tokens: list[str]) -> tuple[str, str, list[str]]:
    """Split tokens into owner, type and rdata; TTL and class between them are optional (RFC 1035 section 5.1)."""
    position = 1
    while position < len(tokens) and (tokens[position].isdigit() or tokens[position].upper() == "IN"):
        position += 1
    if position >= len(tokens):
        raise ValueError("no record type")
    return tokens[0], tokens[position].upper(), tokens[position + 1 :]


def parse_hints(text: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Parse root hints in zone file format (named.root): NS records of the root, A and AAAA records of their names.

    Raises:
        ValueError: a record is neither, with its line; or no server has an address.
    """
    servers: dict[str, list[str]] = {}
    addresses: dict[str, list[str]] = {}
    for number, tokens in _records(text):
        if tokens[0].startswith("$"):
            continue
        try:
            owner, rtype, rdata = _typed(tokens)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if rtype == "NS" and owner == "." and len(rdata) == 1:
            servers.setdefault(rdata[0].lower(), [])
        elif rtype in ("A", "AAAA") and len(rdata) == 1:
            addresses.setdefault(owner.lower(), []).append(rdata[0])
        else:
            raise ValueError(f"line {number}: {owner} {rtype} is neither a root NS record nor an address")
    found = tuple((name, tuple(addresses[name])) for name in servers if name in addresses)
    if not found:
        raise ValueError("it has no root server with an address")
    return found


def check_anchor(text: str, where: str) -> None:
    """Check that `text` is a DS or DNSKEY record with valid fields.

    Raises:
        ValueError: it is not; the text names `where` and the fault.
    """
    try:
        _, rtype, rdata = _typed(text.split(";", 1)[0].replace("(", " ").replace(")", " ").split())
        if rtype not in ("DS", "DNSKEY"):
            raise ValueError(f"{rtype} is neither DS nor DNSKEY")
        named = 1 if rtype == "DS" else 2  # the algorithm, which may be a mnemonic
        numbers = [part for index, part in enumerate(rdata[:3]) if index != named or part.upper() not in ALGORITHMS]
        if len(rdata) < 4 or not all(part.isascii() and part.isdigit() for part in numbers):
            raise ValueError(f"{rtype} needs three numbers and then its data")
        for index, part in enumerate(rdata[:3]):
            largest = 255 if index else 65535
            if part.isdigit() and int(part) > largest:
                raise ValueError(f"{part} is above the maximum of its field ({largest})")
        if rtype == "DS":
            binascii.unhexlify("".join(rdata[3:]))
        else:
            base64.b64decode("".join(rdata[3:]), validate=True)
    except ValueError as error:
        raise ValueError(f"{where}: {text.strip()[:60]!r}: {error}") from None


END_DIGITS = 12
"""Digits of a time in seconds since 1970 that is some ten thousand years away."""


def negative_anchor(text: str) -> tuple[str, int]:
    """The zone of a negative trust anchor, and its end in seconds since 1970; 0 when it has none.

    Raises:
        ValueError: the end is no number, or 0.
    """
    zone, _, end = text.partition(" ")
    if not end:
        return zone, 0
    if not (end.isascii() and end.isdigit() and len(end) <= END_DIGITS and int(end)):
        raise ValueError(f"{text!r}: after the zone may follow only its end in seconds since 1970, not {end!r}")
    return zone, int(end)


def parse_anchors(text: str) -> tuple[str, ...]:
    """Parse DS and DNSKEY records in zone file format, such as the output of `dig`; other records are ignored.

    Raises:
        ValueError: a record is invalid, with its line; or there is none.
    """
    found = []
    for number, tokens in _records(text):
        if tokens[0].startswith("$"):
            continue
        try:
            _, rtype, _ = _typed(tokens)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if rtype in ("DS", "DNSKEY"):
            line = " ".join(tokens)
            check_anchor(line, f"line {number}")
            found.append(line)
    if not found:
        raise ValueError("it has no DS or DNSKEY record")
    return tuple(found)
