"""Common base of the control socket and the HTTP listeners: few connections, on the loop that serves clients.

A connection above the limit takes the place of the one that has waited longest without sending its request, so that
clients which send nothing do not keep others out. When all have sent theirs, it is closed at once. The task
of a connection is not awaited, so it must not raise. A connection counts until its transport is closed; a client that
does not read its reply is disconnected after a timeout, so that unread replies stay bounded.
"""

import abc
import asyncio
import logging
import socket
import sys
from typing import Any

from resolver import limits

__all__ = ["ManagementServer"]

logger = logging.getLogger(__name__)


class ManagementServer(abc.ABC):
    """Accepts connections and serves each with `serve`.

    Args:
        connections: most connections at the same time.
        request: most bytes of a request that are buffered.
        timeout: seconds for the client to read the end of the reply.
    """

    REFUSAL = b""  # sent to a connection that is closed because there are too many

    def __init__(self, connections: int, request: int, timeout: float) -> None:
        self._connections = connections
        self._request = request
        self._write_timeout = timeout
        self._closed = False
        self.rejected = 0
        """Connections that were closed because there were too many."""
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        """The connections, those that have waited longest for a request first."""
        self._busy: dict[asyncio.Task[None], None] = {}
        """Those that have sent a request that is not answered yet."""

    async def start(self, listening: socket.socket) -> None:
        """Accept connections on `listening`, a non-blocking listening TCP or Unix socket.

        Raises:
            OSError: the socket cannot be registered with the event loop.
        """
        begin: Any = asyncio.start_server
        options: dict[str, Any] = {}
        if listening.family == socket.AF_UNIX:
            begin = asyncio.start_unix_server
            if sys.version_info >= (3, 13):
                # asyncio would remove the socket file on close, but a restarted worker needs it.
                options["cleanup_socket"] = False
        self._server = await begin(self._on_connection, sock=listening, limit=self._request, **options)

    def stop_accepting(self) -> None:
        """Accept no more connections; those that are open are served to their end."""
        if self._server is not None:
            self._server.close()

    def close(self) -> None:
        """Stop accepting and cancel all connections."""
        self._closed = True
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._closed:  # accepted just before `close`
            writer.close()
            return
        if len(self._open) >= self._connections:
            self.rejected += 1
            idle = next((one for one in self._open if one not in self._busy), None)
            if idle is None:
                writer.write(self.REFUSAL)
                writer.close()
                return
            self._open.pop(idle).write(self.REFUSAL)
            idle.cancel()
        try:
            self._open[task] = writer
            await self.serve(reader, writer)
            writer.close()
            async with asyncio.timeout(self._write_timeout):
                await writer.wait_closed()
        except asyncio.CancelledError:
            # By `close` or the end of the loop. asyncio's streams would log the exception.
            writer.transport.abort()
        except OSError as error:
            logger.debug("management: reply not read by the client: %s", error or "write timeout")
            writer.transport.abort()
        finally:
            self._open.pop(task, None)
            self._busy.pop(task, None)
            writer.close()

    def note_request(self) -> None:
        """The connection whose task is running has sent a request, so it keeps its place until `note_reply`."""
        task = asyncio.current_task()
        if task in self._open:
            self._busy[task] = None

    def note_reply(self) -> None:
        """The connection whose task is running waits for another request."""
        task = asyncio.current_task()
        if task in self._busy:
            del self._busy[task]
            self._open[task] = self._open.pop(task)

    @property
    def started(self) -> bool:
        """Whether `start` has succeeded."""
        return self._server is not None

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._open)

    @property
    def octets(self) -> int:
        """Estimated memory of the connections."""
        unread = sum(writer.transport.get_write_buffer_size() for writer in self._open.values())
        return len(self._open) * limits.MANAGEMENT_OVERHEAD + unread

    @property
    def max_connections(self) -> int:
        """Maximum number of open connections."""
        return self._connections

    @abc.abstractmethod
    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection; handle and log network errors."""
