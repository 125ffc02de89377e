"""The client through proxies, to Unix sockets and from local addresses: what each peer gets to see, and failures.

The proxies are ours and follow a script; `tests/integration/test_http_proxies.py` has real ones.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.http_peer import LOOPS, OK, Peer, Server, always_ok, run_on, serving, until

from corenet import tls
from corenet.http import (
    ConnectError,
    HttpClient,
    Limits,
    Proxies,
    Proxy,
    ProxyError,
    Timeout,
    TimeoutExceeded,
    TlsError,
    TracePoint,
)
from corenet.http.connection import Connection
from corenet.http.tunnel import ProxyStream

pytestmark = pytest.mark.parametrize("loop", sorted(LOOPS))

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
BASIC = "Basic dXNlcjpwYXNz"


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def relay(peer: Peer, host: str, port: int) -> None:
    """Move bytes both ways until both sides have ended or the task is cancelled."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        await asyncio.gather(pump(peer.reader, writer), pump(reader, peer.writer))
    finally:
        writer.close()


class TunnelProxy:
    """Answers CONNECT, and relays to the requested port, always on 127.0.0.1."""

    def __init__(self) -> None:
        self.heads: list[tuple[str, dict[str, str]]] = []

    async def serve(self, peer: Peer) -> None:
        line, headers, _ = await peer.request()
        self.heads.append((line, headers))
        await peer.send(ESTABLISHED)
        await relay(peer, "127.0.0.1", int(line.split()[1].rpartition(":")[2]))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_requests_of_http_are_forwarded_in_the_absolute_form(loop: str) -> None:
    async def main() -> None:
        told: list[tuple[str, dict[str, str], bytes]] = []

        async def serve(peer: Peer) -> None:
            while True:
                told.append(await peer.request())
                await peer.send(OK)

        async with serving(serve) as proxy:
            async with HttpClient(proxy=f"http://user:pass@127.0.0.1:{proxy.port}") as client:
                # No name is resolved here: this one does not exist.
                for _ in range(2):
                    assert (await client.get("http://origin.invalid/a?b")).body == b"ok"
                assert (await client.post("http://origin.invalid/", b"x")).body == b"ok"
            assert proxy.connections == 1
        assert [line for line, _, _ in told] == [
            "GET http://origin.invalid/a?b HTTP/1.1", "GET http://origin.invalid/a?b HTTP/1.1",
            "POST http://origin.invalid/ HTTP/1.1",
        ]  # fmt: skip
        assert all(fields["host"] == "origin.invalid" and fields["proxy-authorization"] == BASIC
                   for _, fields, _ in told)  # fmt: skip

    run_on(loop, main())


@pytest.mark.parametrize("secure", [False, True])
def test_requests_of_https_go_through_a_tunnel(loop: str, authority: Authority, secure: bool) -> None:
    async def main() -> None:
        told: list[tuple[str, dict[str, str], bytes]] = []
        points: list[TracePoint] = []

        async def serve(peer: Peer) -> None:
            while True:
                told.append(await peer.request())
                await peer.send(OK)

        leaf = authority.leaf("localhost", "127.0.0.1")
        server_tls = tls.server_context(leaf.certificate, leaf.key)
        tunnel = TunnelProxy()
        trusting = tls.client_context(cafile=authority.cafile)
        async with (
            serving(serve, tls=server_tls) as origin,
            serving(tunnel.serve, tls=server_tls if secure else None) as proxy,
        ):
            way = Proxy(f"http{'s' if secure else ''}://user:pass@127.0.0.1:{proxy.port}", tls_context=trusting)
            async with HttpClient(
                tls_context=trusting, proxy=way, trace=points.append, headers={"Proxy-Authorization": "mine"}
            ) as client:
                for _ in range(2):
                    response = await client.get(origin.url + "/x")
                    assert response.body == b"ok" and response.url == origin.url + "/x"
            assert proxy.connections == origin.connections == 1
        assert [line for line, _, _ in told] == ["GET /x HTTP/1.1"] * 2
        assert all("proxy-authorization" not in fields for _, fields, _ in told)
        line, fields = tunnel.heads[0]
        assert line == f"CONNECT localhost:{origin.port} HTTP/1.1"
        assert fields == {"host": f"localhost:{origin.port}", "proxy-authorization": BASIC}
        names = [point.name for point in points if point.phase == "done"]
        assert names == ["connect", "proxy", "tls", "request", "response", "request", "response"]
        assert all("pass" not in str(point) for point in points)

    run_on(loop, main())


