"""DNS over HTTPS without I/O (RFC 8484): from a request to a DNS message or a refusal, from a reply to header fields.

HTTP/1.1 and HTTP/2 use the same functions, so a request is judged alike over both. What is refused, and how:

==========================================================  =======
request                                                     status
==========================================================  =======
target that is not a path, or a `dns` parameter that is     400
missing, repeated, empty, or not base64url (RFC 4648
section 5) in its one canonical form without padding
another path than the configured one                        404
a method that HTTP defines, but GET and POST                405
a body of more than 65,535 octets                           413
a target of more than `DOH_TARGET` octets                   414
POST without ``Content-Type: application/dns-message``,     415
or with a content coding
a method that HTTP does not define                          501
==========================================================  =======

What the codec itself refuses (framing, sizes of header sections) has the status that its error names.
"""

import binascii
import re
from typing import NamedTuple

from resolver import limits
from resolver.wire import consts as c
from resolver.wire.errors import WireError
from resolver.wire.message import MessageView

__all__ = [
    "MEDIA_TYPE",
    "METHODS",
    "NO_STORE",
    "TOO_LARGE",
    "BodyWanted",
    "Refusal",
    "cache_control",
    "freshness",
    "is_too_large",
    "judge",
]

MEDIA_TYPE = b"application/dns-message"
METHODS = b"GET, POST"
NO_STORE = b"no-store"
_GET, _POST = b"GET", b"POST"
_DEFINED_METHODS = frozenset({b"HEAD", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"})
_BASE64URL = re.compile(rb"[A-Za-z0-9_-]+")
_ABSOLUTE = re.compile(rb"https?://[^/?#]+", re.IGNORECASE)


class Refusal(NamedTuple):
    """The status that a request is answered with, and a sentence for the people who see it."""

    status: int
    text: str


class BodyWanted:
    """A POST request whose body is the message."""

    __slots__ = ()


WANTED = BodyWanted()
TOO_LARGE = Refusal(413, f"A DNS message has at most {c.MESSAGE_MAX} octets.")


def judge(
    method: bytes, target: bytes, content_type: bytes | None, content_coded: bool, path: bytes
) -> bytes | BodyWanted | Refusal:
    """The message of a GET request for `path`, `BodyWanted` for a POST, or why it is refused.

    `target` is that of the request line or ``:path``; `content_type` is None when the request has no such field or
    several.
    """
    if len(target) > limits.DOH_TARGET:
        return Refusal(414, f"The target has more than {limits.DOH_TARGET} octets.")
    if not target.startswith(b"/"):
        # A proxy, and only a proxy, is asked with the whole URI, but each server has to accept it (RFC 9112 3.2.2).
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
        return Refusal(405, "DNS is asked with GET or POST.")
    return Refusal(501, "This method is unknown.")


def is_too_large(content_length: str) -> bool:
    """Whether a body of this length is no DNS message; the codec has checked that `content_length` is a number."""
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
        return Refusal(400, "The parameter dns has bits behind its last octet.")
    return message


def freshness(reply: bytes) -> int | None:
    """Seconds for which an HTTP cache may keep `reply` (RFC 8484 section 5.1); None for what it must not keep.

    That is the smallest TTL of the answer section, or for a negative answer the negative TTL of its SOA record
    (RFC 2308 section 5).
    """
    try:
        view = MessageView.parse(reply)
    except WireError:
        return None
    if view.rcode not in (c.NOERROR, c.NXDOMAIN) or view.tc:
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
