"""Addresses of configured upstream servers: plain DNS, or DNS over TLS (RFC 7858), HTTPS (RFC 8484)
or QUIC (RFC 9250).

The forms, in the settings, in `Resolver(forward=...)` and on the command line of rdig::

    192.0.2.1  192.0.2.1:5300  [2001:db8::1]:5300      plain DNS over UDP and TCP
    tls://192.0.2.1#dns.example                         DNS over TLS; the certificate must be valid for dns.example
    tls://[2001:db8::1]:8853#dns.example,sha256//PIN    and one key of its chain must have this SHA-256 hash (RFC 7858)
    tls://192.0.2.1#sha256//PIN                         no name: the server's own key must have this hash
    https://192.0.2.1/dns-query#dns.example             DNS over HTTPS; dns.example is also the Host
    quic://192.0.2.1#dns.example                        DNS over QUIC; it needs the extra "quic"

The host is always an address. A name would have to be resolved over plain DNS first, where it can be read and forged.
The name and the pins after ``#`` authenticate the server (RFC 8310 sections 6 and 8.1). Both are checked when both are
given. Without either, `Encryption.authenticated` is False, and the settings reject the address unless
`allow_unauthenticated` is set.
"""

import binascii
import re
from ipaddress import ip_address
from typing import NamedTuple

from resolver.options import check_names, parse_endpoint

__all__ = [
    "DEFAULT_PATH",
    "DEFAULT_PORTS",
    "HTTPS",
    "PIN_PREFIX",
    "QUIC",
    "TLS",
    "Encryption",
    "UpstreamAddress",
    "check_pin",
    "parse_upstream",
]

TLS = "tls"
HTTPS = "https"
QUIC = "quic"
DEFAULT_PORTS = {TLS: 853, HTTPS: 443, QUIC: 853}
DEFAULT_PATH = "/dns-query"
PIN_PREFIX = "sha256//"
DIGEST_SIZE = 32
TEMPLATE = "{?dns}"  # of the URI templates of RFC 8484 section 4.1.1; POST does not use the variable
EXAMPLES = {
    TLS: "tls://192.0.2.1#dns.example",
    HTTPS: "https://192.0.2.1/dns-query#dns.example",
    QUIC: "quic://192.0.2.1#dns.example",
}


class Encryption(NamedTuple):
    """How one upstream server is reached over an encrypted transport. It is part of the key of tables of servers, so
    that facts about a server over plain DNS are never used for an encrypted one."""

    protocol: str
    """"tls", "https" or "quic"."""
    name: str = ""
    """The name or address that the certificate must be valid for; empty: neither name nor chain is checked."""
    pins: tuple[str, ...] = ()
    """SHA-256 hashes of public keys (SubjectPublicKeyInfo) in base64; one of them must match."""
    path: str = ""
    """Path of the requests (https only)."""

    @property
    def authenticated(self) -> bool:
        """Whether the server is authenticated, by its name or a pin."""
        return bool(self.name or self.pins)


class UpstreamAddress(NamedTuple):
    """One configured upstream server; `encryption` None is plain DNS."""

    address: str
    port: int
    encryption: Encryption | None = None


def parse_upstream(text: str, default_port: int, where: str) -> UpstreamAddress:
    """Split the address of an upstream server; `default_port` is that of plain DNS.

    Raises:
        ValueError: `text` has none of the forms above; the message names `where` and the fix.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        if "#" in text:
            raise ValueError(f"{where}: {text!r} has a name after '#', which is for tls://, https:// and quic://"
                             f" only; write tls://{text}")
        return UpstreamAddress(*parse_endpoint(text, default_port, where))
    protocol = scheme.lower()
    if protocol not in DEFAULT_PORTS:
        raise ValueError(f"{where}: {text!r} has the unknown scheme {scheme!r}; write tls://, https:// or quic://, or"
                         " the address alone for plain DNS")
    rest, _, identity = rest.partition("#")
    host, slash, tail = rest.partition("/")
    path = ""
    if protocol == HTTPS:
        path = _path(slash + tail, text, where)
    elif slash:
        raise ValueError(f"{where}: {text!r} has a path, which is for https:// only")
    try:
        address, port = parse_endpoint(host, DEFAULT_PORTS[protocol], where)
    except ValueError:
        if re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*(:\d+)?", host):
            raise ValueError(f"{where}: {text!r} has a name where an address must be, because the name would be"
                             " resolved unencrypted; write the address, and the name after '#': "
                             f"{EXAMPLES[protocol]}") from None
        raise
    if not port:
        raise ValueError(f"{where}: {text!r} has port 0")
    name, pins = _identity(identity, text, where)
    return UpstreamAddress(address, port, Encryption(protocol, name, pins, path))


def check_pin(text: str, where: str) -> str:
    """Return a pin in its short form, base64 without ``sha256//``.

    Raises:
        ValueError: it is not the hash of a public key; the message names `where`.
    """
    short = text.removeprefix(PIN_PREFIX)
    try:
        digest = binascii.a2b_base64(short, strict_mode=True)
    except ValueError:
        digest = b""
    if len(digest) != DIGEST_SIZE:
        raise ValueError(f"{where}: the pin {text!r} is not the SHA-256 hash of a public key in base64 (44 characters);"
                         f" write {PIN_PREFIX} and the hash")
    return binascii.b2a_base64(digest, newline=False).decode("ascii")


def _identity(text: str, whole: str, where: str) -> tuple[str, tuple[str, ...]]:
    """The name and the pins after ``#``."""
    name = ""
    pins = []
    for part in text.split(",") if text else ():
        if part.startswith(PIN_PREFIX):
            pins.append(check_pin(part, where))
        elif name:
            raise ValueError(f"{where}: {whole!r} has two names after '#'; a server has one name, and pins begin with"
                             f" {PIN_PREFIX}")
        else:
            name = _name(part, whole, where)
    return name, tuple(dict.fromkeys(pins))


def _name(text: str, whole: str, where: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        pass
    if not re.fullmatch(r"[A-Za-z0-9._-]+", text):
        raise ValueError(f"{where}: {whole!r} has {text!r} after '#', which is neither a host name nor a pin; pins"
                         f" begin with {PIN_PREFIX}")
    name = text.lower().removesuffix(".")
    check_names((name,), where)
    return name


def _path(text: str, whole: str, where: str) -> str:
    path = text.removesuffix(TEMPLATE) or DEFAULT_PATH
    if not re.fullmatch(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*", path):
        raise ValueError(f"{where}: {whole!r} has a path that is invalid in a URL (RFC 3986 section 3.3); write the"
                         f" path of the server's URL, such as {DEFAULT_PATH}")
    return path
