import asyncio
from typing import Any

from corenet.core.engine import Engine
from corenet.transports.streambase import StreamBase

class ReadPipeTransport(StreamBase): ...
class WritePipeTransport(StreamBase): ...

def make_read_pipe(
    loop: Engine,
    pipe: Any,
    protocol: asyncio.BaseProtocol,
    waiter: asyncio.Future[None] | None = None,
    extra: dict[str, Any] | None = None,
) -> ReadPipeTransport: ...
def make_write_pipe(
    loop: Engine,
    pipe: Any,
    protocol: asyncio.BaseProtocol,
    waiter: asyncio.Future[None] | None = None,
    extra: dict[str, Any] | None = None,
) -> WritePipeTransport: ...
