"""Formats values for the three forms of an explanation (text, HTML, JSON): DNSSEC mnemonics, times, escaping.

`escape_controls` escapes all text from the network. Names and rdata are escaped by `wire`, but extended errors (RFC
8914) are UTF-8 from a remote server: escape sequences could control the terminal, and bidirectional controls could make
one word look like another.
"""

import re
import unicodedata
from datetime import UTC, datetime
from typing import Any

from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names

__all__ = [
    "algorithm",
    "connection",
    "connection_values",
    "contains_last_clause",
    "date_time",
    "digest_type",
    "duration",
    "escape_controls",
    "flags_of",
    "format_durations",
    "key_role",
    "milliseconds",
    "question",
    "status_text",
]

# RFC 8624 section 3.1 and the IANA registry of algorithm numbers.
ALGORITHMS = {
    1: "RSAMD5", 3: "DSA", 5: "RSASHA1", 6: "DSA-NSEC3-SHA1", 7: "RSASHA1-NSEC3-SHA1", 8: "RSASHA256", 10: "RSASHA512",
    12: "ECC-GOST", 13: "ECDSAP256SHA256", 14: "ECDSAP384SHA384", 15: "ED25519", 16: "ED448",
}  # fmt: skip
# RFC 8624 section 3.3.
DIGESTS = {1: "SHA-1", 2: "SHA-256", 3: "GOST R 34.11-94", 4: "SHA-384"}
FLAGS = ((c.AA, "aa"), (c.TC, "tc"), (c.RD, "rd"), (c.RA, "ra"), (c.AD, "ad"), (c.CD, "cd"))
SEP, REVOKED, ZONE = 0x0001, 0x0080, 0x0100
# Other, control, format, surrogate, private, unassigned; line and paragraph separators.
UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
SECONDS_PATTERN = re.compile(r"\b(\d{3,}) s\b")
UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def escape_controls(text: str) -> str:
    """`text` with control, format and unassigned characters written as ``\\u{1b}``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"\\u{{{ord(x):x}}}" if unicodedata.category(x) in UNSAFE else x for x in text)


def algorithm(number: int) -> str:
    """The mnemonic of a DNSSEC algorithm, or its number."""
    return ALGORITHMS.get(number, f"algorithm {number}")


def digest_type(number: int) -> str:
    """The name of a DS digest type, or its number."""
    return DIGESTS.get(number, f"digest type {number}")


def key_role(flags: int) -> str:
    """The role of a key by its flags. The SEP bit is only a hint (RFC 4034 section 2.1.1)."""
    if flags & REVOKED:
        return "revoked"
    if not flags & ZONE:
        return "not a zone key"
    return "key-signing" if flags & SEP else "zone-signing"


def status_text(verdict: Verdict) -> str:
    """A verdict as text."""
    return "not validated yet" if verdict is Verdict.INDETERMINATE else verdict.name.lower()


def date_time(seconds: int) -> str:
    """`seconds` since 1970 as date and time in UTC, to the minute."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def duration(seconds: float) -> str:
    """A duration as text, in its two largest units: ``2 d 4 h``."""
    left, parts = int(seconds), []
    for unit, size in UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def format_durations(text: str) -> str:
    """`text` with durations of 100 seconds or more (``90061 s``) converted by `duration`."""
    return SECONDS_PATTERN.sub(lambda found: duration(int(found[1])), text)


def contains_last_clause(sentence: str, text: str) -> bool:
    """Whether `sentence` contains the last clause of `text`."""
    return format_durations(text.rpartition(": ")[2]).lower() in sentence.lower()


def milliseconds(seconds: float) -> str:
    """A duration in milliseconds, with more decimals for small values."""
    value = seconds * 1000
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms" if value >= 1 else f"{value:.2f} ms"


def question(qname: bytes, qtype: int) -> str:
    """Name and type as text."""
    return f"{names.to_text(qname)} {c.type_to_text(qtype)}"


def flags_of(flags: int) -> list[str]:
    """The mnemonics of the header bits that are set."""
    return [word for mask, word in FLAGS if flags & mask]


def connection_values(facts: dict[str, Any]) -> dict[str, Any]:
    """`facts` about an encrypted connection for JSON: ``*_seconds`` becomes ``*_milliseconds``, tuples become lists."""
    return {
        key.replace("_seconds", "_milliseconds"): round(value * 1000, 2) if key.endswith("_seconds")
        else list(value) if isinstance(value, tuple) else value
        for key, value in facts.items()
    }  # fmt: skip


def connection(facts: dict[str, Any]) -> str:
    """An encrypted connection in one line: version, cipher, resumption, ALPN, HTTP version, times, certificate, pin."""
    parts = [str(facts.get("version", "TLS")), str(facts.get("cipher", ""))]
    parts.append("session resumed" if facts.get("resumed") else "full handshake")
    parts.append(f"ALPN {facts.get('alpn') or 'none'}")
    if facts.get("http"):
        parts.append(f"HTTP/{facts['http']}")
    if "handshake_seconds" in facts:
        parts.append(f"handshake in {milliseconds(facts['handshake_seconds'])}")
    parts.append(f"connected in {milliseconds(facts['connect_seconds'])}")
    if facts.get("subject") or facts.get("names"):
        shown = facts.get("subject") or ", ".join(facts["names"])
        parts.append(f"certificate of {shown} by {facts.get('issuer')} until {facts.get('not_after')}")
    else:
        parts.append("certificate not verified")
    if facts.get("pin"):
        parts.append(f"key sha256//{facts['pin']}")
    return escape_controls(", ".join(part for part in parts if part))
