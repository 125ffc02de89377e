"""Numbers of the protocol as plain integers: types, classes, opcodes, rcodes, flags, EDNS options, extended errors.

They are plain ints, not enum members, because they are used in C, in cache entries and as dictionary keys. Only the
functions at the end convert them to text. The numbers are those of the IANA "Domain Name System (DNS) Parameters"
registry; `consts.pxd` repeats those that Cython modules use.
"""

from collections.abc import Mapping
from typing import Final

IPV4_MAPPED: Final = bytes(10) + b"\xff\xff"
"""The first octets of an IPv4-mapped IPv6 address (::ffff:0:0/96, RFC 4291 section 2.5.5.2)."""

# --- types --------------------------------------------------------------------------------------------------------

A: Final = 1
NS: Final = 2
MD: Final = 3
MF: Final = 4
CNAME: Final = 5
SOA: Final = 6
MB: Final = 7
MG: Final = 8
MR: Final = 9
NULL: Final = 10
WKS: Final = 11
PTR: Final = 12
HINFO: Final = 13
MINFO: Final = 14
MX: Final = 15
TXT: Final = 16
RP: Final = 17
AFSDB: Final = 18
X25: Final = 19
ISDN: Final = 20
RT: Final = 21
NSAP: Final = 22
NSAP_PTR: Final = 23
SIG: Final = 24
KEY: Final = 25
PX: Final = 26
GPOS: Final = 27
AAAA: Final = 28
LOC: Final = 29
NXT: Final = 30
EID: Final = 31
NIMLOC: Final = 32
SRV: Final = 33
ATMA: Final = 34
NAPTR: Final = 35
KX: Final = 36
CERT: Final = 37
A6: Final = 38
DNAME: Final = 39
SINK: Final = 40
OPT: Final = 41
APL: Final = 42
DS: Final = 43
SSHFP: Final = 44
IPSECKEY: Final = 45
RRSIG: Final = 46
NSEC: Final = 47
DNSKEY: Final = 48
DHCID: Final = 49
NSEC3: Final = 50
NSEC3PARAM: Final = 51
TLSA: Final = 52
SMIMEA: Final = 53
HIP: Final = 55
NINFO: Final = 56
RKEY: Final = 57
TALINK: Final = 58
CDS: Final = 59
CDNSKEY: Final = 60
OPENPGPKEY: Final = 61
CSYNC: Final = 62
ZONEMD: Final = 63
SVCB: Final = 64
HTTPS: Final = 65
DSYNC: Final = 66
HHIT: Final = 67
BRID: Final = 68
SPF: Final = 99
UINFO: Final = 100
UID: Final = 101
GID: Final = 102
UNSPEC: Final = 103
NID: Final = 104
L32: Final = 105
L64: Final = 106
LP: Final = 107
EUI48: Final = 108
EUI64: Final = 109
NXNAME: Final = 128
TKEY: Final = 249
TSIG: Final = 250
IXFR: Final = 251
AXFR: Final = 252
MAILB: Final = 253
MAILA: Final = 254
ANY: Final = 255
URI: Final = 256
CAA: Final = 257
AVC: Final = 258
DOA: Final = 259
AMTRELAY: Final = 260
RESINFO: Final = 261
WALLET: Final = 262
CLA: Final = 263
IPN: Final = 264
TA: Final = 32768
DLV: Final = 32769

_TYPES: Final[Mapping[int, str]] = {
    value: name.replace("_", "-")
    for name, value in list(globals().items())
    if name.isupper() and not name.startswith("_") and isinstance(value, int)
}
LAST_DATA_TYPE: Final = 127
"""RFC 6895 section 3.1: 128 to 255 are query types and meta-types."""

# --- classes ------------------------------------------------------------------------------------------------------

IN: Final = 1
CH: Final = 3
HS: Final = 4
CLASS_NONE: Final = 254
CLASS_ANY: Final = 255

