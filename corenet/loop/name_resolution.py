"""Name resolution: address literals at once, names by the resolver that was set, else by the C library in a thread.

The loop uses a resolver only through the protocol `AddressResolver`, so this package never imports one. A literal is
answered by the C library with AI_NUMERICHOST, which cannot block and handles IPv6 zones, service names and flags.
"""

import asyncio
import socket
from typing import Any, Protocol

__all__ = ["AddressResolver", "NameResolution"]

AddressInfo = tuple[Any, Any, int, str, tuple[Any, ...]]


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


def is_literal(host: Any) -> bool:
    """Return whether `host` needs no lookup: None, empty, or a numeric address."""
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
