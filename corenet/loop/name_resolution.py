"""Names to addresses and back: literals at once, then the resolver that was set, else a thread.

`AddressResolver` is all that the loop knows of a resolver, so this package never imports one. A literal is answered by
the C library with AI_NUMERICHOST, which cannot block and keeps IPv6 zones, service names and flags as they should be.
"""

import asyncio
import socket
from typing import Any, Protocol

__all__ = ["AddressResolver", "NameResolution"]

AddressInfo = tuple[Any, Any, int, str, tuple[Any, ...]]


class AddressResolver(Protocol):
    """What `Loop.set_resolver` takes: the two lookups of the socket module as coroutines."""

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[AddressInfo]:
        """Return what ``socket.getaddrinfo`` would, or raise `socket.gaierror`."""
        ...

    async def getnameinfo(self, sockaddr: tuple[Any, ...], flags: int = 0) -> tuple[str, str]:
        """Return what ``socket.getnameinfo`` would, or raise `socket.gaierror`."""
        ...


def is_literal(host: Any) -> bool:
    """Tell whether `host` needs no lookup: None, empty, or an address in digits."""
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
    """The naming half of the loop."""

    _resolver: AddressResolver | None = None

    def set_resolver(self, resolver: AddressResolver | None) -> None:
        """Send lookups of names to `resolver`; None gives them back to the C library in a thread."""
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
            socket.gaierror: a name was required and there is none.
        """
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        if flags & numeric == numeric:
            return socket.getnameinfo(sockaddr, flags)
        if self._resolver is not None:
            return await self._resolver.getnameinfo(sockaddr, flags)
        return await self.run_in_executor(None, socket.getnameinfo, sockaddr, flags)
