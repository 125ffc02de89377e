"""What the servers for administration share: a few connections at once, on the loop that serves clients.

The control socket and the metrics page speak different protocols and come to their ends alike: who is one too many is
sent away, and nobody waits for the task of a connection, so it must not leave with an exception. A connection keeps its
place until it is gone: who does not read its answer is cut off, or such would gather without a bound.
"""

import abc
import asyncio
import logging
import socket
import sys
from typing import Any

__all__ = ["ManagementServer"]

logger = logging.getLogger(__name__)


class ManagementServer(abc.ABC):
    """Accepts connections and has each served by `serve`, up to a number at once.

    Args:
        connections: how many are served at once.
        request: the most bytes of a request that are read ahead.
        patience: seconds for the last of an answer to be read.
    """

    REFUSAL = b""  # what one connection too many is told before it is closed

    def __init__(self, connections: int, request: int, timeout: float) -> None:
        self._connections = connections
        self._request = request
        self._patience = timeout
        self._closed = False
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], None] = {}  # no set, see `resolver.mesh`

    async def start(self, listening: socket.socket) -> None:
        """Begin to accept on `listening`: bound, listening, non-blocking; TCP or Unix.

        Raises:
            OSError: the kernel does not let us watch it.
        """
        begin: Any = asyncio.start_server
        options: dict[str, Any] = {}
        if listening.family == socket.AF_UNIX:
            begin = asyncio.start_unix_server
            if sys.version_info >= (3, 13):
                # From there on a server that ends takes the socket file along: a worker that is started again needs it.
                options["cleanup_socket"] = False
        self._server = await begin(self._on_connection, sock=listening, limit=self._request, **options)

    def close(self) -> None:
        """Stop accepting and end what is under way."""
        self._closed = True
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._closed:  # it was accepted just before
            writer.close()
            return
        if len(self._open) >= self._connections:
            writer.write(self.REFUSAL)
            writer.close()
            return
        try:
            self._open[task] = None
            await self.serve(reader, writer)
            writer.close()
            async with asyncio.timeout(self._patience):
                await writer.wait_closed()
        except asyncio.CancelledError:
            # By `close`, or with the loop: nobody waits for this task, and asyncio's streams would complain.
            writer.transport.abort()
        except OSError as error:
            logger.debug("management: reply not read by the client: %s", error or "write timeout")
            writer.transport.abort()
        finally:
            self._open.pop(task, None)
            writer.close()

    @abc.abstractmethod
    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end; errors of the network are the server's own to log."""
