"""The HTTP client in the simulation: concurrent requests, and servers that answer in different ways.

The path of a request says how to answer it: "good", "slow" in small pieces, "early" before the request was read, whose
rest is then not read, "cut" in the middle. The model knows every body in both directions.

The program's forks are lists of a trigger and a way (see `forks`). Triggers: "turn5", "at300" as in `ends`; "step7" the
seventh of the points at which a request begins or ends, a connection begins or is there, or a piece of a body is sent
or received; "trace7" the seventh call of the trace callback.
"""

import asyncio
import os
import select
import socket
from collections.abc import AsyncIterator
from typing import Any

from simulation.loop.forks import fork
from simulation.loop.world import PATTERN, Peer, World, readiness

from corenet.http import HttpClient, HttpError
from corenet.http import connect as connecting
from corenet.http.pool import Limits

LIMIT = 3
SECOND = 10**9
REAL = connecting._connect_any


def body_of(number: int, size: int) -> bytes:
    """The body of message `number`."""
    return PATTERN[number * 13 : number * 13 + size]


class Server(Peer):
    """The peer of one connection of the client."""

    def __init__(self, world: World, sock: Any, web: "Web") -> None:
        super().__init__(world, sock, [], 0, 0)
        self.web = web
        self.buffer = b""
        self.answers: list[bytes] = []
        self.busy = False           # inside a request's body
        self.ignoring = False           # nothing more is read
        self.early = False          # the request being read was already answered
        self.ends = False           # closes after everything is sent

    def act(self) -> int:
        """Send pending bytes, then read."""
        if self.done:
            return 0
        if self.answers:
            piece = self.answers[0]
            try:
                sent = self.sock.send(piece[: self.world.random.choice((1, 100, 70000))])
            except (BlockingIOError, InterruptedError):
                return 0
            except OSError:
                return self.close()
            self.answers[0] = piece[sent:]
            if not self.answers[0]:
                self.answers.pop(0)
            return 1
        if self.ends:
            return self.close()
        if self.due:
            if self.world.kernel.now() < self.due:
                return 0
            self.due = 0
            return self.catch_up()
        if self.ignoring:
            return self.close() if readiness(self.sock.fileno()) & select.POLLHUP else 0
        try:
            data = self.sock.recv(self.world.random.choice((10, 3000, 70000)))
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            return self.close()
        if not data:
            return self.close()
        self.buffer += data
        self.understand()
        return 1

    def catch_up(self) -> int:
        """After an early answer: stop reading a request that has not arrived completely, as servers do.

        A client that has sent all of it may use the connection again; others may not.
        """
        try:
            while data := self.sock.recv(70000):
                self.buffer += data
            return self.close()
        except (BlockingIOError, InterruptedError):
            self.understand()
            self.ignoring = self.early
            return 1
        except OSError:
            return self.close()

    def understand(self) -> None:
        """Answer the request in the buffer, when enough of it has arrived."""
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.decode("latin-1").split("\r\n")
        _, path, _ = lines[0].split(" ")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        _, kind, number, sent_size, size = path.split("/")
        if kind == "early" and not self.early:
            self.early = True
            self.answer(int(number), int(size), kind)
            self.due = self.world.kernel.now() + SECOND
            return
        if "content-length" in fields:
            length = int(fields["content-length"])
            if len(rest) < length:
                return
            body, self.buffer = rest[:length], rest[length:]
        elif "transfer-encoding" in fields:
            body = b""
            while True:
                line, found, rest = rest.partition(b"\r\n")
                if not found:
                    return
                length = int(line, 16)
                if len(rest) < length + 2:
                    return
                body += rest[:length]
                rest = rest[length + 2 :]
                if length == 0:
                    break
            self.buffer = rest
        else:
            body, self.buffer = b"", rest
        if body != body_of(int(number), int(sent_size)):
            self.world.complain("bytes", f"request {number} came with another body, {len(body)} bytes")
        if not self.early:
            self.answer(int(number), int(size), kind)
        self.early = False
        # The next request may have arrived already.
        self.understand()

    def answer(self, number: int, size: int, kind: str) -> None:
        """Queue the answer."""
        body = body_of(number + 7, size)
        if number % 2:
            whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body
        else:
            chunks = [body[at : at + 5000] for at in range(0, size, 5000)]
            whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            whole += b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
        if kind == "cut":
            whole = whole[: len(whole) - 1 - size // 2]
            self.ends = True
        self.answers.append(whole)


class Web:
    """The client, its requests, and all its connections."""

    def __init__(self, world: World, program: dict[str, Any]) -> None:
        self.world, self.program = world, program
        # Without such a fork there is no trace, because a traced request has further steps.
        traced = any(trigger.startswith("trace") for trigger, _ in program["forks"])
        self.client = HttpClient(
            limits=Limits(connections=LIMIT, per_origin=LIMIT), decode=False, timeout=30.0,
            trace=self.on_trace if traced else None,
        )  # fmt: skip
        self.ours: list[socket.socket] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.connections = self.steps = self.traces = 0
        self.ending = False
        world.parts.append(self)

    async def connect(self, _loop: Any, _origin: Any, _addresses: Any, _local: Any) -> socket.socket:
        """Replaces the client's own connect."""
        await self.step()
        ours, theirs = (socket.socket(socket.AF_UNIX) for _ in range(2))
        listener = socket.socket(socket.AF_UNIX)
        path = f"\0simulation-{os.getpid():08}-{self.connections:04}"
        listener.bind(path)
        listener.listen()
        theirs.close()
        ours.connect(path)
        theirs, _ = listener.accept()
        listener.close()
        for sock in (ours, theirs):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.program["sndbuf"])
        self.connections += 1
        self.ours = [sock for sock in self.ours if sock.fileno() >= 0]
        if len(self.ours) >= LIMIT:
            self.world.complain("limit", f"{len(self.ours) + 1} connections are open at a limit of {LIMIT}")
        self.ours.append(ours)
        self.world.peers.append(Server(self.world, theirs, self))
        await self.step()
        return ours

    def begin(self) -> None:
        """Send the requests, each from its own task."""
        # There is no other hook: the client creates its sockets itself.
        connecting._connect_any = self.connect  # type: ignore[assignment]
        for number, spec in enumerate(self.program["requests"]):
            task = self.world.loop.create_task(self.request(number, spec))
            self.tasks.append(task)
            if spec["cancel"]:
                self.world.loop.call_later(spec["cancel"] / 1e6, task.cancel)
        for trigger, way in self.program["forks"]:
            if trigger.startswith("turn"):
                self.fork_after_turns(int(trigger[4:]), way)
            elif trigger.startswith("at"):
                self.world.loop.call_later(int(trigger[2:]) / 1e6, self.fork, way)

    def fork(self, way: str) -> bool:
        """Fork; True in a child that must return from its callback."""
        self.world.note(f"forks, {way}")
        return fork(self.world, "web", way)

    def fork_after_turns(self, left: int, way: str) -> None:
        if left:
            self.world.loop.call_soon(self.fork_after_turns, left - 1, way)
        else:
            self.fork(way)

    def on_trace(self, _point: Any) -> None:
        """The client's trace callback, called in the middle of its work: a child must not return from it."""
        self.traces += 1
        for trigger, way in self.program["forks"]:
            if trigger == f"trace{self.traces}":
                self.fork("new" if way in ("close", "leave") else way)

    async def step(self) -> None:
        """One of the points at which a coroutine may fork."""
        self.steps += 1
        for trigger, way in self.program["forks"]:
            # A child whose SystemExit went through the client would continue with what the client does then.
            if trigger == f"step{self.steps}" and self.fork("close" if way == "leave" else way):
                await asyncio.Future(loop=self.world.loop)

    async def pieces(self, body: bytes, wait: bool) -> AsyncIterator[bytes]:
        for at in range(0, len(body), 7000):
            if wait:
                await asyncio.sleep(0.001)
            await self.step()
            yield body[at : at + 7000]

    async def request(self, number: int, spec: dict[str, Any]) -> None:
        """Send one request and check its result."""
        await asyncio.sleep(spec["after"] / 1e6)
        kind, size = spec["answer"], spec["size"]
        sent = body_of(number, spec["sends"])
        url = f"http://127.0.0.1/{kind}/{number}/{len(sent)}/{size}"
        body: Any = self.pieces(sent, spec["waits"]) if spec["chunked"] else sent or None
        method = "POST" if sent else "GET"
        received = b""
        await self.step()
        try:
            if not spec["stream"]:
                received = (await self.client.request(method, url, body=body)).body
            else:
                async with self.client.stream(method, url, body=body) as response:
                    received = await self.read(response, spec["stream"], size)
            await self.step()
        except HttpError as error:
            self.world.note(f"request {number}: {error}")
            if kind not in ("cut", "early") and not self.ending and not self.world.shortages:
                self.world.complain("http", f"request {number} ({kind}) failed: {error!r}")
            return
        except asyncio.CancelledError:
            return
        if kind == "cut":
            self.world.complain("loss", f"request {number} was cut off, and looks complete with {len(received)} bytes")
        elif received != body_of(number + 7, size):
            self.world.complain("bytes", f"request {number} ({kind}) was answered with other bytes")

    async def read(self, response: Any, way: str, size: int) -> bytes:
        """Read a streamed body; a further read after a failure must raise again."""
        pieces = []
        try:
            if way == "both":
                async for piece in response:
                    pieces.append(piece)
                    await self.step()
                    break
                pieces.append(await response.read())
            else:
                async for piece in response:
                    pieces.append(piece)
                    await self.step()
                    await asyncio.sleep(0)
        except (HttpError, asyncio.CancelledError) as error:
            try:
                again = await response.read()
            except (HttpError, asyncio.CancelledError):
                raise error from None
            if sum(map(len, pieces)) + len(again) < size:
                self.world.complain("loss", f"after a failure the body ends with {len(again)} bytes, as if complete")
            raise error from None
        return b"".join(pieces)

    # --- the model ------------------------------------------------------------------------------------------------

    def quiet(self, stage: str) -> None:
        """Complain about requests that wait without a reason."""
        waiting = sum(not task.done() for task in self.tasks)
        if waiting:
            self.world.complain("wakeup", f"{waiting} requests wait in stage {stage}, and no time-out is set")

    def release(self) -> None:
        """Nothing was paused."""

    def finish(self) -> None:
        self.ending = True
        self.tasks.append(self.world.loop.create_task(self.client.close()))

    def give_up(self) -> None:
        self.ending = True

    def give_up_later(self) -> None:
        self.tasks.append(self.world.loop.create_task(self.client.close()))

    def check(self) -> None:
        """Complain about what is left."""
        for task in self.tasks:
            if not task.done():
                self.world.complain("end", "a request, or the end of the client, is not done")
            elif not task.cancelled() and task.exception() is not None:
                self.world.complain("crash", repr(task.exception()))
        if any(sock.fileno() >= 0 for sock in self.ours):
            self.world.complain("leak", "a connection is open after the end of the client")
        self.tasks.clear()
        connecting._connect_any = REAL
        self.client = None  # type: ignore[assignment]

