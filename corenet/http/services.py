"""Looks up the DNS records of an origin besides addresses: its HTTPS records (RFC 9460) and TLSA records (RFC 6698).

Both come from the `RecordResolver` on the loop. HTTPS records change where the client connects to; without them, or
when they cannot be looked up, it connects as if there were none. TLSA records change whom it trusts, so it must not
connect when they cannot be looked up: otherwise an attacker who suppresses them could switch DANE off.
"""

import asyncio
import socket
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from corenet.http.attempts import Address, Endpoint
from corenet.http.errors import NameResolutionError
from corenet.http.service_records import (
    HTTPS,
    ServiceRecord,
    Shuffle,
    choose_alias,
    choose_services,
    parse_records,
    service_name,
)
from corenet.http.trace import DONE, FAILED, STARTED, Trace, report
from corenet.http.url import Origin
from corenet.limits import HTTP_SERVICE_ALIASES
from corenet.loop import RecordLookupError, RecordResolver
from corenet.tls.dane import TLSA, DanePolicy, parse_tlsa, tlsa_name

__all__ = ["Services", "find_services", "find_tlsa"]

_A, _AAAA = 1, 28
_TOO_LATE = "no longer needed"


class Services(NamedTuple):
    """The result of the HTTPS records of an origin. `exists`: there is a usable record, also one in AliasMode."""

    endpoints: tuple[Endpoint, ...] = ()
    exists: bool = False
    bogus: str = ""
    """Why the records are bogus; then the origin must not be connected to (RFC 9460 section 3.1)."""


async def find_services(
    resolver: RecordResolver,
    origin: Origin,
    *,
    protocols: Collection[str],
    shuffle: Shuffle,
    trace: Trace | None,
) -> Services:
    """Look the HTTPS records of `origin` up, follow aliases, and return the endpoints in the order to be tried."""
    loop = asyncio.get_running_loop()
    name = service_name(origin)
    report(trace, "https", STARTED, loop.time(), name=name)
    try:
        found, records = await _follow(resolver, origin, name, protocols, shuffle)
    except asyncio.CancelledError:
        report(trace, "https", FAILED, loop.time(), error=_TOO_LATE)
        raise
    except RecordLookupError as error:
        report(trace, "https", FAILED, loop.time(), error=str(error))
        return Services(bogus=str(error)) if error.bogus else Services()
    except ValueError as error:
        report(trace, "https", FAILED, loop.time(), error=str(error))
        return Services()
    report(
        trace, "https", DONE, loop.time(),
        records="; ".join(map(str, records)) or "none",
        endpoints=",".join(map(str, found.endpoints)) or "none",
    )  # fmt: skip
    return found


async def _follow(
    resolver: RecordResolver, origin: Origin, name: str, protocols: Collection[str], shuffle: Shuffle
) -> tuple[Services, list[ServiceRecord]]:
    secure = True
    aliased = False
    shown: list[ServiceRecord] = []
    for _ in range(HTTP_SERVICE_ALIASES + 1):
        answer = await resolver.lookup_records(name, HTTPS)
        secure = secure and answer.secure
        records = parse_records(answer.rdatas)
        shown += records
        target = choose_alias(records, shuffle)
        if target:
            name, aliased = target, True
            continue
        endpoints = [
            Endpoint(
                one.target or answer.name,
                origin.port if one.port is None else one.port,
                secure=secure,
                hints=_hints(one, origin.port),
            )
            for one in choose_services(records, protocols, shuffle)
        ]
        if aliased:
            # The target may have addresses and no HTTPS records (section 3).
            endpoints.append(Endpoint(name, origin.port, secure=secure))
        return Services(tuple(endpoints), bool(endpoints)), shown
    raise ValueError(f"more than {HTTP_SERVICE_ALIASES} HTTPS records in AliasMode follow each other")


def _hints(record: ServiceRecord, port: int) -> list[Address]:
    port = port if record.port is None else record.port
    found: list[IPv4Address | IPv6Address] = [*record.ipv6hint, *record.ipv4hint]
    return [
        (socket.AF_INET, (str(one), port)) if one.version == 4 else (socket.AF_INET6, (str(one), port, 0, 0))
        for one in found
    ]


async def find_tlsa(resolver: RecordResolver, host: str, port: int, trace: Trace | None) -> DanePolicy | None:
    """Return the TLSA records for `host`, None when there are no usable ones or their answer is not secure.

    They are at the name to which the aliases of `host` lead, if these are secure, else at its own (RFC 7671 section 7).

    Raises:
        NameResolutionError: they cannot be looked up, or are bogus.
    """
    loop = asyncio.get_running_loop()
    bases = await _bases(resolver, host)
    if not bases:
        report(trace, "tlsa", DONE, loop.time(), name=tlsa_name(host, port), records="none", why="the host is insecure")
        return None
    for base in bases:
        name = tlsa_name(base, port)
        report(trace, "tlsa", STARTED, loop.time(), name=name)
        try:
            answer = await resolver.lookup_records(name, TLSA)
            records = parse_tlsa(answer.rdatas) if answer.secure else ()
        except asyncio.CancelledError:
            report(trace, "tlsa", FAILED, loop.time(), error=_TOO_LATE)
            raise
        except (RecordLookupError, ValueError) as error:
            report(trace, "tlsa", FAILED, loop.time(), error=str(error))
            raise NameResolutionError(f"the TLSA records of {name} cannot be used: {error}") from error
        shown = ", ".join(map(str, records)) or "none"
        report(trace, "tlsa", DONE, loop.time(), records=shown, secure=answer.secure, found=len(answer.rdatas))
        if records:
            return DanePolicy(name, records)
        if answer.secure and answer.rdatas:
            return None  # the name has records, none of them usable
    return None


async def _bases(resolver: RecordResolver, host: str) -> list[str]:
    """The names that may have TLSA records for `host`. None when its zone is insecure, so they could not be secure."""
    for rdtype in (_AAAA, _A):
        try:
            answer = await resolver.lookup_records(host, rdtype)
        except RecordLookupError:
            # Who makes this query fail must not switch DANE off: the name itself decides.
            return [host]
        if answer.rdatas:
            if answer.name.lower() == host.lower():
                return [host] if answer.secure else []
            return [answer.name, host] if answer.secure else [host]
    return [host]
