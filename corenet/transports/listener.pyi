import socket
from collections.abc import Callable
from typing import Any

from corenet.core.engine import Engine
from corenet.transports.stream import ConnectionList

class Listener:
    def __init__(
        self,
        loop: Engine,
        sock: socket.socket,
        protocol_factory: Callable[[], Any],
        connections: ConnectionList | None = None,
        accept_tls: Callable[[socket.socket], object] | None = None,
        backlog: int = 100,
        exclusive: bool = False,
        nodelay: bool = True,
    ) -> None: ...
    def limit(self, capacity: Callable[[int], int] | None) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