_CLASSES: Final[Mapping[int, str]] = {IN: "IN", CH: "CH", HS: "HS", CLASS_NONE: "NONE", CLASS_ANY: "ANY"}

# --- sections -----------------------------------------------------------------------------------------------------

QUESTION: Final = 0
ANSWER: Final = 1
AUTHORITY: Final = 2
ADDITIONAL: Final = 3

# --- header: masks of the second 16-bit word, opcodes, rcodes -------------------------------------------------------

QR: Final = 0x8000
AA: Final = 0x0400
TC: Final = 0x0200
RD: Final = 0x0100
RA: Final = 0x0080
AD: Final = 0x0020
CD: Final = 0x0010
OPCODE_MASK: Final = 0x7800
DO: Final = 0x8000
"""DNSSEC OK: a mask of the 16-bit EDNS flags, not of the header (RFC 6891 section 6.1.4)."""

QUERY: Final = 0
IQUERY: Final = 1
STATUS: Final = 2
NOTIFY: Final = 4
UPDATE: Final = 5
DSO: Final = 6

_OPCODES: Final[Mapping[int, str]] = {
    QUERY: "QUERY", IQUERY: "IQUERY", STATUS: "STATUS", NOTIFY: "NOTIFY", UPDATE: "UPDATE", DSO: "DSO",
}  # fmt: skip

NOERROR: Final = 0
FORMERR: Final = 1
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
NOTIMP: Final = 4
REFUSED: Final = 5
YXDOMAIN: Final = 6
YXRRSET: Final = 7
NXRRSET: Final = 8
NOTAUTH: Final = 9
NOTZONE: Final = 10
DSOTYPENI: Final = 11
BADVERS: Final = 16
BADKEY: Final = 17
BADTIME: Final = 18
BADMODE: Final = 19
BADNAME: Final = 20
BADALG: Final = 21
BADTRUNC: Final = 22
BADCOOKIE: Final = 23

_RCODES: Final[Mapping[int, str]] = {
    NOERROR: "NOERROR", FORMERR: "FORMERR", SERVFAIL: "SERVFAIL", NXDOMAIN: "NXDOMAIN", NOTIMP: "NOTIMP",
    REFUSED: "REFUSED", YXDOMAIN: "YXDOMAIN", YXRRSET: "YXRRSET", NXRRSET: "NXRRSET", NOTAUTH: "NOTAUTH",
    NOTZONE: "NOTZONE", DSOTYPENI: "DSOTYPENI", BADVERS: "BADVERS", BADKEY: "BADKEY", BADTIME: "BADTIME",
    BADMODE: "BADMODE", BADNAME: "BADNAME", BADALG: "BADALG", BADTRUNC: "BADTRUNC", BADCOOKIE: "BADCOOKIE",
}  # fmt: skip

# --- sizes in bytes -----------------------------------------------------------------------------------------------

HEADER_SIZE: Final = 12
MESSAGE_MAX: Final = 65_535
PAYLOAD_MIN: Final = 512
"""Largest UDP message without EDNS (RFC 1035 section 2.3.4)."""
OPT_SIZE: Final = 11
"""An OPT record without options (RFC 6891 section 6.1.2)."""
COOKIE_CLIENT_SIZE: Final = 8
"""Size of a client cookie, which is alone in a first query (RFC 7873 section 4)."""
COOKIE_MIN: Final = 16
COOKIE_MAX: Final = 40

# --- EDNS options -------------------------------------------------------------------------------------------------

OPTION_LLQ: Final = 1
OPTION_UL: Final = 2
OPTION_NSID: Final = 3
OPTION_DAU: Final = 5
OPTION_DHU: Final = 6
OPTION_N3U: Final = 7
OPTION_ECS: Final = 8
OPTION_EXPIRE: Final = 9
OPTION_COOKIE: Final = 10
OPTION_KEEPALIVE: Final = 11
OPTION_PADDING: Final = 12
OPTION_CHAIN: Final = 13
OPTION_KEY_TAG: Final = 14
OPTION_EDE: Final = 15
OPTION_CLIENT_TAG: Final = 16
OPTION_SERVER_TAG: Final = 17
OPTION_REPORT_CHANNEL: Final = 18
OPTION_ZONEVERSION: Final = 19

