"""DNS over HTTPS without I/O (RFC 8484): checks of requests, and header fields of responses.

HTTP/1.1 and HTTP/2 use the same functions, so requests are checked equally over both. Refused requests:

==========================================================  =======
request                                                     status
==========================================================  =======
target that is not a path, or a `dns` parameter that is     400
missing, repeated, empty, or not base64url (RFC 4648
section 5) in canonical form without padding
a path other than the configured one                        404
a method of HTTP other than GET and POST                    405
a body of more than 65,535 octets                           413
a target of more than `DOH_TARGET` octets                   414
POST without ``Content-Type: application/dns-message``,     415
or with a content coding
an unknown method                                           501
==========================================================  =======

Requests that the codec refuses (framing, sizes of header sections) get the status in its error.
"""

import binascii
import re
from typing import NamedTuple

from resolver import limits
from resolver.wire import consts as c
from resolver.wire.errors import WireError
from resolver.wire.message import MessageView
from resolver.zones.tsig import split

__all__ = [
    "MEDIA_TYPE",
    "METHODS",
    "NO_STORE",
    "TOO_LARGE",
    "BodyWanted",
    "Refusal",
    "cache_control",
    "classify_request",
    "freshness",
    "is_too_large",
]

MEDIA_TYPE = b"application/dns-message"
METHODS = b"GET, POST"
NO_STORE = b"no-store"
TSIG_ANY = b"\0\xfa\0\xff"  # type and class of a TSIG record; other octets may look so
_GET, _POST = b"GET", b"POST"
_DEFINED_METHODS = frozenset({b"HEAD", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"})
_BASE64URL = re.compile(rb"[A-Za-z0-9_-]+")
_ABSOLUTE = re.compile(rb"https?://[^/?#]+", re.IGNORECASE)


class Refusal(NamedTuple):
    """The status of an error response, and a sentence that explains it."""

    status: int
    text: str


class BodyWanted:
    """A POST request whose body is the message."""

    __slots__ = ()


WANTED = BodyWanted()
TOO_LARGE = Refusal(413, f"A DNS message has at most {c.MESSAGE_MAX} octets.")


def classify_request(
    method: bytes, target: bytes, content_type: bytes | None, content_coded: bool, path: bytes
) -> bytes | BodyWanted | Refusal:
    """Check a request for `path`: returns the message of GET, `BodyWanted` for POST, or a `Refusal`.

    `target` is that of the request line or ``:path``; `content_type` is None when the request has no such field or
    several.
    """
    if len(target) > limits.DOH_TARGET:
        return Refusal(414, f"The target has more than {limits.DOH_TARGET} octets.")
    if not target.startswith(b"/"):
        # Clients send an absolute URI to proxies only, but each server must accept it (RFC 9112 section 3.2.2).
        authority = _ABSOLUTE.match(target)
        target = b"" if authority is None else target[authority.end():] or b"/"
    asked, _, query = target.partition(b"?")
    if not asked.startswith(b"/"):
        return Refusal(400, "The target is not a path.")
    if asked != path:
        return Refusal(404, "DNS is not served at this path.")
    if method == _GET:
        return _message_of(query)
    if method == _POST:
        if content_type is None or content_type.partition(b";")[0].strip(b" \t").lower() != MEDIA_TYPE:
            return Refusal(415, "The body has to be application/dns-message.")
        if content_coded:
            return Refusal(415, "The body must not have a content coding.")
        return WANTED
    if method in _DEFINED_METHODS:
        return Refusal(405, "DNS queries are sent with GET or POST.")
    return Refusal(501, "This method is unknown.")


def is_too_large(content_length: str) -> bool:
    """Whether a body of this length exceeds a DNS message; the codec has checked that `content_length` is a number."""
    digits = content_length.lstrip("0")
    return len(digits) > len(str(c.MESSAGE_MAX)) or int(digits or 0) > c.MESSAGE_MAX


def _message_of(query: bytes) -> bytes | Refusal:
    """The value of the parameter `dns`, decoded (RFC 8484 section 4.1)."""
    values = [value for name, _, value in (part.partition(b"=") for part in query.split(b"&")) if name == b"dns"]
    if len(values) != 1:
        return Refusal(400, "The target needs exactly one parameter dns.")
    text = values[0]
    if not _BASE64URL.fullmatch(text):
        return Refusal(400, "The parameter dns is not base64url without padding.")
    try:
        message = binascii.a2b_base64(text.replace(b"-", b"+").replace(b"_", b"/") + b"=" * (-len(text) % 4))
    except binascii.Error:
        return Refusal(400, "The parameter dns is not base64url without padding.")
    if binascii.b2a_base64(message, newline=False).rstrip(b"=").replace(b"+", b"-").replace(b"/", b"_") != text:
        return Refusal(400, "The parameter dns is not canonical base64url: bits after its last octet are set.")
    return message


def freshness(reply: bytes) -> int | None:
    """Seconds for which an HTTP cache may store `reply` (RFC 8484 section 5.1); None when it must not.

    This is the smallest TTL of the answer section, or for a negative answer the negative TTL of its SOA record
    (RFC 2308 section 5). A signed reply belongs to the query whose signature it covers, so it is not stored.
    """
    try:
        view = MessageView.parse(reply)
    except WireError:
        return None
    if view.rcode not in (c.NOERROR, c.NXDOMAIN) or view.tc:
        return None
    if TSIG_ANY in reply and split(reply) is not None:
        return None
    ttls = [rrset.ttl for rrset in view.answer]
    if not ttls:
        soa = next((rrset for rrset in view.authority if rrset.rtype == c.SOA), None)
        if soa is None:
            return None
        ttls = [soa.ttl, int.from_bytes(soa.rdata(0)[-4:], "big")]
    return min(ttls)


def cache_control(seconds: int | None) -> bytes:
    """The value of Cache-Control for a reply that is fresh for `seconds`."""
    return NO_STORE if seconds is None else b"max-age=%d" % seconds
