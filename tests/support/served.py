"""A program that tests of `corenet.serve` run: it answers each line of a client with facts about itself.

Its only argument is JSON: `serve` holds keyword arguments of `corenet.serve`, `app` the kind of application. Facts of a
worker (its process, its number, how often it slept and was woken) are written to `facts` when it stops, because only
then are they complete.
"""

import asyncio
import json
import logging
import os
import resource
import sys
from pathlib import Path
from typing import Any

import corenet

__all__ = ["Facts", "Main"]


class Answer(asyncio.Protocol):
    """Answers "who" with the number of the process, "options" with two of the connection's.

    "die" kills it; "hold" says nothing more and keeps the connection.
    """

    greeting = ""
    connections = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        Answer.connections += 1

    def data_received(self, data: bytes) -> None:
        word = data.decode().strip()
        if word == "who":
            self.transport.write(f"{os.getpid()} {self.greeting}".encode())
            self.transport.close()
        elif word == "options":
            options = self.transport.get_extra_info("socket_options")
            self.transport.write(f"{options.keepalive_idle} {options.nodelay}".encode())
            self.transport.close()
        elif word == "die":
            os._exit(7)
        elif word == "hold":
            self.transport.write(b"held")


class Facts:
    """An application with start and stop; leaves what the worker went through in a file."""

    def __init__(self, folder: str, herd: bool = False) -> None:
        self.folder = Path(folder)
        self.herd = herd

    async def start(self, worker: Any) -> None:
        """Start a server on every socket."""
        loop: Any = asyncio.get_running_loop()
        if self.herd:
            loop.exclusive_listeners = False
        self.servers = [await loop.create_server(Answer, sock=sock) for sock in worker.sockets]
        self.number = worker.number
        self.slept = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw

    async def stop(self) -> None:
        """Close the servers and write the facts."""
        slept = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - self.slept
        for server in self.servers:
            server.close()
        facts = {"pid": os.getpid(), "connections": Answer.connections, "woken": slept}
        (self.folder / f"{self.number}.json").write_text(json.dumps(facts))


class Main:
    """The coroutine function among the applications."""

    async def __call__(self, worker: Any) -> None:
        """Serve until told to stop."""
        server = await asyncio.get_running_loop().create_server(Answer, sock=worker.sockets[0])
        await worker.until_stopped()
        server.close()


async def forever(worker: Any) -> None:
    """A coroutine function that never asks to be told of the stop."""
    server = await asyncio.get_running_loop().create_server(Answer, sock=worker.sockets[0])
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve as the argument says."""
    options = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name, value in options.get("limits", {}).items():
        from corenet.serving import processes, supervisor

        setattr(supervisor if hasattr(supervisor, name) else processes, name, value)
    app: Any = {"protocols": Answer, "main": Main(), "forever": forever}.get(options["app"], options["app"])
    if app in ("facts", "herd"):
        app = Facts(options["facts"], herd=app == "herd")
    if "options" in options["serve"]:
        options["serve"]["options"] = corenet.SocketOptions(**options["serve"]["options"])
    corenet.serve(app, **options["serve"])


if __name__ == "__main__":
    main()
