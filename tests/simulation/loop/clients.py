"""A server and its list of connections, which keeps no references to them: they are dropped, fail on close, or end.

Warnings are errors here. So a connection without references ends in a destructor that raises, and one whose descriptor
was closed by other code ends in a close that raises. At the end the server closes or aborts all remaining ones.
"""

import asyncio
import gc
import os
import socket
from typing import Any

from simulation.loop.world import Peer, World


class Client(asyncio.Protocol):
    """One connection. `transport` is the only reference to the transport; connections to be dropped leave it unset."""

    def __init__(self, clients: "Clients", spec: dict[str, Any]) -> None:
        self.clients, self.spec = clients, spec
        self.transport: Any = None
        self.made = self.lost = 0
        clients.known.append(self)

    def connection_made(self, transport: Any) -> None:
        self.made += 1
        ending = self.spec["ending"]
        if self.spec["socket"]:
            # Creates the socket object, which owns the descriptor from then on.
            transport.get_extra_info("socket")
        if ending == "drop":
            # A transport that is not registered with the poller has no reference.
            transport.pause_reading()
            return
        self.transport = transport
        if ending in ("close", "abort", "peer"):
            self.clients.world.loop.call_later(self.spec["after"] / 1e5, self.go, ending)
        if ending != "stay":
            transport.write(bytes(self.spec["sends"]))

    def go(self, ending: str) -> None:
        """End the connection in the way that the program says."""
        if self.transport is not None and ending != "peer":
            getattr(self.transport, ending)()

    def connection_lost(self, _error: BaseException | None) -> None:
        self.lost += 1
        self.transport = None


class Clients:
    """The server."""

    def __init__(self, world: World, program: dict[str, Any]) -> None:
        self.world, self.program = world, program
        self.known: list[Client] = []
        self.server: Any = None
        self.number = 0
        world.closes_fail = True
        world.parts.append(self)

    async def begin(self) -> None:
        """Listen, and let the peers connect, one after the other."""
        path = f"\0simulation-clients-{os.getpid():08}"
        self.server = await self.world.loop.create_unix_server(self.next_client, path)
        for spec in self.program["clients"]:
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            sock.connect(path)
            script: list[list[Any]] = [["idle", 1 + spec["after"]]]
            if spec["ending"] == "peer":
                script.append(["close"])
            peer = Peer(self.world, sock, script, 0, 0)
            peer.expected = lambda size: bytes(size)  # type: ignore[method-assign]
            self.world.peers.append(peer)

    def next_client(self) -> Client:
        client = Client(self, self.program["clients"][self.number])
        self.number += 1
        return client

    # --- the model ------------------------------------------------------------------------------------------------

    def quiet(self, stage: str) -> None:
        """Complain about connections that are alive but not on the list, or the other way round."""
        if self.server is None or stage == "over":
            return
        gc.collect()
        listed = len(self.server._roster.members())
        alive = sum(client.made - client.lost for client in self.known if client.spec["ending"] != "drop")
        if listed != alive:
            self.world.complain("clients", f"{listed} on the list, {alive} alive in stage {stage}")

    def release(self) -> None:
        """Let close fail for some connections, now that no new one can get their descriptor numbers."""
        faulty = [client for client in self.known if client.spec["ending"] == "fault" and client.transport is not None]
        for client in faulty:
            sock = client.transport.get_extra_info("socket")
            os.close(sock.fileno())
            client.transport.abort()

    def finish(self) -> None:
        if self.server is not None:
            self.server.close()
            getattr(self.server, self.program["last"])()

    def give_up(self) -> None:
        """Programs of this kind do not fork."""

    def give_up_later(self) -> None:
        """Programs of this kind do not fork."""

    def check(self) -> None:
        """Complain about connections that have not ended."""
        for client in self.known:
            if client.spec["ending"] != "drop" and client.made != client.lost:
                self.world.complain("end", f"a client that was to {client.spec['ending']} was lost {client.lost} times")
        if self.server is not None and self.server._roster.members():
            self.world.complain("clients", "some connections are on the list at the end")
        self.known.clear()
        self.server = None
