"""Declaration of settings: a field with description, kind and limit; and checks of values.

`option` declares a setting and `describe` lists all, so that configuration file, ``resolverd --print-config`` and
documentation agree. The settings are in `resolver.settings`. Errors name the setting by its path, such as
``server.listen``.
"""

import re
from collections.abc import Iterable
from dataclasses import field, fields, is_dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, NamedTuple, TypeVar

from resolver.limits import Limit

__all__ = [
    "Option",
    "check_addresses",
    "check_limits",
    "check_names",
    "check_path",
    "check_prefixes",
    "describe",
    "option",
    "parse_endpoint",
    "parse_listen",
]

T = TypeVar("T")

LARGEST = 1e300
"""Larger numbers are refused before they are scaled: the product would be infinite, and a large integer is no float."""
_LABEL, _NAME = 63, 253  # RFC 1035 section 2.3.4; 255 octets on the wire are 253 of text without the last dot
_PORT_DIGITS = 5
_ESCAPE = r"(?s)\\(?:[01]\d\d|2[0-4]\d|25[0-5]|\D)"  # RFC 1035 section 5.1


def option(default: T, doc: str, *, kind: str = "", limit: Limit | None = None, scale: int = 1) -> T:
    """Declare one setting.

    `kind` is "bytes" or "seconds" where the configuration file may write "256 MiB" or "1 d", and "files" or "texts"
    where it may write one text instead of a list. `limit` is checked on construction, after multiplying by `scale` (a
    field in seconds against a limit in milliseconds: 1000).
    """
    value: T = field(default=default, metadata={"doc": doc, "kind": kind, "limit": limit, "scale": scale})
    return value


def check_limits(settings: Any, where: str) -> None:
    """Check every field of the section `where` against its limit.

    Raises:
        ValueError: a value is outside its limit; the message names the first.
    """
    for item in fields(settings):
        limit = item.metadata.get("limit")
        if limit is not None:
            value = getattr(settings, item.name)
            scale = item.metadata["scale"]
            low, high = limit.minimum / scale, limit.maximum / scale
            usable = abs(value) < LARGEST
            if not (usable and limit.minimum <= round(value * scale) <= limit.maximum):
                unit = "seconds" if item.metadata["kind"] == "seconds" else limit.unit
                shown = f"{value:.15g}" if usable or isinstance(value, float) else "an integer of over 300 digits"
                span = f"{low:.15g}..{high:.15g} {unit}"
                raise ValueError(f"{where}.{item.name}: {shown} is outside {span}. {limit.reason}")


def parse_endpoint(text: str, default_port: int, where: str) -> tuple[str, int]:
    """Split ``192.0.2.1``, ``192.0.2.1:53``, ``2001:db8::1``, ``[2001:db8::1]:53`` or ``192.0.2.1@53``.

    Raises:
        ValueError: the address or the port is invalid; the message names `where`.
    """
    host, port = text, str(default_port)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise ValueError(f"{where}: {text!r} has no closing bracket")
        if rest.startswith((":", "@")):
            port = rest[1:]
        elif rest:
            raise ValueError(f"{where}: {text!r} has text after the bracket that is not a port")
    elif "@" in text:
        host, _, port = text.rpartition("@")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        ip_address(host)
    except ValueError:
        raise ValueError(f"{where}: {text!r} is not an IP address, with or without a port") from None
    # The length is checked first, because int() raises for thousands of digits.
    if not (port.isascii() and port.isdigit() and len(port) <= _PORT_DIGITS and int(port) <= 65535):
        raise ValueError(f"{where}: {text!r} has no usable port (0..65535)")
    return host, int(port)


def parse_listen(text: str, default_port: int, where: str) -> tuple[str, int]:
    """As `parse_endpoint`, for the address of a listening socket.

    Raises:
        ValueError: it is no address with a port, or Linux never binds a socket of the daemon to it; the message names
            `where`.
    """
    host, port = parse_endpoint(text, default_port, where)
    address = ip_address(host)
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            raise ValueError(f"{where}: {text!r} is an IPv4-mapped address, and IPv6 sockets serve no IPv4 clients;"
                             f" write {address.ipv4_mapped}")
        if address.is_link_local and not (address.scope_id or "").strip("0"):  # 0 is no interface
            plain = host.partition("%")[0]
            raise ValueError(f"{where}: {text!r} is a link-local address, which needs its interface, as in"
                             f" [{plain}%eth0]; 'ip address' shows it")
        if address.is_multicast:
            raise ValueError(f"{where}: {text!r} is a multicast address, which a server cannot have")
    return host, port


def check_addresses(values: tuple[str, ...], where: str) -> None:
    """Check that `values` are IP addresses.

    Raises:
        ValueError: one is not; the message names `where` and the first.
    """
    for value in values:
        try:
            ip_address(value)
        except ValueError:
            raise ValueError(f"{where}: {value!r} is not an IP address") from None


def check_prefixes(values: tuple[str, ...], where: str) -> None:
    """Check that `values` are address prefixes; bits after the prefix are ignored.

    Raises:
        ValueError: one is not; the message names `where` and the first.
    """
    for value in values:
        try:
            ip_network(value, strict=False)
        except ValueError:
            raise ValueError(f"{where}: {value!r} is not an address prefix such as 192.0.2.0/24") from None


def check_names(values: Iterable[str], where: str) -> None:
    """Check that `values` are domain names (RFC 1035 sections 5.1 and 3.1); `resolver.wire` converts them later.

    Raises:
        ValueError: one is not; the message names `where` and the first.
    """
    for value in values:
        plain = re.sub(_ESCAPE, "x", value) if "\\" in value else value
        labels = plain.removesuffix(".").split(".") if plain != "." else []
        if not value:
            raise ValueError(f"{where}: '' is not a domain name; the root is \".\"")
        if not value.isascii():
            raise ValueError(f"{where}: {value!r} is not a domain name in ASCII; write it in its xn-- form")
        if "\\" in plain or not all(0 < len(one) <= _LABEL for one in labels) or len(plain.rstrip(".")) > _NAME:
            raise ValueError(
                f"{where}: {value!r} is not a domain name: labels have 1 to {_LABEL} octets, a name at most {_NAME}"
            )


def check_path(text: str, where: str) -> None:
    """Check that `text` can be a file name.

    Raises:
        ValueError: it contains NUL; the message names `where`.
    """
    if "\0" in text:
        raise ValueError(f"{where}: {text!r} is not a file name")


class Option(NamedTuple):
    """One setting, for the generators of documentation."""

    path: str
    value: object
    default: object
    doc: str
    kind: str


def describe(settings: Any) -> list[Option]:
    """List every setting of `settings` with path, value, default and description, in the order of the file."""
    found: list[Option] = []

    def walk(value: Any, prefix: str) -> None:
        for item in fields(value):
            inner = getattr(value, item.name)
            if is_dataclass(inner):
                walk(inner, f"{prefix}{item.name}.")
            else:
                meta = item.metadata
                found.append(Option(prefix + item.name, inner, item.default, meta["doc"], meta["kind"]))

    walk(settings, "")
    return found
