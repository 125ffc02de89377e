"""Commands to one engine: a single server, or one node of a cluster.

States of a node: without connections, and with up to `CONNECTIONS` of them. A failed connection is closed and opened
again by the next command.

Invariants: each reply is bounded by the parser. RESP2 is spoken and never changed by a reply. Every failure of the node
is an `EngineError`; what it answers to one command, errors too, is a result. When a reply is
refused, the reason is logged and kept in `refused`, because an operator must look at who answers there.
"""

from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from resolver import limits
from resolver.log_limit import LimitedWarning

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from resolver.net.redis_parser import EngineParser

__all__ = ["TIMEOUT", "Command", "EngineError", "Node", "as_error"]

TIMEOUT = limits.SECOND_LEVEL_TIMEOUT / 1000
# One for each batch of look-ups, and one each for writing and for the messages of the fleet.
CONNECTIONS = limits.SECOND_LEVEL_BATCHES + 2

Command: TypeAlias = "tuple[str | bytes | int, ...]"
"""The name of a command, the key if it has one, and the other arguments."""


class EngineError(Exception):
    """The engine did not do what was asked; the text says why."""


class Node:
    """One engine at `where`, a name for messages. Nothing is opened before the first command."""

    def __init__(
        self, where: str, arguments: Mapping[str, Any], parser: "type[EngineParser]", warnings: LimitedWarning
    ) -> None:
        """`arguments` are those of `redis.asyncio.Redis`."""
        self._where = where
        self._arguments = arguments
        self._parser = parser
        self._warnings = warnings
        self._client: Redis | None = None
        self.refused = ""
        """Why the last reply was refused; "" otherwise, also after a failed connection."""

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """The results of `commands`; an error of one command is an exception among them.

        Raises:
            EngineError: the node cannot be used.
        """
        from redis.exceptions import InvalidResponse

        refused = ""
        try:
            pipe = self._open().pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)
            results: list[Any] = await pipe.execute(raise_on_error=False)
        except Exception as error:  # noqa: BLE001 - whatever the library raises for malformed data of the server
            # A wrong certificate is both a ValueError and an OSError.
            malformed = InvalidResponse, ValueError, RecursionError
            refused = str(as_error(error)) if isinstance(error, malformed) and not isinstance(error, OSError) else ""
            raise as_error(error) from None
        finally:
            self.note(refused)
        return results

    def note(self, refused: str) -> None:
        """The last attempt ended: with a reply that is refused for this reason, or otherwise ("")."""
        self.refused = refused
        if refused:
            self._warnings.warn("%s", self.problem())

    def problem(self) -> str:
        """`refused` as a sentence."""
        return f"second-level cache: a reply of {self._where} is refused: {self.refused}"

    def _open(self) -> "Redis":
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        if self._client is None:
            # No query waits for a second attempt. HELLO, by which a server could change the protocol, is not sent.
            self._client = Redis(
                socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=Retry(NoBackoff(), 0),
                max_connections=CONNECTIONS, protocol=2, **self._arguments,
            )
            self._client.connection_pool.connection_kwargs["parser_class"] = self._parser
        return self._client

    def close(self) -> Coroutine[Any, Any, None]:
        """Forget all connections; the coroutine closes them. A command that begins in between opens others.

        Raises (the coroutine):
            EngineError: one could not be closed.
        """
        client, self._client = self._client, None
        return _close(client)


async def _close(client: "Redis | None") -> None:
    if client is not None:
        try:
            await client.aclose()
        except Exception as error:  # noqa: BLE001 - as in `Node.run`
            raise as_error(error) from None


def as_error(error: object) -> EngineError:
    """`error` with a text of limited length, because servers choose it."""
    return EngineError(f"{error}"[: limits.EDE_TEXT] or type(error).__name__)
