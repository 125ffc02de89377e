"""The commands of the second-level cache on Redis or Valkey, by the package redis, which is an extra.

Only GETRANGE, SET, INCR, the commands of a connection and, with a cluster, CLUSTER SLOTS and ASKING are used:
GETRANGE, so that a value that others wrote is read only up to a limit. Every failure is an `EngineError`, and every
command ends within `SECOND_LEVEL_TIMEOUT`. A failed connection is closed and opened again by the next command; the
circuit breaker of the caller decides when that is.

Invariant: nothing that a server says changes what is configured, so a server that works again is used again.
"""

import asyncio
import importlib.util
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from resolver import limits
from resolver.log_limit import LimitedWarning
from resolver.net.redis_node import TIMEOUT, Command, EngineError, Node, as_error
from resolver.options import parse_endpoint
from resolver.settings.second_level import REDIS_PORT, UNIX_PREFIX, SecondLevelSettings

if TYPE_CHECKING:
    from resolver.net.redis_cluster import Address, Cluster
    from resolver.net.redis_parser import EngineParser

__all__ = ["MISSING", "EngineError", "RedisEngine", "is_installed"]

logger = logging.getLogger(__name__)

MISSING = "redis is not installed; run: pip install 'corenet-resolver[redis]'"

Value: TypeAlias = "bytes | EngineError"


def is_installed() -> bool:
    """Whether the package redis is there."""
    return importlib.util.find_spec("redis") is not None


class RedisEngine:
    """A client of one engine or of a cluster. Nothing is opened before the first command."""

    def __init__(self, settings: SecondLevelSettings, password: str) -> None:
        self._settings = settings
        self._password = password
        self._made: Node | Cluster | None = None
        self._warnings = LimitedWarning(logger, different=limits.LOG_FAILURES)

    def _make(self) -> "Node | Cluster":
        from resolver.net.redis_parser import EngineParser

        given = self._settings
        first = given.servers[0]
        if first.startswith(UNIX_PREFIX):
            return self._node(first, {"unix_socket_path": first.removeprefix(UNIX_PREFIX)}, EngineParser)
        ends = [parse_endpoint(text, REDIS_PORT, "second_level_cache.servers") for text in given.servers]
        if given.cluster:
            from resolver.net.redis_cluster import Cluster

            return Cluster(ends, self._connect)
        return self._connect(ends[0], EngineParser)

    def _connect(self, address: "Address", parser: "type[EngineParser]") -> Node:
        host, port = address
        return self._node(f"{host} port {port}", {"host": host, "port": port}, parser)

    def _node(self, where: str, place: dict[str, Any], parser: "type[EngineParser]") -> Node:
        given = self._settings
        arguments = {"username": given.username or None, "password": self._password or None, "db": given.database,
                     **place}
        if given.tls:
            arguments.update(ssl=True, ssl_check_hostname=True, ssl_ca_certs=given.tls_ca_file or None)
        return Node(where, arguments, parser, self._warnings)

    async def get(self, keys: Sequence[bytes], longest: int) -> list[Value]:
        """The values of `keys`, b"" for none, each cut after `longest` bytes; an `EngineError` for each that failed.

        Raises:
            EngineError: the engine could not be used.
        """
        found = await self._run([("GETRANGE", key, 0, longest - 1) for key in keys])
        return [value if isinstance(value, bytes) else as_error(value) for value in found]

    async def put(self, entries: Sequence[tuple[bytes, bytes, int]]) -> list[str]:
        """Store entries: key, value and lifetime in seconds. Returns why some were refused, a text for each of them.

        Raises:
            EngineError: the engine could not be used.
        """
        found = await self._run([("SET", key, value, "EX", lifetime) for key, value, lifetime in entries])
        return [str(result) for result in found if isinstance(result, Exception)]

    async def next_number(self, key: bytes) -> int:
        """Count up the number under `key` and return it.

        Raises:
            EngineError: it could not be counted up.
        """
        (number,) = await self._run([("INCR", key)])
        if not isinstance(number, int):
            raise as_error(number)
        return number

    def problems(self) -> list[str]:
        """What an operator must act on: servers whose last reply was refused, because it breaks the protocol or
        describes no usable cluster."""
        if self._made is None:
            return []
        nodes = [self._made] if isinstance(self._made, Node) else self._made.nodes()
        return list(dict.fromkeys(node.problem() for node in nodes if node.refused))

    async def close(self) -> None:
        """Close all connections.

        Raises:
            EngineError: that failed.
        """
        made, self._made = self._made, None
        if made is not None:
            try:
                async with asyncio.timeout(TIMEOUT):
                    await made.close()
            except TimeoutError as error:
                raise as_error(error) from None

    async def _run(self, commands: Sequence[Command]) -> list[Any]:
        """The results of `commands`, exceptions among them.

        Raises:
            EngineError: there is no result.
        """
        if self._made is None:
            self._made = self._make()
        try:
            async with asyncio.timeout(TIMEOUT):
                results = await self._made.run(commands)
        except TimeoutError as error:
            raise as_error(error) from None
        if results and all(isinstance(result, EngineError) for result in results):
            raise results[0]
        return results