@pytest.mark.parametrize("as_default", [False, True])
def test_only_a_client_without_a_proxy_sends_its_credentials_to_an_origin(loop: str, as_default: bool) -> None:
    """Whatever else decides the route: curl sends the field, and some gateways ask for it."""
    ways: list[tuple[dict[str, Any], bool]] = [
        ({}, True),
        ({"local_address": "127.0.0.1"}, True),
        ({"connect_to": "127.0.0.1"}, True),
        ({"proxy": Proxies(no_proxy="x")}, True),
        ({"proxy": Proxies(https="127.0.0.1:1")}, False),
        ({"proxy": Proxies(http="127.0.0.1:1", no_proxy="*")}, False),
    ]

    async def main() -> None:
        told: list[tuple[str, dict[str, str], bytes]] = []

        async def serve(peer: Peer) -> None:
            while True:
                told.append(await peer.request())
                await peer.send(OK)

        mine = {"PROXY-Authorization": "mine", "X-Other": "sent"}
        async with serving(serve) as origin:
            for way, sends in ways:
                async with HttpClient(headers=mine if as_default else (), **way) as client:
                    for body in (None, b"x"):
                        given = {} if as_default else mine
                        assert (await client.request("POST", origin.url, body=body, headers=given)).body == b"ok"
                        _, fields, _ = told.pop()
                        assert fields["x-other"] == "sent" and fields.get("proxy-authorization") == (
                            "mine" if sends else None
                        ), way

    run_on(loop, main())


def test_an_https_proxy_forwards_requests_of_http(loop: str, authority: Authority) -> None:
    async def main() -> None:
        leaf = authority.leaf("127.0.0.1")
        async with serving(always_ok, tls=tls.server_context(leaf.certificate, leaf.key)) as proxy:
            way = Proxy(f"https://127.0.0.1:{proxy.port}", tls_context=tls.client_context(cafile=authority.cafile))
            async with HttpClient(proxy=way) as client:
                for _ in range(2):
                    assert (await client.get("http://origin.invalid/")).body == b"ok"
                # The client checks for received but undelivered TLS data before it reuses the connection.
                [opened] = client._connections.open
                assert isinstance(opened, Connection) and opened.secure
            assert proxy.connections == 1

    run_on(loop, main())


