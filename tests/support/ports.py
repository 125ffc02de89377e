"""Ports for servers whose port must be known before they listen, and for servers that do not exist.

Rule: such a port is below the range from which the kernel assigns ports to connections. Two concurrent test runs make
thousands of connections, and one of them could otherwise get the port between its choice and its use.
"""

import random
import socket

__all__ = ["free_port"]

#: From where no Debian service listens by habit up to where the kernel's own range begins (ip_local_port_range).
PORTS = range(10_240, 32_768)
#: Runs side by side have the same seed; what they choose must differ all the same.
choose = random.SystemRandom().choice
given: set[int] = set()


def free_port(address: str = "127.0.0.1") -> int:
    """A port that is free for UDP and TCP on the IPv4 `address` at this moment; never the same twice."""
    while True:
        port = choose(PORTS)
        if port in given:
            continue
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
        ):
            try:
                stream.bind((address, port))
                datagram.bind((address, port))
            except OSError:
                continue
            given.add(port)
            return port
