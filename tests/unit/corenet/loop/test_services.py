"""Servers, signals, processes, names, sock_* and TLS on the loop, compared with asyncio where both define the same."""

import asyncio
import os
import random
import signal
import socket
import ssl
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from support.twin import Recorder, connected_pair, loop_factory, since, twin
from support.waiting import turns, until

import corenet

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]


# --- servers ------------------------------------------------------------------------------------------------------


def test_methods_of_the_server_object(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0, start_serving=False)
        assert isinstance(server, asyncio.AbstractServer)
        assert not server.is_serving()
        async with server:
            await server.start_serving()
            assert server.is_serving()
            assert server.get_loop() is loop
            assert isinstance(server.sockets, tuple)
            task = asyncio.create_task(server.serve_forever())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="already being awaited"):
                await server.serve_forever()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert server.sockets == ()
        assert not server.is_serving()
        # Python 3.11's asyncio raises TypeError for its own closed server.
        with pytest.raises((RuntimeError, TypeError)):
            await server.start_serving()

    twin(main())


def test_close_clients_and_abort_clients() -> None:
    async def main() -> None:
        for method in ("close_clients", "abort_clients"):
            ours, theirs, server = await connected_pair()
            getattr(server, method)()
            assert await ours.lost is None
            await theirs.lost
            server.close()
            await server.wait_closed()

    corenet.run(main())


def test_unix_server_and_streams(twin: Twin, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()

        for _ in range(2):
            server = await asyncio.start_unix_server(serve, path)
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"hello\n")
            assert await reader.read() == b"hello\n"
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()

    twin(main())