_OPTIONS: Final[Mapping[int, str]] = {
    OPTION_LLQ: "LLQ", OPTION_UL: "UL", OPTION_NSID: "NSID", OPTION_DAU: "DAU", OPTION_DHU: "DHU", OPTION_N3U: "N3U",
    OPTION_ECS: "CLIENT-SUBNET", OPTION_EXPIRE: "EXPIRE", OPTION_COOKIE: "COOKIE", OPTION_KEEPALIVE: "TCP-KEEPALIVE",
    OPTION_PADDING: "PADDING", OPTION_CHAIN: "CHAIN", OPTION_KEY_TAG: "KEY-TAG", OPTION_EDE: "EDE",
    OPTION_CLIENT_TAG: "CLIENT-TAG", OPTION_SERVER_TAG: "SERVER-TAG", OPTION_REPORT_CHANNEL: "REPORT-CHANNEL",
    OPTION_ZONEVERSION: "ZONEVERSION",
}  # fmt: skip

# --- extended DNS errors (RFC 8914 section 5.2 and its registry) ----------------------------------------------------

EDE_OTHER: Final = 0
EDE_UNSUPPORTED_DNSKEY_ALGORITHM: Final = 1
EDE_UNSUPPORTED_DS_DIGEST_TYPE: Final = 2
EDE_STALE_ANSWER: Final = 3
EDE_FORGED_ANSWER: Final = 4
EDE_DNSSEC_INDETERMINATE: Final = 5
EDE_DNSSEC_BOGUS: Final = 6
EDE_SIGNATURE_EXPIRED: Final = 7
EDE_SIGNATURE_NOT_YET_VALID: Final = 8
EDE_DNSKEY_MISSING: Final = 9
EDE_RRSIGS_MISSING: Final = 10
EDE_NO_ZONE_KEY_BIT_SET: Final = 11
EDE_NSEC_MISSING: Final = 12
EDE_CACHED_ERROR: Final = 13
EDE_NOT_READY: Final = 14
EDE_BLOCKED: Final = 15
EDE_CENSORED: Final = 16
EDE_FILTERED: Final = 17
EDE_PROHIBITED: Final = 18
EDE_STALE_NXDOMAIN_ANSWER: Final = 19
EDE_NOT_AUTHORITATIVE: Final = 20
EDE_NOT_SUPPORTED: Final = 21
EDE_NO_REACHABLE_AUTHORITY: Final = 22
EDE_NETWORK_ERROR: Final = 23
EDE_INVALID_DATA: Final = 24
EDE_SIGNATURE_EXPIRED_BEFORE_VALID: Final = 25
EDE_TOO_EARLY: Final = 26
EDE_UNSUPPORTED_NSEC3_ITERATIONS: Final = 27
EDE_UNABLE_TO_CONFORM_TO_POLICY: Final = 28
EDE_SYNTHESIZED: Final = 29
EDE_INVALID_QUERY_TYPE: Final = 30

