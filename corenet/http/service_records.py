"""HTTPS records (RFC 9460): their wire form, which of them this client can use, and in which order.

Sans-IO: record data goes in, `ServiceRecord`s come out. A record is in AliasMode (priority 0: the target has the
records) or in ServiceMode (an endpoint). One malformed record makes the whole set unusable (section 2.2). A well-formed
record with an unknown mandatory key, or with a target that is not a host name, is unusable, but does not affect the
others.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from corenet.http.url import Origin
from corenet.limits import HTTP_SERVICE_ENDPOINTS, HTTP_SERVICE_HINTS

__all__ = ["HTTPS", "ServiceRecord", "Shuffle", "choose_alias", "choose_services", "parse_records", "service_name"]

HTTPS = 65
"""The number of the RR type."""

# SvcParamKeys, RFC 9460 section 14.3.2. ECH (5) is not among them: a record that makes it mandatory is not used.
_MANDATORY, _ALPN, _NO_DEFAULT_ALPN, _PORT, _IPV4HINT, _IPV6HINT = 0, 1, 2, 3, 4, 6
_UNDERSTOOD = frozenset({_MANDATORY, _ALPN, _NO_DEFAULT_ALPN, _PORT, _IPV4HINT, _IPV6HINT})
_DEFAULT_ALPN = "http/1.1"  # section 9.1
_HOST_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.ASCII)

Shuffle = Callable[[list["ServiceRecord"]], None]
"""Puts a list into random order, in place."""


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """One record. `target` is in lower case without a final dot, empty for the root ("."), None when no host name."""

    priority: int
    target: str | None
    alpn: tuple[str, ...] = ()
    no_default_alpn: bool = False
    port: int | None = None
    ipv4hint: tuple[IPv4Address, ...] = ()
    ipv6hint: tuple[IPv6Address, ...] = ()
    mandatory: tuple[int, ...] = ()

    @property
    def is_alias(self) -> bool:
        """Whether the record is in AliasMode."""
        return self.priority == 0

    def is_usable(self, protocols: Collection[str]) -> bool:
        """Whether a client that speaks `protocols` (ALPN) can use this endpoint (sections 7.1 and 8)."""
        if self.target is None or self.port == 0 or not _UNDERSTOOD.issuperset(self.mandatory):
            return False
        if self.no_default_alpn and not self.alpn:
            return False  # it contradicts itself, section 7.1.1
        offered = self.alpn if self.no_default_alpn else (*self.alpn, _DEFAULT_ALPN)
        return any(protocol in protocols for protocol in offered)

    def __str__(self) -> str:
        parts = [str(self.priority), "?" if self.target is None else self.target or "."]
        if self.alpn:
            parts.append(f"alpn={','.join(self.alpn)}")
        if self.no_default_alpn:
            parts.append("no-default-alpn")
        if self.port is not None:
            parts.append(f"port={self.port}")
        hints = (*self.ipv4hint, *self.ipv6hint)
        if hints:
            parts.append(f"hints={','.join(map(str, hints))}")
        return " ".join(parts)


def service_name(origin: Origin) -> str:
    """The name at which the HTTPS records of `origin` are (section 9.1); an origin of http is taken for its https."""
    port = 443 if origin.scheme == "http" and origin.port == 80 else origin.port
    return origin.host if port == 443 else f"_{port}._https.{origin.host}"


def choose_alias(records: Sequence[ServiceRecord], shuffle: Shuffle) -> str | None:
    """The target to continue with when `records` has one in AliasMode, at random among several; else None.

    The root as target means that the service is not available. That is advisory (section 2.5.1), and ignored as an
    empty set is.
    """
    targets = [record for record in records if record.is_alias]
    shuffle(targets)
    return targets[0].target if targets else None


def choose_services(
    records: Iterable[ServiceRecord], protocols: Collection[str], shuffle: Shuffle
) -> list[ServiceRecord]:
    """The usable records in ServiceMode in the order to be tried: by priority, equal ones at random (section 2.4.1).

    Empty when one record is in AliasMode, because the others must be ignored then.
    """
    found = list(records)
    if any(record.is_alias for record in found):
        return []
    found = [record for record in found if record.is_usable(protocols)]
    shuffle(found)
    return sorted(found, key=lambda record: record.priority)[:HTTP_SERVICE_ENDPOINTS]


def parse_records(rdatas: Iterable[bytes]) -> list[ServiceRecord]:
    """Parse the data of a set of records.

    Raises:
        ValueError: one of them is malformed.
    """
    return [_parse(rdata) for rdata in rdatas]


def _parse(rdata: bytes) -> ServiceRecord:
    if len(rdata) < 3:
        raise ValueError("an HTTPS record ends before its target")
    priority = int.from_bytes(rdata[:2])
    target, at = _name(rdata, 2)
    if priority == 0:
        return ServiceRecord(0, target)  # parameters are ignored, section 2.4.2
    values: dict[int, bytes] = {}
    last = -1
    while at < len(rdata):
        key, length = int.from_bytes(rdata[at : at + 2]), int.from_bytes(rdata[at + 2 : at + 4])
        end = at + 4 + length
        if at + 4 > len(rdata) or end > len(rdata):
            raise ValueError("an HTTPS record ends within a parameter")
        if key <= last:
            raise ValueError("the parameters of an HTTPS record are not in ascending order")
        values[key] = rdata[at + 4 : end]
        last, at = key, end
    port = values.get(_PORT)
    if port is not None and len(port) != 2:
        raise ValueError("the port of an HTTPS record does not have two octets")
    if values.get(_NO_DEFAULT_ALPN):
        raise ValueError("no-default-alpn of an HTTPS record has a value")
    return ServiceRecord(
        priority,
        target,
        alpn=_protocols(values[_ALPN]) if _ALPN in values else (),
        no_default_alpn=_NO_DEFAULT_ALPN in values,
        port=None if port is None else int.from_bytes(port),
        ipv4hint=tuple(IPv4Address(one) for one in _pieces(values, _IPV4HINT, 4)),
        ipv6hint=tuple(IPv6Address(one) for one in _pieces(values, _IPV6HINT, 16)),
        mandatory=_mandatory(values),
    )


def _name(rdata: bytes, at: int) -> tuple[str | None, int]:
    """The uncompressed name at `at` (None when it is no host name), and where it ends."""
    labels = []
    while True:
        if at >= len(rdata):
            raise ValueError("an HTTPS record ends within its target")
        length = rdata[at]
        if length > 63:
            raise ValueError("the target of an HTTPS record is compressed")
        label = rdata[at + 1 : at + 1 + length]
        at += 1 + length
        if not length:
            break
        if b"." in label:
            label = b"?"  # no host name has a dot within a label
        labels.append(label.decode("latin-1").lower())
    name = ".".join(labels)
    return (name if not labels or _HOST_NAME.fullmatch(name) else None), at


def _protocols(value: bytes) -> tuple[str, ...]:
    found = []
    at = 0
    while at < len(value):
        length = value[at]
        if length == 0 or at + 1 + length > len(value):
            raise ValueError("alpn of an HTTPS record is malformed")
        found.append(value[at + 1 : at + 1 + length].decode("latin-1"))
        at += 1 + length
    if not found:
        raise ValueError("alpn of an HTTPS record is empty")
    return tuple(found)


def _pieces(values: dict[int, bytes], key: int, size: int) -> list[bytes]:
    value = values.get(key)
    if value is None:
        return []
    if not value or len(value) % size:
        raise ValueError(f"the address hints of an HTTPS record are not a list of {size} octets each")
    return [value[at : at + size] for at in range(0, min(len(value), size * HTTP_SERVICE_HINTS), size)]


def _mandatory(values: dict[int, bytes]) -> tuple[int, ...]:
    value = values.get(_MANDATORY)
    if value is None:
        return ()
    keys = tuple(int.from_bytes(value[at : at + 2]) for at in range(0, len(value), 2))
    if not keys or len(value) % 2 or _MANDATORY in keys or list(keys) != sorted(set(keys)):
        raise ValueError("mandatory of an HTTPS record is malformed")
    if not values.keys() >= set(keys):
        raise ValueError("an HTTPS record lacks a parameter that it calls mandatory")
    return keys