def test_unix_server_replaces_a_stale_socket_file(twin: Twin, tmp_path: Path) -> None:
    """A socket file without a listener is replaced, any other file is not."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stale, other = str(tmp_path / "stale"), str(tmp_path / "other")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(stale)
        server = await loop.create_unix_server(asyncio.Protocol, stale)
        server.close()
        Path(other).write_text("precious")
        with pytest.raises(OSError, match="is already in use"):
            await loop.create_unix_server(asyncio.Protocol, other)
        assert Path(other).read_text() == "precious"

    twin(main())


def test_unix_socket_file_is_removed_when_asked(tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        path = tmp_path / "socket"
        for cleanup in (True, False):
            server = await loop.create_unix_server(Recorder, path, cleanup_socket=cleanup)  # type: ignore[call-arg]
            server.close()
            assert path.exists() is not cleanup

    corenet.run(main())


def test_arguments_of_servers_are_checked(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(ValueError, match="Neither host/port"):
            await loop.create_server(Recorder)
        with pytest.raises(TypeError, match="SSLContext"):
            await loop.create_server(Recorder, "127.0.0.1", 0, ssl=True)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="only meaningful with ssl"):
            await loop.create_server(Recorder, "127.0.0.1", 0, ssl_handshake_timeout=1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(ValueError, match="Stream Socket"):
            await loop.create_server(Recorder, sock=sock)
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="error while attempting"):
            await loop.create_server(Recorder, "127.0.0.1", taken.getsockname()[1])

    twin(main())


# --- TLS by `ssl=` and `start_tls` --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return server, client


def test_tls_server_and_client(twin: Twin, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(500_000))
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=contexts[0])
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=contexts[1], server_hostname="localhost"
        )
        assert writer.get_extra_info("ssl_object") is not None
        assert writer.get_extra_info("peername") == server.sockets[0].getsockname()
        writer.write(b"x" * 500_000)
        assert len(await reader.readexactly(500_000)) == 500_000
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    twin(main())


def test_start_tls(twin: Twin, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs, server = await connected_pair()
        upgraded = await asyncio.gather(
            loop.start_tls(ours.transport, ours, contexts[0], server_side=True),
            loop.start_tls(theirs.transport, theirs, contexts[1], server_hostname="localhost"),
        )
        for end in upgraded:
            assert end.get_extra_info("cipher")[0] and end.get_extra_info("sslcontext") in contexts
        assert ("DNS", "localhost") in upgraded[1].get_extra_info("peercert")["subjectAltName"]
        upgraded[1].write(b"secret")
        await ours.until(lambda: ours.data == b"secret")
        upgraded[1].close()
        await theirs.lost
        await ours.lost
        server.close()

    twin(main())


def test_failing_handshakes_do_not_stop_the_server(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0, ssl=contexts[0])
        for _ in range(3):
            with socket.create_connection(server.sockets[0].getsockname()) as sock:
                sock.setblocking(False)
                await loop.sock_sendall(sock, b"this is no handshake\r\n\r\n")
                while await loop.sock_recv(sock, 100):
                    pass
        transport, _ = await loop.create_connection(
            asyncio.Protocol, *server.sockets[0].getsockname(), ssl=contexts[1], server_hostname="localhost"
        )
        transport.close()
        server.close()
        await turns()

    corenet.run(main())


# --- sock_* -------------------------------------------------------------------------------------------------------


def test_sock_operations(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        client = socket.socket()
        client.setblocking(False)
        (accepted, peer), _ = await asyncio.gather(
            loop.sock_accept(listener), loop.sock_connect(client, listener.getsockname())
        )
        assert peer == client.getsockname()
        assert accepted.gettimeout() == 0
        payload = random.Random(5).randbytes(3_000_000)

        async def receive() -> bytes:
            parts = []
            while part := await loop.sock_recv(accepted, 65536):
                parts.append(part)
            return b"".join(parts)

        task = asyncio.create_task(receive())
        await loop.sock_sendall(client, payload)
        client.shutdown(socket.SHUT_WR)
        assert await task == payload
        await loop.sock_sendall(accepted, b"back")
        buffer = bytearray(10)
        assert await loop.sock_recv_into(client, buffer) == 4
        for sock in (listener, client, accepted):
            sock.close()

    twin(main())


def test_a_cancelled_sock_recv_loses_no_data_on_a_reused_descriptor(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            one, two = socket.socketpair()
            one.setblocking(False)
            task = asyncio.create_task(loop.sock_recv(one, 10))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            two.send(b"x")
            assert await loop.sock_recv(one, 10) == b"x"
            one.close()
            two.close()

    twin(main())


def test_sock_datagrams(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        task = asyncio.create_task(loop.sock_recvfrom(socks[0], 100))
        await asyncio.sleep(0)
        assert await loop.sock_sendto(socks[1], b"hello", socks[0].getsockname()) == 5
        assert await task == (b"hello", socks[1].getsockname())
        buffer = bytearray(100)
        await loop.sock_sendto(socks[0], b"again", socks[1].getsockname())
        assert await loop.sock_recvfrom_into(socks[1], buffer) == (5, socks[0].getsockname())
        for sock in socks:
            sock.close()

    twin(main())


def test_refused_connection(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            target = listener.getsockname()
        with socket.socket() as sock:
            sock.setblocking(False)
            with pytest.raises(ConnectionRefusedError):
                await loop.sock_connect(sock, target)
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Recorder, *target)

    twin(main())


def test_sock_accept_can_be_cancelled(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            async with asyncio.timeout(30):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(loop.sock_accept(listener), 0.01)

    twin(main())


def test_sendfile(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs, server = await connected_pair()
        with tempfile.TemporaryFile() as file:
            content = random.Random(5).randbytes(2_000_000)
            file.write(content)
            file.flush()
            ours.transport.write(b"head")
            assert await loop.sendfile(ours.transport, file, 100, 1_500_000) == 1_500_000
            ours.transport.write(b"tail")
            await theirs.until(lambda: len(theirs.data) >= 1_500_008)
            assert theirs.data == b"head" + content[100:1_500_100] + b"tail"
        theirs.transport.write(b"still read")
        await ours.until(lambda: ours.data == b"still read")
        ours.transport.close()
        await ours.lost
        await theirs.lost
        server.close()

    twin(main())


# --- names --------------------------------------------------------------------------------------------------------


def test_address_literals_are_not_passed_to_the_resolver() -> None:
    class Refusing:
        async def getaddrinfo(self, host: Any, port: Any, **kwargs: Any) -> Any:
            raise AssertionError(host)

        async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> Any:
            raise AssertionError(sockaddr)

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.set_resolver(Refusing())
        for host in ("127.0.0.1", "::1", "fe80::1%lo", None, b"127.0.0.1"):
            assert await loop.getaddrinfo(host, 80) == socket.getaddrinfo(host, 80)
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        assert await loop.getnameinfo(("127.0.0.1", 80), numeric) == ("127.0.0.1", "80")

    corenet.run(main())


def test_address_literals_are_passed_to_the_c_library_with_ai_numerichost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The C library takes an address with an unknown zone id for a name, and could query DNS for it."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
        assert host is None or flags & socket.AI_NUMERICHOST, f"{host} is looked up on the thread of the loop"
        return real(host, port, family, type, proto, flags)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        for host in ("127.0.0.1", "::1", None):
            assert await loop.getaddrinfo(host, 80) == real(host, 80)
        with pytest.raises(socket.gaierror):
            await loop.getaddrinfo("fe80::1%nowhere", 80)

    corenet.run(main())


def test_names_are_looked_up_by_the_resolver_that_was_set() -> None:
    asked: list[Any] = []
    options: list[dict[str, int]] = []

    class Answering:
        async def getaddrinfo(self, host: Any, port: Any, **kwargs: Any) -> Any:
            asked.append((host, port))
            options.append(kwargs)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> Any:
            return ("name.example", "http")

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.set_resolver(Answering())
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport, _ = await loop.create_connection(asyncio.Protocol, "name.example", port)
        assert asked == [("name.example", port)]
        assert await loop.getnameinfo(("127.0.0.1", 80)) == ("name.example", "http")
        # With only one of the two flags, the host or the service is still looked up.
        for half in (socket.NI_NUMERICHOST, socket.NI_NUMERICSERV):
            assert await loop.getnameinfo(("127.0.0.1", 80), half) == ("name.example", "http")
        wanted = {
            "family": socket.AF_INET6, "type": socket.SOCK_DGRAM, "proto": socket.IPPROTO_UDP,
            "flags": socket.AI_CANONNAME,
        }  # fmt: skip
        await loop.getaddrinfo("name.example", 80, **wanted)
        assert options[-1] == wanted
        transport.close()
        server.close()
        loop.set_resolver(None)
        assert await loop.getaddrinfo("localhost", 1, type=socket.SOCK_STREAM)

    corenet.run(main())


# --- signals ------------------------------------------------------------------------------------------------------


def test_signal_handlers(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        got: asyncio.Queue[str] = asyncio.Queue()
        loop.add_signal_handler(signal.SIGUSR1, got.put_nowait, "one")
        loop.add_signal_handler(signal.SIGUSR1, got.put_nowait, "two")
        os.kill(os.getpid(), signal.SIGUSR1)
        assert await got.get() == "two"
        assert loop.remove_signal_handler(signal.SIGUSR1) is True
        assert loop.remove_signal_handler(signal.SIGUSR1) is False
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
        with pytest.raises(RuntimeError, match="cannot be caught"):
            loop.add_signal_handler(signal.SIGKILL, print)
        with pytest.raises(ValueError, match="invalid signal"):
            loop.add_signal_handler(1000, print)

    twin(main())


def test_interrupt_ends_an_idle_program(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.02, os.kill, os.getpid(), signal.SIGINT)
        await loop.create_future()

    with asyncio.Runner(loop_factory=loop_factory) as runner, pytest.raises(KeyboardInterrupt):
        runner.run(main())


def test_handlers_of_signal_signal_run_while_the_loop_waits() -> None:
    seen: list[int] = []

    async def main() -> None:
        previous = signal.signal(signal.SIGUSR2, lambda number, _frame: seen.append(number))
        try:
            await asyncio.to_thread(os.kill, os.getpid(), signal.SIGUSR2)
            await until(lambda: seen, "the signal's handler")
        finally:
            signal.signal(signal.SIGUSR2, previous)

    corenet.run(main())
    assert seen == [signal.SIGUSR2]


# --- processes ----------------------------------------------------------------------------------------------------


@since(3, 12)  # before, asyncio's loop needs a child watcher
def test_processes(twin: Twin) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "import sys; d = sys.stdin.read(); print(d * 2); sys.exit(3)",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert await process.communicate(b"abc") == (b"abcabc\n", None)
        assert process.returncode == 3
        shell = await asyncio.create_subprocess_shell("kill -9 $$")
        assert await shell.wait() == -9
        sleeper = await asyncio.create_subprocess_exec("sleep", "100")
        sleeper.terminate()
        assert await sleeper.wait() == -signal.SIGTERM
        with pytest.raises(FileNotFoundError):
            await asyncio.create_subprocess_exec("/nonexistent/program")

    twin(main())


def test_subprocess_exec_returns_a_transport_and_passes_keywords_on() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        exited = loop.create_future()

        class Protocol(asyncio.SubprocessProtocol):
            def process_exited(self) -> None:
                exited.set_result(None)

        transport, _ = await loop.subprocess_exec(
            Protocol, "sh", "-c", "umask; exit 7", stdin=None, stdout=None, stderr=None, umask=0o27, process_group=0
        )
        assert transport.get_extra_info("subprocess").pid == transport.get_pid()
        await exited
        assert transport.get_returncode() == 7
        transport.close()

    corenet.run(main())
