"""A name resolver and a connector for aiohttp: ``ClientSession(connector=corenet.adapters.aiohttp.connector())``.

aiohttp resolves names with c-ares when aiodns is installed, and ignores the loop then. `Resolver` always uses the
loop's `getaddrinfo`, which is the validating resolver after ``resolver.install()``, or a resolver that it is given.
Connections and TLS are the loop's in any case.
"""

import asyncio
import socket
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from corenet import tls
from corenet.loop.name_resolution import AddressResolver

__all__ = ["Resolver", "connector"]


class Resolver(AbstractResolver):
    """Resolves names with `resolver`, an object with the method `getaddrinfo`; None: with the running loop's.

    It does not own `resolver`: `close` leaves it open.
    """

    def __init__(self, resolver: AddressResolver | None = None) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of `host` in the order of preference.

        Raises:
            socket.gaierror: the name does not exist or cannot be looked up.
        """
        source: Any = self._resolver or asyncio.get_running_loop()
        found = await source.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        return [
            ResolveResult(
                hostname=host,
                host=_text_of(address),
                port=address[1],
                family=kind,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        """Do nothing: there is nothing that belongs to this object."""


def connector(resolver: AddressResolver | None = None, **options: Any) -> aiohttp.TCPConnector:
    """Return an `aiohttp.TCPConnector` with our resolver and the strict TLS settings of `corenet.tls`.

    `options` are those of `aiohttp.TCPConnector` and override both. aiohttp's own cache of names is off unless asked
    for, since it ignores the records' TTL.
    """
    options.setdefault("resolver", Resolver(resolver))
    options.setdefault("use_dns_cache", False)
    options.setdefault("ssl", tls.client_context())
    return aiohttp.TCPConnector(**options)


def _text_of(address: tuple[Any, ...]) -> str:
    """The address as text, with the zone of a link-local IPv6 address."""
    if len(address) == 4 and address[3]:
        return f"{address[0]}%{socket.if_indextoname(address[3])}"
    return str(address[0])
