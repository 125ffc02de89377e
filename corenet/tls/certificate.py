"""Fields of a server's own certificate: expiry time, the names that it is valid for, and whether it has must-staple.

The standard library decodes only certificates of peers that it has verified. A server has its own certificate as a PEM
file, so these fields are read from its DER encoding (X.690; RFC 5280 section 4.1). No signature is verified, because
the operator supplies the file.
"""

import binascii
import calendar
import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from corenet.tls.der import element

__all__ = ["CertificateInfo", "certificate_info"]

_SEQUENCE = 0x30
_OBJECT_IDENTIFIER = 0x06
_OCTET_STRING = 0x04
_UTC_TIME = 0x17
_GENERALIZED_TIME = 0x18
_VERSION = 0xA0
_EXTENSIONS = 0xA3
_DNS_NAME = 0x82
_IP_ADDRESS = 0x87
_INTEGER = 0x02
_SUBJECT_ALTERNATIVE_NAME = b"\x55\x1d\x11"  # 2.5.29.17
_TLS_FEATURE = b"\x2b\x06\x01\x05\x05\x07\x01\x18"  # 1.3.6.1.5.5.7.1.24 (RFC 7633)
_STATUS_REQUEST = b"\x05"
_BEFORE_VALIDITY = 3  # serial number, signature algorithm, issuer
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\s(.*?)-----END CERTIFICATE-----", re.DOTALL)


class CertificateInfo(NamedTuple):
    """The first certificate of a PEM file. `not_after` is in seconds since 1970; `names` are lower-case DNS names.
    `must_staple` says whether its server must send an OCSP staple (RFC 7633)."""

    not_after: int
    names: tuple[str, ...]
    addresses: tuple[IPv4Address | IPv6Address, ...]
    must_staple: bool = False


class _Element(NamedTuple):
    tag: int
    content: bytes


def certificate_info(pem: bytes) -> CertificateInfo:
    """Read the first certificate in `pem`, which is the server's own when a chain follows.

    Raises:
        ValueError: `pem` has no certificate, or its encoding does not follow RFC 5280.
    """
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("the file has no PEM certificate (-----BEGIN CERTIFICATE-----)")
    try:
        der = binascii.a2b_base64(found[1], strict_mode=False)
    except binascii.Error as error:
        raise ValueError(f"the certificate is not valid base64: {error}") from None
    certificate = _elements(der)
    if not certificate or certificate[0].tag != _SEQUENCE:
        raise ValueError("the certificate is not DER")
    parts = _elements(certificate[0].content)
    if not parts:
        raise ValueError("the certificate is empty")
    fields = _elements(parts[0].content)
    if fields and fields[0].tag == _VERSION:
        fields = fields[1:]
    if len(fields) <= _BEFORE_VALIDITY:
        raise ValueError("the certificate has no validity")
    validity = _elements(fields[_BEFORE_VALIDITY].content)
    if len(validity) != 2:
        raise ValueError("the certificate's validity does not consist of two times")
    names: list[str] = []
    addresses: list[IPv4Address | IPv6Address] = []
    for name in _extension(fields, _SUBJECT_ALTERNATIVE_NAME):
        if name.tag == _DNS_NAME:
            names.append(name.content.decode("ascii", "replace").lower())
        elif name.tag == _IP_ADDRESS and len(name.content) in (4, 16):
            addresses.append(ip_address(name.content))
    must_staple = (_INTEGER, _STATUS_REQUEST) in _extension(fields, _TLS_FEATURE)
    return CertificateInfo(_seconds(validity[1]), tuple(names), tuple(addresses), must_staple)


def _extension(fields: list[_Element], identifier: bytes) -> list[_Element]:
    """The elements of the sequence that is the value of an extension; none without that extension."""
    found: list[_Element] = []
    for field in fields[_BEFORE_VALIDITY + 1:]:
        for outer in _elements(field.content) if field.tag == _EXTENSIONS else ():
            for extension in _elements(outer.content):
                parts = _elements(extension.content)
                if len(parts) < 2 or parts[0] != (_OBJECT_IDENTIFIER, identifier):
                    continue
                if parts[-1].tag != _OCTET_STRING:
                    raise ValueError("an extension of the certificate has no value")
                for sequence in _elements(parts[-1].content):
                    found += _elements(sequence.content)
    return found


def _elements(data: bytes) -> list[_Element]:
    """The DER elements that `data` consists of."""
    found: list[_Element] = []
    at = 0
    while at < len(data):
        tag, start, at = element(data, at)
        found.append(_Element(tag, data[start:at]))
    return found


def _seconds(time: _Element) -> int:
    """Seconds since 1970 (RFC 5280 section 4.1.2.5: UTCTime to 2049, GeneralizedTime from 2050, both in UTC)."""
    text = time.content.decode("ascii", "replace")
    if time.tag == _UTC_TIME and re.fullmatch(r"\d{12}Z", text, re.ASCII):
        text = ("19" if text[:2] >= "50" else "20") + text
    elif time.tag != _GENERALIZED_TIME or not re.fullmatch(r"\d{14}Z", text, re.ASCII):
        raise ValueError("the certificate's notAfter time is not encoded as RFC 5280 requires")
    numbers = [int(text[:4]), *(int(text[at:at + 2]) for at in range(4, 14, 2))]
    return calendar.timegm((*numbers, 0, 0, 0))
