import asyncio
import socket
from collections.abc import Iterable
from typing import Any

from corenet.core.engine import Engine
from corenet.transports.base import Transport

class DatagramTransport(Transport):
    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None: ...
    def send_many(self, datagrams: Iterable[tuple[bytes | bytearray | memoryview, Any]]) -> None: ...
    @property
    def udp_gso(self) -> bool: ...
    @udp_gso.setter
    def udp_gso(self, wanted: bool) -> None: ...
    def native_counters(self) -> tuple[int, int, int]: ...
    def close(self) -> None: ...
    def resume_reading(self) -> None: ...

def make_datagram(
    loop: Engine,
    sock: socket.socket,
    protocol: asyncio.DatagramProtocol,
    address: Any = None,
    waiter: asyncio.Future[None] | None = None,
    extra: dict[str, Any] | None = None,
    made: bool = False,
) -> DatagramTransport: ...
