"""A parser of Redis' protocol (RESP2) that bounds each reply, for the client library, whose own has no bounds.

The engine may be in other hands: with `secret-file`, its content is not trusted. Its replies must not be, either: a
length of gigabytes would fill the memory before a command's time is over, and an array of very many elements, which the
library reads without letting other tasks run, would hold the loop. GETRANGE asks for a bounded value, but who answers
need not obey.

The class of the library is not public, so pyproject.toml permits only versions that have it.
"""

import asyncio
from typing import Any

from redis._parsers import _AsyncRESP2Parser
from redis.exceptions import AskError, ClusterDownError, InvalidResponse, MasterDownError, MovedError

from resolver import limits

__all__ = ["ClusterParser", "EngineParser"]

HEAD = 1024
"""octets of a reply besides the string in it"""
TURN = 256
"""lines read at once: less than a millisecond"""


class EngineParser(_AsyncRESP2Parser):
    """Of an engine: each reply is one string, number or error."""

    # Old versions of the library know these errors only in their client of clusters.
    EXCEPTION_CLASSES = {**_AsyncRESP2Parser.EXCEPTION_CLASSES, "ASK": AskError, "MOVED": MovedError,
                         "CLUSTERDOWN": ClusterDownError, "MASTERDOWN": MasterDownError}
    octets = limits.SECOND_LEVEL_ENTRY + HEAD
    lines = limits.SECOND_LEVEL_REPLY_LINES

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._octets_left = self._lines_left = 0

    async def read_response(self, *arguments: Any, **keywords: Any) -> Any:
        """The next reply.

        Raises:
            InvalidResponse: it is too long.
        """
        self._octets_left, self._lines_left = self.octets, self.lines
        return await super().read_response(*arguments, **keywords)

    async def _read(self, length: int) -> bytes:
        self._take(length)
        return await super()._read(length)

    async def _readline(self) -> bytes:
        line = await super()._readline()
        self._lines_left -= 1
        self._take(len(line))
        return line

    def _take(self, octets: int) -> None:
        self._octets_left -= octets
        if octets < 0 or self._octets_left < 0 or self._lines_left < 0:
            raise InvalidResponse("the engine has sent a reply that is longer than any entry")


class ClusterParser(EngineParser):
    """Of a node of a cluster that is asked which nodes there are. Its reply is an array of many elements.

    The library reads it without letting other tasks run when it has been received already; here they run between
    `TURN` lines, and a time-out ends it there.
    """

    octets = limits.SECOND_LEVEL_CLUSTER_REPLY
    lines = limits.SECOND_LEVEL_CLUSTER_LINES

    async def _readline(self) -> bytes:
        line = await super()._readline()
        if self._lines_left % TURN == 0:
            await asyncio.sleep(0)
        return line
