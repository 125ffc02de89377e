import socket
from typing import final

from resolver.net.clock_random import Entropy

@final
class PeerAddress: ...

def network_of(host: str) -> str | bytes: ...
def open_socket(family: int, source: str, entropy: Entropy | None = None) -> socket.socket: ...