_EDES: Final[Mapping[int, str]] = {
    EDE_OTHER: "Other",
    EDE_UNSUPPORTED_DNSKEY_ALGORITHM: "Unsupported DNSKEY Algorithm",
    EDE_UNSUPPORTED_DS_DIGEST_TYPE: "Unsupported DS Digest Type",
    EDE_STALE_ANSWER: "Stale Answer",
    EDE_FORGED_ANSWER: "Forged Answer",
    EDE_DNSSEC_INDETERMINATE: "DNSSEC Indeterminate",
    EDE_DNSSEC_BOGUS: "DNSSEC Bogus",
    EDE_SIGNATURE_EXPIRED: "Signature Expired",
    EDE_SIGNATURE_NOT_YET_VALID: "Signature Not Yet Valid",
    EDE_DNSKEY_MISSING: "DNSKEY Missing",
    EDE_RRSIGS_MISSING: "RRSIGs Missing",
    EDE_NO_ZONE_KEY_BIT_SET: "No Zone Key Bit Set",
    EDE_NSEC_MISSING: "NSEC Missing",
    EDE_CACHED_ERROR: "Cached Error",
    EDE_NOT_READY: "Not Ready",
    EDE_BLOCKED: "Blocked",
    EDE_CENSORED: "Censored",
    EDE_FILTERED: "Filtered",
    EDE_PROHIBITED: "Prohibited",
    EDE_STALE_NXDOMAIN_ANSWER: "Stale NXDOMAIN Answer",
    EDE_NOT_AUTHORITATIVE: "Not Authoritative",
    EDE_NOT_SUPPORTED: "Not Supported",
    EDE_NO_REACHABLE_AUTHORITY: "No Reachable Authority",
    EDE_NETWORK_ERROR: "Network Error",
    EDE_INVALID_DATA: "Invalid Data",
    EDE_SIGNATURE_EXPIRED_BEFORE_VALID: "Signature Expired before Valid",
    EDE_TOO_EARLY: "Too Early",
    EDE_UNSUPPORTED_NSEC3_ITERATIONS: "Unsupported NSEC3 Iterations Value",
    EDE_UNABLE_TO_CONFORM_TO_POLICY: "Unable to conform to policy",
    EDE_SYNTHESIZED: "Synthesized",
    EDE_INVALID_QUERY_TYPE: "Invalid Query Type",
}

# --- text ---------------------------------------------------------------------------------------------------------

_TYPES_BY_TEXT: Final[Mapping[str, int]] = {text: value for value, text in _TYPES.items()}
_CLASSES_BY_TEXT: Final[Mapping[str, int]] = {text: value for value, text in _CLASSES.items()}


def _number(text: str, known: Mapping[str, int], what: str) -> int:
    """The number of a mnemonic in any letter case, or in ``TYPE123`` or ``CLASS123`` (RFC 3597 section 5)."""
    text = text.upper()
    if text in known:
        return known[text]
    digits = text.removeprefix(what.upper())
    if digits == text or not (digits.isascii() and digits.isdigit()) or int(digits) > 0xFFFF:
        raise ValueError(f"unknown {what}: {text!r}")
    return int(digits)


def type_to_text(rtype: int) -> str:
    """Mnemonic of a type, or ``TYPE123`` (RFC 3597 section 5) when it has none."""
    return _TYPES.get(rtype) or f"TYPE{rtype}"


def type_from_text(text: str) -> int:
    """Number of a type given as mnemonic, in any letter case, or as ``TYPE123``.

    Raises:
        ValueError: it is neither.
    """
    return _number(text, _TYPES_BY_TEXT, "type")


def class_to_text(rclass: int) -> str:
    """Mnemonic of a class, or ``CLASS123`` when it has none."""
    return _CLASSES.get(rclass) or f"CLASS{rclass}"


def class_from_text(text: str) -> int:
    """Number of a class given as mnemonic, in any letter case, or as ``CLASS123``.

    Raises:
        ValueError: it is neither.
    """
    return _number(text, _CLASSES_BY_TEXT, "class")


def rcode_to_text(rcode: int) -> str:
    """Mnemonic of a 12-bit rcode, or ``RCODE123`` when it has none."""
    return _RCODES.get(rcode) or f"RCODE{rcode}"


def opcode_to_text(opcode: int) -> str:
    """Mnemonic of an opcode, or ``OPCODE9`` when it has none."""
    return _OPCODES.get(opcode) or f"OPCODE{opcode}"


def option_to_text(code: int) -> str:
    """Name of an EDNS option, or ``OPT65001`` when it has none."""
    return _OPTIONS.get(code) or f"OPT{code}"


def ede_to_text(code: int) -> str:
    """Purpose of an extended error as in the registry, or ``EDE 123`` when it is not listed."""
    return _EDES.get(code) or f"EDE {code}"