REFUSALS = [
    (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 3\r\n\r\nbad", 407, "refused the tunnel: 407"),
    (b"HTTP/1.1 302 Found\r\nLocation: http://evil/\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n", 302, "302 Found"),
    (b"HTTP/1.1 502 x\r\nContent-Length: 1000000000\r\n\r\n", 502, "502"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 0, "sent bytes before"),
    (b"SSH-2.0-OpenSSH\r\n\r\n", 0, "response to CONNECT"),
    (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 0, "response to CONNECT"),
    (b"HTTP/1.1 103 x\r\n\r\n" * 20 + ESTABLISHED, 0, "response to CONNECT"),
    (b"HTTP/1.1 200 OK\r\n", 0, "closed the connection"),
    (b"", 0, "closed the connection"),
]


@pytest.mark.parametrize(("answer", "status", "reason"), REFUSALS)
def test_a_response_to_connect_is_never_the_origins_response(
    loop: str, answer: bytes, status: int, reason: str
) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(answer)

        points: list[TracePoint] = []
        async with serving(serve) as proxy:
            # One connection in all: the slot of each failure is free for the next request.
            limits = Limits(connections=1)
            async with HttpClient(proxy=f"127.0.0.1:{proxy.port}", limits=limits, trace=points.append) as client:
                for _ in range(2):
                    with pytest.raises(ProxyError, match=reason) as refused:
                        await client.get("https://origin.invalid/")
                    assert refused.value.status == status
            assert proxy.connections == 2
        assert [point.name for point in points if point.phase == "failed"] == ["proxy", "proxy"]

    run_on(loop, main())


@pytest.mark.parametrize("close", [asyncio.StreamWriter.close, asyncio.StreamWriter.write_eof])
def test_a_tunnel_that_is_closed_at_once_is_an_error(loop: str, close: Callable[[asyncio.StreamWriter], None]) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            peer.writer.write(ESTABLISHED)
            close(peer.writer)
            await peer.reader.read()

        limits = Limits(connections=1)
        async with serving(serve) as proxy, HttpClient(proxy=f"127.0.0.1:{proxy.port}", limits=limits) as client:
            for _ in range(2):
                # Noticed before the handshake or in it.
                with pytest.raises((ProxyError, TlsError)):
                    await client.get("https://origin.invalid/")

    run_on(loop, main())


@pytest.mark.parametrize(("sent", "reason"), [(b"", "closed the tunnel"), (b"early", "sent bytes")])
def test_bytes_or_end_between_tunnel_and_handshake_are_errors(loop: str, sent: bytes, reason: str) -> None:
    """For example while the context is made in a thread."""

    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.send(sent)
            if sent:
                await peer.reader.read()

        async with serving(serve) as proxy:
            running = asyncio.get_running_loop()
            stream = ProxyStream(running)
            await running.create_connection(lambda: stream, "127.0.0.1", proxy.port)
            await until(lambda: stream._ended or stream._early, "what the proxy does")
            with pytest.raises(ProxyError, match=reason):
                await stream.start_tls(asyncio.Protocol(), tls.client_context(verify=False), {})
            with pytest.raises(ProxyError, match=reason):
                stream.hand_over(asyncio.Protocol())
            await stream.discard()

    run_on(loop, main())


def test_1xx_before_the_tunnel_is_skipped(loop: str, authority: Authority) -> None:
    async def main() -> None:
        leaf = authority.leaf("localhost")

        async def serve(peer: Peer) -> None:
            line, _, _ = await peer.request()
            await peer.send(b"HTTP/1.1 103 Early\r\n\r\n" + ESTABLISHED)
            await relay(peer, "127.0.0.1", int(line.split()[1].rpartition(":")[2]))

        async with (
            serving(always_ok, tls=tls.server_context(leaf.certificate, leaf.key)) as origin,
            serving(serve) as proxy,
            HttpClient(
                proxy=f"127.0.0.1:{proxy.port}", tls_context=tls.client_context(cafile=authority.cafile)
            ) as client,
        ):
            assert (await client.get(origin.url)).body == b"ok"

    run_on(loop, main())


def test_a_wrong_certificate_in_the_tunnel_is_refused(loop: str, authority: Authority) -> None:
    async def main() -> None:
        leaf = authority.leaf("elsewhere.example")
        tunnel = TunnelProxy()
        async with (
            serving(always_ok, tls=tls.server_context(leaf.certificate, leaf.key)) as origin,
            serving(tunnel.serve) as proxy,
            HttpClient(
                proxy=f"127.0.0.1:{proxy.port}",
                tls_context=tls.client_context(cafile=authority.cafile),
                limits=Limits(connections=1),
            ) as client,
        ):
            for _ in range(2):
                with pytest.raises(TlsError, match="TLS with localhost") as refused:
                    await client.get(origin.url)
                assert refused.value.certificate
            await until(lambda: proxy.connections == 2, "both attempts")

    run_on(loop, main())


@asynccontextmanager
async def silent() -> AsyncIterator[Server]:
    async def serve(peer: Peer) -> None:
        await peer.reader.read()

    async with serving(serve) as server:
        yield server


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_a_silent_proxy_ends_at_the_timeout(loop: str, scheme: str) -> None:
    async def main() -> None:
        async with silent() as proxy:
            client = HttpClient(
                proxy=f"{scheme}://127.0.0.1:{proxy.port}",
                timeout=Timeout(connect=0.05),
                limits=Limits(connections=1),
            )
            async with client:
                for _ in range(2):
                    with pytest.raises(TimeoutExceeded) as late:
                        await client.get("https://origin.invalid/")
                    assert late.value.phase == "proxy"

    run_on(loop, main())
    gc.collect()


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_socks5_resolves_locally_and_socks5h_at_the_proxy(loop: str, scheme: str) -> None:
    async def main() -> None:
        asked: list[bytes] = []

        async def serve(peer: Peer) -> None:
            assert await peer.reader.readexactly(4) == b"\x05\x02\x00\x02"
            await peer.send(b"\x05\x02")
            assert await peer.reader.readexactly(11) == b"\x01\x04user\x04pass"
            await peer.send(b"\x01\x00")
            kind = (await peer.reader.readexactly(4))[3]
            size = {1: 4, 4: 16}.get(kind) or (await peer.reader.readexactly(1))[0]
            asked.append(bytes((kind,)) + await peer.reader.readexactly(size))
            port = int.from_bytes(await peer.reader.readexactly(2), "big")
            await peer.send(b"\x05\x00\x00\x01" + bytes(6))
            await relay(peer, "127.0.0.1", port)

        async with serving(always_ok) as origin, serving(serve) as proxy:
            async with HttpClient(proxy=f"{scheme}://user:pass@127.0.0.1:{proxy.port}") as client:
                for _ in range(2):
                    assert (await client.get(f"http://localhost:{origin.port}/")).body == b"ok"
            assert proxy.connections == origin.connections == 1
        if scheme == "socks5h":
            assert asked == [b"\x03localhost"]
        else:
            assert asked in ([b"\x01\x7f\0\0\1"], [b"\x04" + bytes(15) + b"\1"])

    run_on(loop, main())


def test_socks5_bytes_after_the_reply_are_not_the_origins(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.reader.readexactly(3)
            await peer.send(b"\x05\x00")
            await peer.reader.readexactly(10)
            await peer.send(b"\x05\x00\x00\x01" + bytes(6) + OK)

        async with serving(serve) as proxy, HttpClient(proxy=f"socks5://127.0.0.1:{proxy.port}") as client:
            with pytest.raises(ProxyError, match="more bytes"):
                await client.get("http://127.0.0.1:9/")

    run_on(loop, main())


def test_the_environment_is_read_only_with_trust_env(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving(always_ok) as proxy, serving(always_ok) as origin:
            monkeypatch.setenv("http_proxy", f"127.0.0.1:{proxy.port}")
            monkeypatch.setenv("no_proxy", "127.0.0.2")
            async with HttpClient() as client:
                await client.get(origin.url)
            assert (proxy.connections, origin.connections) == (0, 1)
            async with HttpClient(trust_env=True) as client:
                await client.get("http://origin.invalid/")
            assert (proxy.connections, origin.connections) == (1, 1)
        with pytest.raises(ValueError, match="trust_env"):
            HttpClient(trust_env=True, proxy="a")

    run_on(loop, main())


def test_one_client_uses_proxies_by_scheme_and_host(loop: str) -> None:
    async def main() -> None:
        async with serving(always_ok) as proxy, serving(always_ok) as origin:
            proxies = Proxies(http=f"127.0.0.1:{proxy.port}", no_proxy="127.0.0.0/8")
            async with HttpClient(proxy=proxies) as client:
                await client.get(origin.url)
                await client.get("http://origin.invalid/")
            assert (proxy.connections, origin.connections) == (1, 1)

    run_on(loop, main())


@pytest.mark.parametrize("name", ["socket", "s"])
def test_requests_over_a_unix_socket(loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    async def main() -> None:
        monkeypatch.chdir(tmp_path)
        path = name if name == "s" else str(tmp_path / name)
        heads: list[bytes] = []

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(OK)
            await reader.read()
            writer.close()

        server = await asyncio.start_unix_server(accept, path)
        async with HttpClient(unix_socket=path) as client:
            # The name is not resolved; it is for the Host field.
            response = await client.get("http://docker.invalid/info")
            assert response.body == b"ok" and response.connection.peer == ("", 0)
        server.close()
        assert b"GET /info HTTP/1.1\r\nHost: docker.invalid\r\n" in heads[0]
        async with HttpClient(unix_socket=str(tmp_path / "absent")) as client:
            with pytest.raises(ConnectError, match="absent: No such file"):
                await client.get("http://docker.invalid/info")

    run_on(loop, main())


def test_connections_to_a_given_address(loop: str) -> None:
    """No name is looked up, and Host has that of the URL."""

    async def main() -> None:
        heads: list[bytes] = []

        async def serve(peer: Peer) -> None:
            heads.append(await peer.reader.readuntil(b"\r\n\r\n"))
            peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await peer.writer.drain()

        async with serving(serve) as server:
            port = server.url.rsplit(":", 1)[1].rstrip("/")
            async with HttpClient(connect_to="127.0.0.1") as client:
                assert (await client.get(f"http://no-such-name.invalid:{port}/x")).body == b"ok"
            assert f"Host: no-such-name.invalid:{port}\r\n".encode() in heads[0]
            async with HttpClient(connect_to="127.0.0.9", local_address="::1") as client:
                with pytest.raises(ConnectError, match="no address of the family"):
                    await client.get(server.url)

    run_on(loop, main())


def test_requests_from_a_local_address(loop: str) -> None:
    async def main() -> None:
        peers: list[str] = []

        async def serve(peer: Peer) -> None:
            peers.append(peer.writer.get_extra_info("peername")[0])
            await always_ok(peer)

        async with serving(serve) as server:
            async with HttpClient(local_address="127.0.0.9") as client:
                await client.get(server.url)
            assert peers == ["127.0.0.9"]
            async with HttpClient(local_address="::1") as client:
                with pytest.raises(ConnectError, match="no address of the family"):
                    await client.get(server.url)

    run_on(loop, main())
