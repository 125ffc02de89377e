"""Settings of the servers that are queried: root servers, and the tables [[forward]] and [[stub]].

Either all servers of a zone are encrypted or none, and nothing falls back to queries without encryption.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from resolver.options import check_names, option
from resolver.upstream_address import HTTPS, PIN_PREFIX, QUIC, TLS, parse_upstream

__all__ = ["ForwardZone", "RootServer", "StubZone", "check_upstream_zones"]


def _check_upstreams(
    addresses: tuple[str, ...], permitted: tuple[str, ...], fallback: str, allow_unauthenticated: bool
) -> bool:
    """Check the addresses of a forward or stub zone; returns whether they are encrypted.

    No query may be sent unencrypted because an encrypted server failed. `fallback` is the name of the setting that
    would permit it, or empty when that is off.
    """
    found = [parse_upstream(text, 53, "addresses") for text in addresses]
    for text, (_, _, encryption) in zip(addresses, found, strict=True):
        if encryption is None:
            continue
        if encryption.protocol not in permitted:
            raise ValueError(f"addresses: {text!r}: authoritative servers are queried over TLS only; write tls://")
        if not (encryption.authenticated or allow_unauthenticated):
            raise ValueError(f"addresses: {text!r} has no name and no pin, so anyone on the path could answer; add"
                             f" #NAME, or #{PIN_PREFIX}HASH"
                             + (", or set allow_unauthenticated" if HTTPS in permitted else ""))
    encrypted = [one for one in found if one.encryption is not None]
    if encrypted and len(encrypted) < len(found):
        plain = addresses[next(n for n, one in enumerate(found) if one.encryption is None)]
        raise ValueError(f"addresses: {plain!r} is unencrypted and would get the same queries as the encrypted servers;"
                         " remove it, or write tls:// or https:// before it")
    if encrypted and fallback:
        raise ValueError(f"{fallback}: when the encrypted servers fail, queries would be sent unencrypted; set it to"
                         " false, or use servers without encryption")
    return bool(encrypted)


class RootServer(NamedTuple):
    """One root server and its addresses, as in the root hints."""

    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForwardZone:
    """Queries for names in `zone` are forwarded to recursive resolvers instead of being resolved from the root."""

    zone: str = option(".", 'Zone whose queries are forwarded; "." forwards all queries.')
    addresses: tuple[str, ...] = option(
        (),
        "Recursive resolvers for this zone, fastest first; a port other than 53 follows a colon. An empty list"
        " excludes this zone from a wider forward zone: its names are resolved from the root. tls://ADDRESS#NAME is"
        " queried over TLS (RFC 7858), https://ADDRESS/dns-query#NAME over HTTPS (RFC 8484), quic://ADDRESS#NAME over"
        " QUIC (RFC 9250, pip install 'corenet-resolver[quic]'); the certificate must be valid for NAME. sha256//HASH"
        " after NAME and a comma, or instead of NAME, pins a public key. Either all servers of a zone are encrypted or"
        " none.",
    )
    forward_first: bool = option(
        False, "When all of these resolvers fail, resolve from the root instead of answering SERVFAIL."
    )
    allow_unauthenticated: bool = option(
        False,
        "Accept encrypted servers without a name and without a pin. An attacker on the path can then read and answer"
        " the queries. Queries are never sent unencrypted instead (RFC 8310 5).",
    )

    def __post_init__(self) -> None:
        check_names((self.zone,), "zone")
        _check_upstreams(
            self.addresses,
            (TLS, HTTPS, QUIC),
            "forward_first" if self.forward_first else "",
            self.allow_unauthenticated,
        )


@dataclass(frozen=True, slots=True)
class StubZone:
    """Names in `zone` are resolved with these authoritative servers; the public delegation is not used."""

    zone: str = option(".", "Zone whose authoritative servers are configured here.")
    addresses: tuple[str, ...] = option(
        (),
        "Addresses of the authoritative servers; a port other than 53 follows a colon. tls://ADDRESS#NAME is queried"
        " over TLS.",
    )
    names: tuple[str, ...] = option(
        (), "Names of the authoritative servers; their addresses are resolved when first needed."
    )
    stub_first: bool = option(
        False, "When all of these servers fail, follow the public delegation instead of answering SERVFAIL."
    )

    def __post_init__(self) -> None:
        check_names((self.zone,), "zone")
        check_names(self.names, "names")
        encrypted = _check_upstreams(self.addresses, (TLS,), "stub_first" if self.stub_first else "", False)
        if encrypted and self.names:
            raise ValueError("names: these servers would be queried unencrypted besides those of addresses; give their"
                             " addresses with tls://")


def check_upstream_zones(zones: tuple[ForwardZone | StubZone, ...], others: Iterable[str]) -> None:
    """Check forward and stub zones together. `others` are the names of wider ones that they may end.

    Raises:
        ValueError: two have the same name, or one without servers ends no wider one.
    """
    seen: set[str] = set()
    for entry in zones:
        plain = entry.zone.removesuffix(".").lower()
        if plain in seen:
            raise ValueError(f"forward: zone {entry.zone!r} is configured twice; list all its servers in one table")
        seen.add(plain)
    seen |= {zone.removesuffix(".").lower() for zone in others}
    for entry in zones:
        plain = "." + entry.zone.strip(".").lower()
        wider = any("." + one != plain and plain.endswith("." + one if one else "") for one in seen)
        if not (entry.addresses or getattr(entry, "names", ()) or wider):
            kind = "forward" if isinstance(entry, ForwardZone) else "stub"
            raise ValueError(
                f"{kind}: zone {entry.zone!r} has no servers, and there is no wider zone to exclude it from"
            )
