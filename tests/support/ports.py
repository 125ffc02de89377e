"""Ports for servers whose port must be known before they listen, and for servers that do not exist.

These ports are outside of the range from which the kernel assigns ports to connections (ip_local_port_range): otherwise
one of the thousands of connections of a concurrent test run could get the port between its choice and its use.
"""

import random
import socket

__all__ = ["free_port"]

#: Above the ports of common Debian services, below the first ephemeral port of Linux.
PORTS = range(10_240, 32_768)
#: Not seeded: concurrent runs have the same seed, and must choose different ports.
choose = random.SystemRandom().choice
given: set[int] = set()


def free_port(address: str = "127.0.0.1") -> int:
    """A port that is free for UDP and TCP on the IPv4 `address` at this moment; never the same twice in a process."""
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
