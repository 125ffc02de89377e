import asyncio
import contextvars
import socket
from collections.abc import Callable, Iterable
from typing import Any

from typing_extensions import Buffer

from corenet.core.engine import Engine
from corenet.transports.streambase import StreamBase

class ConnectionList:
    def __init__(self, on_empty: Callable[[], object]) -> None: ...
    @property
    def active(self) -> int: ...
    def members(self) -> list[Any]: ...
    def clear_on_empty(self) -> None: ...

class StreamTransport(StreamBase):
    def write_frame(self, payload: Buffer) -> None: ...
    def write_frames(self, payloads: Iterable[Buffer]) -> None: ...

def make_stream(
    loop: Engine,
    sock: socket.socket,
    protocol: asyncio.BaseProtocol,
    waiter: asyncio.Future[None] | None = None,
    extra: dict[str, Any] | None = None,
    connections: ConnectionList | None = None,
    context: contextvars.Context | None = None,
) -> StreamTransport: ...
