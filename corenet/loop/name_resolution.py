"""Name resolution: address literals at once, names by the resolver that was set, else by the C library in a thread.

The loop uses a resolver only through the protocol `AddressResolver`, so this package never imports one. A literal is
converted by the C library with AI_NUMERICHOST, which asks no name server and handles IPv6 zones, service names and
flags. A `RecordResolver` can do more than the C library; `record_resolver` finds out whether the loop's resolver is
one.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any, NamedTuple, Protocol, cast

__all__ = [
    "AddressResolver",
    "NameResolution",
    "RecordLookupError",
    "RecordResolver",
    "Records",
    "record_resolver",
]

AddressInfo = tuple[Any, Any, int, str, tuple[Any, ...]]


class Records(NamedTuple):
    """The records of one type; without any, the name or the type does not exist."""

    name: str
    """The owner of the records, after all aliases (CNAME), without a final dot."""
    secure: bool
    """Whether the answer was validated as secure with DNSSEC, all aliases included."""
    rdatas: tuple[bytes, ...]
    """The data of each record in wire form, with names uncompressed."""


class RecordLookupError(OSError):
    """Records could not be looked up; `bogus`: because DNSSEC validation failed. The text says why."""

    def __init__(self, why: str, *, bogus: bool) -> None:
        super().__init__(why)
        self.bogus = bogus


class AddressResolver(Protocol):
    """The argument of `Loop.set_resolver`: the two lookup functions of the socket module as coroutines."""

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[AddressInfo]:
        """Return what ``socket.getaddrinfo`` would, or raise `socket.gaierror`."""
        ...

    async def getnameinfo(self, sockaddr: tuple[Any, ...], flags: int = 0) -> tuple[str, str]:
        """Return what ``socket.getnameinfo`` would, or raise `socket.gaierror`."""
        ...


class RecordResolver(AddressResolver, Protocol):
    """One that also yields addresses as answers arrive and looks up records of any type: `resolver.addrinfo` is one."""

    def stream_addresses(self, host: str, port: int) -> AsyncIterator[list[AddressInfo]]:
        """Yield the addresses known so far, best first, after each answer (A, AAAA) that brought some.

        The last list is complete. Raises `socket.gaierror` when there is no address.
        """
        ...

    async def lookup_records(self, name: str, rdtype: int) -> Records:
        """Return the records of the type number `rdtype` at `name`, which is complete: no search list applies.

        Raises:
            RecordLookupError: there is no answer, or it is bogus.
            ValueError: `name` cannot be a domain name.
        """
        ...


def record_resolver(loop: asyncio.AbstractEventLoop) -> RecordResolver | None:
    """Return the resolver that was set on `loop` when it is a `RecordResolver`, else None."""
    found = loop._resolver if isinstance(loop, NameResolution) else None
    return cast(RecordResolver, found) if hasattr(found, "lookup_records") else None


def is_literal(host: Any) -> bool:
    """Return whether `host` needs no lookup: None, or an address as `inet_pton` reads it, IPv6 with or without a zone.

    Not "", which no resolver finds, nor "127.1" and other short forms, which only some resolvers take for addresses.
    """
    if host is None:
        return True
    if isinstance(host, bytes):
        try:
            host = host.decode("ascii")
        except UnicodeDecodeError:
            return False
    if not isinstance(host, str) or not host:
        return False
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.inet_pton(family, host.partition("%")[0])
    except (OSError, ValueError):
        return False
    return True


class NameResolution(asyncio.BaseEventLoop):
    """The part of the loop that resolves names."""

    _resolver: AddressResolver | None = None

    def set_resolver(self, resolver: AddressResolver | None) -> None:
        """Look names up with `resolver` from now on; None: with the C library in a thread."""
        self._resolver = resolver

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[AddressInfo]:
        """Look up `host` and `port` as ``socket.getaddrinfo`` does, without blocking.

        Raises:
            socket.gaierror: the name does not exist or cannot be looked up.
        """
        if is_literal(host):
            if host is not None:
                flags |= socket.AI_NUMERICHOST
            return socket.getaddrinfo(host, port, family, type, proto, flags)
        if self._resolver is not None:
            return await self._resolver.getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)
        return await self.run_in_executor(None, socket.getaddrinfo, host, port, family, type, proto, flags)

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """Look up the name of an address as ``socket.getnameinfo`` does, without blocking.

        Raises:
            socket.gaierror: `flags` has NI_NAMEREQD and there is no name, or the lookup failed.
        """
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        if flags & numeric == numeric:
            return socket.getnameinfo(sockaddr, flags)
        if self._resolver is not None:
            return await self._resolver.getnameinfo(sockaddr, flags)
        return await self.run_in_executor(None, socket.getnameinfo, sockaddr, flags)
