"""Bodies that are produced while they are sent: while the response is read, within the request's time, always closed.

Every test runs on asyncio's loop and on ours. Waits end after `WAIT` seconds.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.cycles import left_in_cycles
from support.http_peer import LOOPS, OK, Peer, always_ok, run_on, serving, until
from support.loop_clock import stopped_clock
from support.waiting import spin

from corenet import tls
from corenet.http import (
    ConnectError,
    HttpClient,
    InvalidUrl,
    Limits,
    LocalProtocolError,
    RedirectError,
    ServerDisconnected,
    Timeout,
    TimeoutExceeded,
)
from corenet.limits import HTTP_CLOSE_TIMEOUT, HTTP_UPLOAD_END_TURNS

pytestmark = pytest.mark.parametrize("loop", sorted(LOOPS))

SHORT = 0.05
WAIT = 30.0
LARGE = 40 << 20


class Body:
    """Pieces, then perhaps a stall or an error; records whether it was closed."""

    def __init__(self, *pieces: bytes, stall: bool = False, error: BaseException | None = None) -> None:
        self.pieces = list(pieces)
        self.stall = stall
        self.error = error
        self.given = 0
        self.closed = 0

    def __aiter__(self) -> "Body":
        return self

    async def __anext__(self) -> bytes:
        if self.given < len(self.pieces):
            self.given += 1
            return self.pieces[self.given - 1]
        if self.stall:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1


async def echo(peer: Peer) -> None:
    """Send back what arrives at once: neither side may wait for the other to finish."""
    head = (await peer.reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length: ")[1].split("\r\n")[0])
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
    while length:
        data = await peer.reader.read(65_536)
        length -= len(data)
        await peer.send(data)
    await peer.reader.read()


def bounded(main: Callable[[], Awaitable[Any]]) -> Any:
    async def within() -> Any:
        async with asyncio.timeout(WAIT):
            return await main()

    return within()


async def unanswered(client: HttpClient, url: str, body: Body, streamed: bool) -> None:
    if streamed:
        async with client.stream("POST", url, body=body):
            raise AssertionError("there is no answer")
    await client.post(url, body)


# --- concurrently with the response -----------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", ["async", "plain", "bytes"])
def test_a_server_may_respond_while_it_reads_the_upload(loop: str, streamed: bool, kind: str) -> None:
    piece = bytes(range(256)) * 1024
    count = LARGE // len(piece)

    async def main() -> None:
        body: Any = (
            Body(*[piece] * count) if kind == "async" else iter([piece] * count) if kind == "plain" else piece * count
        )
        fields = {} if kind == "bytes" else {"Content-Length": str(LARGE)}
        async with serving(echo) as server, HttpClient() as client:
            if streamed:
                async with client.stream("POST", server.url, headers=fields, body=body) as response:
                    size = sum([len(got) async for got in response])
            else:
                size = len((await client.post(server.url, body, headers=fields)).body)
            assert size == LARGE

    run_on(loop, bounded(main))


def test_upload_and_response_may_alternate(loop: str) -> None:
    """Each piece is made from the response to the one before."""

    async def main() -> None:
        answers: asyncio.Queue[bytes] = asyncio.Queue()

        async def body() -> AsyncIterator[bytes]:
            yield b"0"
            for _ in range(5):
                yield b"%d" % (int(await answers.get()) + 1)

        async def serve(peer: Peer) -> None:
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(6):
                await peer.send((await peer.reader.readexactly(6)).replace(b" ", b""))
            assert await peer.reader.readexactly(5) == b"0\r\n\r\n"
            await peer.send(b"0\r\n\r\n")
            await peer.request()
            await peer.send(OK)

        async with serving(serve) as server, HttpClient() as client:
            got = b""
            async with client.stream("POST", server.url, body=body()) as response:
                async for piece in response:
                    got += piece
                    answers.put_nowait(piece)
            assert got == b"012345"
            assert (await client.get(server.url)).body == b"ok" and server.connections == 1

    run_on(loop, bounded(main))


@pytest.mark.parametrize("stall", [False, True])
def test_an_early_response_ends_the_upload(loop: str, stall: bool) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
            await peer.reader.read()

        pieces = [b"x"] if stall else [bytes(1 << 16)] * 10_000
        async with serving(serve) as server, HttpClient() as client:
            for streamed in (False, True):
                body = Body(*pieces, stall=True)
                if streamed:
                    async with client.stream("POST", server.url, body=body) as response:
                        assert response.status == 413 and await response.read() == b"no"
                else:
                    assert (await client.post(server.url, body)).status == 413
                assert body.closed == 1 and body.given < 10_000
            assert server.connections == 2
            pool = client._connections.pool
            assert pool is not None
            await until(lambda: pool.total == 0, "both connections are gone")

    run_on(loop, bounded(main))


def test_an_early_response_with_unsent_data_closes_the_connection(loop: str) -> None:
    """The response is there, but 32 MiB of the request are unsent: the next request gets another connection at once."""

    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.send(OK)
            if peer.number == 1:
                await done.wait()

        done = asyncio.Event()
        async with serving(serve) as server, HttpClient(limits=Limits(connections=1)) as client:
            assert (await client.post(server.url, bytes(32 << 20))).body == b"ok"
            assert client._connections.pool is not None and not client._connections.pool.idle
            assert (await client.get(server.url)).body == b"ok"
            assert server.connections == 2
            done.set()

    run_on(loop, bounded(main))


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
@pytest.mark.parametrize("early", [False, True])
def test_a_connection_with_hidden_unsent_data_is_not_reused(loop: str, tmp_path: Path, kind: str, early: bool) -> None:
    """A TLS transport of asyncio reports no queued bytes when the transport below holds what the kernel did not accept.

    Ours counts them: a connection that has sent a large request is reused when the server has read it.
    """
    authority = Authority(tmp_path)
    leaf = authority.leaf("localhost")
    size = 16 << 20 if early else 1 << 20

    async def main() -> None:
        async def serve(peer: Peer) -> None:
            while True:
                head = (await peer.reader.readuntil(b"\r\n\r\n")).lower()
                if not early or peer.number > 1:
                    await peer.reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r")[0]))
                await peer.send(OK)
                if early and peer.number == 1:
                    await done.wait()
                    return

        done = asyncio.Event()
        trusted = tls.client_context(cafile=str(authority.cafile))
        certificate = tls.server_context(leaf.certificate, leaf.key)
        async with (
            serving(serve, certificate) as server,
            HttpClient(tls_context=trusted, limits=Limits(connections=1)) as client,
        ):
            body: Any = bytes(size) if kind == "bytes" else (bytes(size >> 4) for _ in range(16))
            fields = {} if kind == "bytes" else {"Content-Length": str(size)}
            assert (await client.post(server.url, body, headers=fields)).body == b"ok"
            for _ in range(2):
                assert (await client.post(server.url, b"small")).body == b"ok"
            assert server.connections == (1 if loop == "corenet" and not early else 2)
            done.set()

    run_on(loop, bounded(main))


def test_early_responses_do_not_exceed_the_connection_limit(loop: str) -> None:
    """Counted by the server: open connections when a further one arrives."""

    async def main() -> None:
        up: dict[Peer, None] = {}
        most = 0

        async def serve(peer: Peer) -> None:
            nonlocal most
            up[peer] = None
            most = max(most, sum(other.is_up for other in up))
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.send(OK)
            # Never read and never closed by us.
            await done.wait()

        done = asyncio.Event()
        async with serving(serve) as server, HttpClient(limits=Limits(connections=4)) as client:

            async def one() -> None:
                assert (await client.post(server.url, (bytes(1 << 20) for _ in range(16)))).body == b"ok"
                assert (await client.post(server.url, bytes(8 << 20))).body == b"ok"

            await asyncio.gather(*(one() for _ in range(10)))
            assert server.connections == 20 and most <= 4
            done.set()

    run_on(loop, bounded(main))


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeout", "told"),
    [
        (Timeout(read=SHORT), "the request body yielded nothing for 0.05 s"),
        (Timeout(total=SHORT), "longer than its total time, waiting for its body"),
    ],
)
@pytest.mark.parametrize("pieces", [0, 1])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_stalling_body_ends_at_the_timeout(
    loop: str, timeout: Timeout, told: str, pieces: int, streamed: bool
) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.reader.read()

        async with serving(serve) as server, HttpClient(timeout=timeout) as client:
            body = Body(*[b"x"] * pieces, stall=True)
            with pytest.raises(TimeoutExceeded, match=told) as caught:
                await unanswered(client, server.url, body, streamed)
            assert caught.value.phase == "request" and body.closed == 1

    run_on(loop, bounded(main))


def test_a_body_that_waits_in_other_tasks_is_closed_before_a_timeout_is_raised(loop: str) -> None:
    closed = []

    async def within(tasks: int) -> None:
        await (asyncio.ensure_future(within(tasks - 1)) if tasks else asyncio.Event().wait())

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"x"
            await within(5)
        finally:
            closed.append(True)

    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.reader.read()

        async with serving(serve) as server, HttpClient(timeout=SHORT) as client:
            with pytest.raises(TimeoutExceeded):
                await client.post(server.url, body())
            assert closed

    run_on(loop, bounded(main))


@pytest.mark.parametrize("piece", [b"", b"x", bytes(1 << 16)])
@pytest.mark.parametrize("plain", [False, True])
def test_a_body_that_never_waits_ends_at_the_total_timeout(loop: str, piece: bytes, plain: bool) -> None:
    """The body never yields to the loop, and the server accepts all of it."""
    stopped = ExitStack()

    def pieces() -> Iterator[bytes]:
        stopped.close()  # the timeout is not to end before there is a connection
        while True:
            yield piece

    async def later() -> AsyncIterator[bytes]:
        for one in pieces():
            yield one

    async def main() -> None:
        async def serve(peer: Peer) -> None:
            while await peer.reader.read(1 << 20):
                pass

        async with serving(serve) as server, HttpClient() as client:
            with stopped:
                stopped.enter_context(stopped_clock())
                with pytest.raises(TimeoutExceeded, match="total time"):
                    await client.post(server.url, pieces() if plain else later(), timeout=SHORT * 2)

    run_on(loop, bounded(main))


# --- errors and closing -----------------------------------------------------------------------------------------------


class OwnError(Exception):
    pass


@pytest.mark.parametrize("error", [OwnError("mine"), OSError(5, "disk"), asyncio.CancelledError()])
@pytest.mark.parametrize("streamed", [False, True])
def test_an_exception_of_the_body_is_raised_by_the_request(loop: str, error: BaseException, streamed: bool) -> None:
    async def main() -> None:
        ended = asyncio.Event()

        async def serve(peer: Peer) -> None:
            try:
                await peer.request()
            finally:
                ended.set()

        async with serving(serve) as server, HttpClient() as client:
            body = Body(b"x" * 1000, error=error)
            with pytest.raises(type(error)) as caught:
                await unanswered(client, server.url, body, streamed)
            assert body.closed == 1
            if not isinstance(error, asyncio.CancelledError):
                assert caught.value is error
            # The server must not take half of the body for all of it.
            await ended.wait()
            pool = client._connections.pool
            assert pool is not None
            await until(lambda: pool.total == 0, "the connection is gone")

    run_on(loop, bounded(main))


class OfAProgram(ConnectError):
    """An error that cannot be made again from its arguments."""

    __slots__ = ("number",)

    def __new__(cls, number: int) -> "OfAProgram":
        return super().__new__(cls)

    def __init__(self, number: int) -> None:
        super().__init__("of a program")
        self.number = number


def test_an_error_of_the_body_that_looks_like_ours_is_raised_unchanged(loop: str) -> None:
    """A body may be the response to another request."""

    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.reader.read()

        async with serving(serve) as server, HttpClient() as client:
            error = OfAProgram(7)
            with pytest.raises(OfAProgram) as caught:
                await client.post(server.url, Body(b"x" * 1000, error=error))
            assert caught.value is error and error.number == 7
            assert any(one.name == "__anext__" for one in caught.traceback)

    run_on(loop, bounded(main))


def test_an_exception_of_the_body_while_the_response_is_read(loop: str) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield b"x"
            await go.wait()
            raise OwnError

        async def serve(peer: Peer) -> None:
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nha")
            await peer.reader.read()

        async with serving(serve) as server, HttpClient() as client:
            async with client.stream("POST", server.url, body=body()) as response:
                assert await anext(response) == b"ha"
                go.set()
                for _ in range(2):
                    with pytest.raises(OwnError):
                        await response.read()

    run_on(loop, bounded(main))


@pytest.mark.parametrize(
    "case", ["done", "url", "refused", "field", "length", "disconnect", "cancel", "redirect", "left", "closed", "pool"]
)
def test_the_body_is_closed_whatever_happens(loop: str, case: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            if case == "disconnect":
                await peer.reader.readuntil(b"\r\n\r\n")
                return
            if case == "redirect":
                await peer.request()
                await peer.send(b"HTTP/1.1 307 Go\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n")
            if case == "left":
                await peer.reader.readuntil(b"\r\n\r\n")
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
            if case in ("left", "cancel", "closed", "pool"):
                await peer.reader.read()
            else:
                await always_ok(peer)

        body = Body(b"one", b"two", stall=case in ("left", "cancel", "closed", "disconnect"))
        async with serving(serve) as server, HttpClient(limits=Limits(connections=1)) as client:
            post = client.request
            if case == "done":
                assert (await post("POST", server.url, body=body)).body == b"ok"
            elif case == "url":
                with pytest.raises(InvalidUrl):
                    await post("POST", "nothing", body=body)
            elif case == "refused":
                with pytest.raises(ConnectError):
                    await post("POST", "http://127.0.0.1:1/", body=body)
            elif case == "field":
                with pytest.raises(LocalProtocolError):
                    await post("POST", server.url, body=body, headers={"X": "a\r\nb"})
            elif case == "length":
                with pytest.raises(LocalProtocolError, match="Content-Length"):
                    await post("POST", server.url, body=body, headers={"Content-Length": "5"})
            elif case == "disconnect":
                with pytest.raises(ServerDisconnected):
                    await post("POST", server.url, body=body)
            elif case == "redirect":
                with pytest.raises(RedirectError, match="a stream"):
                    await post("POST", server.url, body=body)
            elif case == "left":
                async with client.stream("POST", server.url, body=body) as response:
                    assert response.status == 200
            elif case == "pool":
                first = asyncio.ensure_future(client.get(server.url))
                await asyncio.sleep(0)
                with pytest.raises(TimeoutExceeded):
                    await post("POST", server.url, body=body, timeout=Timeout(connect=SHORT))
                first.cancel()
            else:
                task = asyncio.ensure_future(post("POST", server.url, body=body))
                await until(lambda: body.given == 2, "the upload continues")
                if case == "cancel":
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                else:
                    await client.close()
                    with pytest.raises(LocalProtocolError, match="client was closed"):
                        await task
            assert body.closed == 1

    run_on(loop, bounded(main))


@pytest.mark.parametrize("turns", range(14))
def test_a_cancel_in_any_iteration_closes_the_body(loop: str, turns: int) -> None:
    async def main() -> None:
        body = Body(b"one", b"two", b"three")
        async with serving(always_ok) as server, HttpClient() as client:
            task = asyncio.ensure_future(client.post(server.url, body))
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.cancel() and turns > 0:
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert body.closed == 1
            assert (await client.get(server.url)).body == b"ok"
        await asyncio.wait((task,))

    run_on(loop, bounded(main))


@pytest.mark.parametrize("turns", range(1, 14))
def test_a_cancel_of_all_tasks_in_any_iteration_closes_the_body(loop: str, turns: int) -> None:
    """As the end of the loop does, so also of an upload before its first step."""
    async def main() -> None:
        body = Body(b"one", b"two", b"three")
        async with serving(always_ok) as server, HttpClient() as client:
            before = asyncio.all_tasks()
            task = asyncio.ensure_future(client.post(server.url, body))
            for _ in range(turns):
                await asyncio.sleep(0)
            for other in asyncio.all_tasks() - before:
                if other is task or other.get_coro().__qualname__ == "Upload._run":  # type: ignore[union-attr]
                    other.cancel()
            await asyncio.wait((task,))
            assert body.closed == 1

    run_on(loop, bounded(main))


def test_generators_are_closed_and_files_are_not(loop: str) -> None:
    ended = []

    def pieces() -> Iterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            ended.append(True)

    class File:
        closed = False

        def __iter__(self) -> Iterator[bytes]:
            return iter([b"line\n"])

        def close(self) -> None:
            self.closed = True

    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.send(OK)
            await peer.reader.read()

        async with serving(serve) as server, HttpClient() as client:
            assert (await client.post(server.url, pieces())).body == b"ok"
            assert ended == [True]
        async with serving(always_ok) as server, HttpClient() as client:
            file = File()
            assert (await client.post(server.url, file)).body == b"ok"
            assert not file.closed

    run_on(loop, bounded(main))


class Stubborn:
    """A body that ignores its cancellation until `go` is set. `waits`: it has been asked for more than its first
    octet; `ended`: it was asked again after `go`."""

    def __init__(self) -> None:
        self.go, self.waits = asyncio.Event(), asyncio.Event()
        self.ended = False

    async def body(self) -> AsyncIterator[bytes]:
        yield b"x"
        while not self.go.is_set():
            self.waits.set()
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                continue
        yield b"y"
        self.ended = True


async def answer_at_once(peer: Peer) -> None:
    """Answer when the head of the request has come, and read the rest."""
    await peer.reader.readuntil(b"\r\n\r\n")
    await peer.send(OK)
    await peer.reader.read()


def test_an_exception_of_a_stopped_body_is_reported(loop: str) -> None:
    async def main() -> list[Any]:
        heard: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context))

        async def body() -> AsyncIterator[bytes]:
            try:
                yield b"x"
                await asyncio.Event().wait()
            finally:
                raise OwnError

        async with serving(answer_at_once) as server, HttpClient() as client:
            assert (await client.post(server.url, body())).body == b"ok"
        return heard

    (told,) = run_on(loop, bounded(main))
    assert isinstance(told["exception"], OwnError) and "when it was closed" in told["message"]


def test_a_body_that_does_not_end_is_abandoned_and_reported(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from corenet.http import upload
    monkeypatch.setattr(upload, "HTTP_CLOSE_TIMEOUT", 0)

    async def main() -> list[Any]:
        heard: list[Any] = []
        stubborn = Stubborn()
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context))

        async with serving(answer_at_once) as server, HttpClient() as client:
            assert (await client.post(server.url, stubborn.body())).body == b"ok"
            assert len(upload._left_behind) == 1
            stubborn.go.set()
            await until(lambda: not upload._left_behind, "the body ended at last")
        return heard

    (told,) = run_on(loop, bounded(main))
    assert "did not end in time" in told["message"]


@pytest.mark.parametrize("timeout", [Timeout(total=10.0), Timeout(read=10.0)], ids=["total", "read"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_body_that_ignores_its_cancellation_does_not_delay_a_timeout(
    loop: str, timeout: Timeout, streamed: bool
) -> None:
    """The clock stands still after the timeout. The body ends by itself; one that takes too long is reported."""
    from corenet.http import upload

    async def main() -> list[Any]:
        heard: list[Any] = []
        stubborn, aborted = Stubborn(), asyncio.Event()
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context))

        async def serve(peer: Peer) -> None:
            with pytest.raises(ConnectionResetError):
                await peer.reader.read()
            aborted.set()

        async with serving(serve) as server, HttpClient(timeout=timeout) as client:
            with stopped_clock() as clock:
                task = asyncio.ensure_future(unanswered(client, server.url, stubborn.body(), streamed))  # type: ignore[arg-type]
                await spin(stubborn.waits.is_set, "a body that waits")
                clock.move(10.0)
                await spin(task.done, "the timeout", 5.0)
                with pytest.raises(TimeoutExceeded, match="body"):
                    await task
                assert len(upload._left_behind) == 1 and not heard
                clock.move(HTTP_CLOSE_TIMEOUT)
                await spin(lambda: bool(heard), "the report")
                stubborn.go.set()
                await spin(lambda: not upload._left_behind, "the end of the body")
            await aborted.wait()
        assert not stubborn.ended, "nothing more is taken from a body that was stopped"
        return heard

    (told,) = run_on(loop, bounded(main))
    assert "did not end in time" in told["message"]


@pytest.mark.parametrize("again", [1, 2, 8, HTTP_UPLOAD_END_TURNS - 1])
def test_a_body_that_ignores_its_cancellation_is_kept_and_reported_after_a_second_cancel(loop: str, again: int) -> None:
    """The request does not wait any more. The loop has only a weak reference to the task of the body."""
    from corenet.http import upload

    async def main() -> list[Any]:
        heard: list[Any] = []
        stubborn = Stubborn()
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context))

        async def serve(peer: Peer) -> None:
            with pytest.raises(ConnectionResetError):
                await peer.reader.read()

        async with serving(serve) as server, HttpClient() as client:
            with stopped_clock() as clock:
                task = asyncio.ensure_future(client.post(server.url, stubborn.body()))
                await spin(stubborn.waits.is_set, "a body that waits")
                task.cancel()
                for _ in range(again):
                    await asyncio.sleep(0)
                assert not task.done()
                task.cancel()
                await spin(task.done, "the end of the request")
                assert len(upload._left_behind) == 1 and not heard
                clock.move(HTTP_CLOSE_TIMEOUT)
                await spin(lambda: bool(heard), "the report")
                stubborn.go.set()
                await spin(lambda: not upload._left_behind, "the end of the body")
        return heard

    (told,) = run_on(loop, bounded(main))
    assert "did not end in time" in told["message"]


def test_a_response_waits_for_its_body_until_the_deadline(loop: str) -> None:
    from corenet.http import upload

    total = HTTP_CLOSE_TIMEOUT / 2

    async def main() -> None:
        stubborn = Stubborn()

        async with serving(answer_at_once) as server, HttpClient() as client:
            with stopped_clock() as clock:
                task = asyncio.ensure_future(client.post(server.url, stubborn.body(), timeout=total))
                await spin(lambda: upload._left_behind, "a body that is waited for")
                clock.move(total * 0.9)
                for _ in range(20):
                    await asyncio.sleep(0)
                assert not task.done()
                clock.move(total * 0.2)
                await spin(task.done, "the response", 5.0)
                stubborn.go.set()
                await spin(lambda: not upload._left_behind, "the end of the body")
            assert (await task).body == b"ok"

    run_on(loop, bounded(main))


def test_a_body_that_ends_after_its_timeout_leaves_nothing(loop: str) -> None:
    """Neither in `_left_behind` nor in reference cycles."""
    from corenet.http import upload

    async def main() -> list[str]:
        async def serve(peer: Peer) -> None:
            await done.wait()  # without reading: the error would be in a cycle with its reader

        done = asyncio.Event()
        async with serving(serve) as server, HttpClient(timeout=Timeout(total=1.0)) as client:

            async def operation() -> None:
                stubborn = Stubborn()

                with stopped_clock() as clock:
                    task = asyncio.ensure_future(client.post(server.url, stubborn.body()))
                    await spin(stubborn.waits.is_set, "a body that waits")
                    clock.move(1.0)
                    await asyncio.wait((task,))
                    assert isinstance(task.exception(), TimeoutExceeded)
                    stubborn.go.set()
                    await spin(lambda: not upload._left_behind, "the end of the body")

            found = await left_in_cycles(operation)
            done.set()
            return found

    # asyncio's transports are in cycles of their own.
    ours = {"Connection", "Future", "Task", "TimeoutExceeded", "Upload", "async_generator", "traceback"}
    assert not ours & set(run_on(loop, bounded(main)))
