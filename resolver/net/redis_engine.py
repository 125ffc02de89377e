"""The commands of the second-level cache on Redis or Valkey, by the package redis, which is an extra.

Only GETRANGE, SET, INCR and the commands of a connection are used: GETRANGE, so that a value that others wrote is read
only up to a limit. Every failure is an `EngineError`, and every command ends within `SECOND_LEVEL_TIMEOUT`. A failed
connection is closed and opened again by the next command; the circuit breaker of the caller decides when that is.
"""

import asyncio
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from resolver import limits
from resolver.options import parse_endpoint
from resolver.settings.second_level import REDIS_PORT, UNIX_PREFIX, SecondLevelSettings

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.cluster import RedisCluster

__all__ = ["MISSING", "EngineError", "RedisEngine", "is_installed"]

MISSING = "redis is not installed; run: pip install 'corenet-resolver[redis]'"
TIMEOUT = limits.SECOND_LEVEL_TIMEOUT / 1000
# One for each batch of look-ups, and one each for writing and for the messages of the fleet.
CONNECTIONS = limits.SECOND_LEVEL_BATCHES + 2

Value: TypeAlias = "bytes | EngineError"


class EngineError(Exception):
    """The engine did not do what was asked; the text says why."""


def is_installed() -> bool:
    """Whether the package redis is there."""
    return importlib.util.find_spec("redis") is not None


class RedisEngine:
    """A client of one engine or of a cluster. Nothing is opened before the first command."""

    def __init__(self, settings: SecondLevelSettings, password: str) -> None:
        self._settings = settings
        self._password = password
        self._made: Redis | RedisCluster | None = None

    def _client(self) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> "Redis | RedisCluster":
        from redis.asyncio import Redis
        from redis.asyncio.cluster import ClusterNode, RedisCluster
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        given = self._settings
        # A command is tried again only where a cluster redirects it: no query waits for a second attempt.
        common: dict[str, Any] = {
            "username": given.username or None, "password": self._password or None, "socket_timeout": TIMEOUT,
            "socket_connect_timeout": TIMEOUT, "retry": Retry(NoBackoff(), 1 if given.cluster else 0),
            "ssl": given.tls, "max_connections": CONNECTIONS, "protocol": 2,
        }
        if given.tls and given.tls_ca_file:
            common["ssl_ca_certs"] = given.tls_ca_file
        first = given.servers[0]
        if first.startswith(UNIX_PREFIX):
            return _bounded(Redis(unix_socket_path=first.removeprefix(UNIX_PREFIX), db=given.database, **common))
        ends = [parse_endpoint(text, REDIS_PORT, "second_level_cache.servers") for text in given.servers]
        if given.cluster:
            from resolver.net.redis_parser import ClusterParser

            # Other nodes keep working while one fails over; keys of the failed one are errors until then.
            made = RedisCluster(startup_nodes=[ClusterNode(host, port) for host, port in ends],
                                require_full_coverage=False, **common)
            # Nodes that are found later get a copy of the first of them.
            nodes = made.nodes_manager.startup_nodes.values()
            for arguments in (made.connection_kwargs, *(node.connection_kwargs for node in nodes)):
                arguments["parser_class"] = ClusterParser
            return made
        return _bounded(Redis(host=ends[0][0], port=ends[0][1], db=given.database, **common))

    async def get(self, keys: Sequence[bytes], longest: int) -> list[Value]:
        """The values of `keys`, b"" for none, each cut after `longest` bytes; an `EngineError` for each that failed.

        Raises:
            EngineError: nothing was read.
        """
        pipe = self._client().pipeline(transaction=False)
        for key in keys:
            pipe.getrange(key, 0, longest - 1)
        found = await self._run(pipe)
        return [value if isinstance(value, bytes) else _as_error(value) for value in found]

    async def put(self, entries: Sequence[tuple[bytes, bytes, int]]) -> list[str]:
        """Store entries: key, value and lifetime in seconds. Returns why some were refused, a text for each of them.

        Raises:
            EngineError: nothing was stored.
        """
        pipe = self._client().pipeline(transaction=False)
        for key, value, lifetime in entries:
            pipe.set(key, value, ex=lifetime)
        return [str(result) for result in await self._run(pipe) if isinstance(result, Exception)]

    async def next_number(self, key: bytes) -> int:
        """Count up the number under `key` and return it.

        Raises:
            EngineError: it could not be counted up.
        """
        pipe = self._client().pipeline(transaction=False)
        pipe.incr(key)
        (number,) = await self._run(pipe)
        if not isinstance(number, int):
            raise _as_error(number)
        return number

    async def close(self) -> None:
        """Close all connections."""
        made, self._made = self._made, None
        if made is not None:
            try:
                async with asyncio.timeout(TIMEOUT):
                    await made.aclose()
            except Exception as error:  # noqa: BLE001 - as in `_run`
                raise _as_error(error) from None

    async def _run(self, pipe: Any) -> list[Any]:
        """The results of the commands in `pipe`, exceptions among them.

        Raises:
            EngineError: the connection failed.
        """
        try:
            async with asyncio.timeout(TIMEOUT):
                results: list[Any] = await pipe.execute(raise_on_error=False)
        except Exception as error:  # noqa: BLE001 - whatever the library raises for malformed data of the server
            raise _as_error(error) from None
        return results


def _bounded(client: "Redis") -> "Redis":
    """`client`, which accepts bounded replies only."""
    from resolver.net.redis_parser import EngineParser

    client.connection_pool.connection_kwargs["parser_class"] = EngineParser
    return client


def _as_error(error: object) -> EngineError:
    return EngineError(f"{error}"[: limits.EDE_TEXT] or type(error).__name__)
