"""The client against a real nginx over TLS, on asyncio's loop and on ours.

The access log of nginx says on which connection each request came. Without the
Debian package `nginx-light` (or any nginx) the tests are skipped, and say so.
"""

import asyncio
import hashlib
import ssl
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from support.certs import Authority
from support.http_peer import LOOPS, Peer, run_on, serving
from support.nginx import BIG, Nginx, find_nginx

from corenet import tls
from corenet.http import (
    HttpClient,
    Limits,
    RedirectError,
    RemoteProtocolError,
    ServerDisconnected,
    Timeout,
    TimeoutExceeded,
    TlsError,
    TracePoint,
)

pytestmark = [pytest.mark.integration, pytest.mark.parametrize("loop", sorted(LOOPS))]


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    program = find_nginx()
    if program is None:
        pytest.skip("nginx is not installed; the Debian package is nginx-light")
    with Nginx(program, tmp_path_factory.mktemp("nginx")) as running:
        yield running


def client_for(nginx: Nginx, **options: object) -> HttpClient:
    return HttpClient(tls_context=tls.client_context(cafile=nginx.authority.cafile), **options)  # type: ignore[arg-type]


def test_get_over_verified_tls(loop: str, nginx: Nginx) -> None:
    async def main() -> None:
        points: list[TracePoint] = []
        async with client_for(nginx, trace=points.append) as client:
            response = await client.get(nginx.url + "/hello")
            assert response.status == 200 and response.text == "hello\n"
            assert response.headers["server"].startswith("nginx")
        done = {point.name: point for point in points if point.phase == "done"}
        assert set(done) == {"dns", "connect", "tls", "request", "response"}
        assert done["tls"].details["version"] == "TLSv1.3" and done["tls"].details["alpn"] == "http/1.1"

    run_on(loop, main())
    assert nginx.log("/hello")[-1].protocol == "TLSv1.3"


def test_keep_alive_as_nginx_saw_it(loop: str, nginx: Nginx) -> None:
    path = "/teapot"
    before = len(nginx.log(path))

    async def main() -> None:
        async with client_for(nginx) as client:
            for _ in range(5):
                assert (await client.get(nginx.url + path)).status == 418

    run_on(loop, main())
    lines = nginx.log(path)[before:]
    assert len({line.connection for line in lines}) == 1
    assert [line.number for line in lines] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_new_connections_are_resumed_as_nginx_saw_it(loop: str, nginx: Nginx, version: ssl.TLSVersion) -> None:
    """All connections to a known origin but the first; on asyncio's own loop none, since its TLS cannot."""
    path = "/once"
    before = len(nginx.log(path))

    async def main() -> None:
        context = tls.client_context(cafile=nginx.authority.cafile)
        context.maximum_version = version
        async with HttpClient(tls_context=context) as client:
            for _ in range(100):
                assert (await client.get(nginx.url + path)).text == "once"
            # Several at once, as many as there are tickets.
            await asyncio.gather(*(client.get(nginx.url + path) for _ in range(4)))
            await asyncio.gather(*(client.get(nginx.url + path) for _ in range(4)))

    run_on(loop, main())
    resumed = [line.resumed for line in nginx.log(path)[before:]]
    assert len(resumed) == 108
    if loop == "corenet" and tls.tls_engine().name == "openssl":
        # The first one, and those of the first four for which there was no ticket yet. By number: nginx's workers write
        # the lines of connections that overlap in any order.
        assert resumed.count(False) <= 1 + 3
        assert all(resumed[1:100])
    else:
        assert not any(resumed)


def test_a_server_without_keep_alive(loop: str, nginx: Nginx) -> None:
    before = len(nginx.log("/once"))

    async def main() -> None:
        async with client_for(nginx) as client:
            for _ in range(3):
                assert (await client.get(nginx.url + "/once")).text == "once"

    run_on(loop, main())
    assert len({line.connection for line in nginx.log("/once")[before:]}) == 3


def test_post_is_echoed(loop: str, nginx: Nginx) -> None:
    async def main() -> None:
        async with client_for(nginx) as client:
            body = bytes(range(32, 127)) * 100
            assert (await client.post(nginx.url + "/echo", body)).body == body

    run_on(loop, main())


def test_a_chunked_upload_is_echoed(loop: str, nginx: Nginx) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"piece %d;" % number * 100
            await asyncio.sleep(0)

    async def main() -> None:
        wanted = b"".join([piece async for piece in pieces()])
        async with client_for(nginx) as client:
            assert (await client.post(nginx.url + "/echo", pieces())).body == wanted
            assert (await client.get(nginx.url + "/hello")).status == 200

    run_on(loop, main())


def test_a_large_file_there_and_back(loop: str, nginx: Nginx) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(64):
            yield bytes([number]) * 65536

    async def main() -> None:
        async with client_for(nginx) as client:
            url = f"{nginx.url}/store/{loop}.bin"
            assert (await client.request("PUT", url, body=pieces())).status in (201, 204)
            digest = hashlib.sha256()
            async with client.stream("GET", url) as response:
                assert response.headers["content-length"] == str(64 * 65536)
                async for piece in response:
                    digest.update(piece)
            assert digest.digest() == hashlib.sha256(b"".join([bytes([n]) * 65536 for n in range(64)])).digest()

    run_on(loop, main())


def test_ten_mebibytes_streamed(loop: str, nginx: Nginx) -> None:
    async def main() -> None:
        async with client_for(nginx) as client:
            async with client.stream("GET", nginx.url + "/big.bin") as response:
                digest = hashlib.sha256()
                async for piece in response:
                    digest.update(piece)
            assert digest.digest() == hashlib.sha256(bytes(range(256)) * (BIG // 256)).digest()
            assert len((await client.get(nginx.url + "/big.bin")).body) == BIG

    run_on(loop, main())


def test_gzip(loop: str, nginx: Nginx) -> None:
    async def main() -> None:
        async with client_for(nginx) as client:
            response = await client.get(nginx.url + "/text.txt")
            assert response.headers["content-encoding"] == "gzip"
            assert response.text == "all work and no play\n" * 10000

    run_on(loop, main())


def test_head_204_and_redirects(loop: str, nginx: Nginx) -> None:
    async def main() -> None:
        async with client_for(nginx) as client:
            head = await client.request("HEAD", nginx.url + "/big.bin")
            assert head.headers["content-length"] == str(BIG) and head.body == b""
            assert (await client.get(nginx.url + "/empty")).status == 204
            response = await client.get(nginx.url + "/to-hello")
            assert response.text == "hello\n" and response.history[0].status == 302
            with pytest.raises(RedirectError, match="more than 10"):
                await client.get(nginx.url + "/loop")
            with pytest.raises(RedirectError, match="from https to"):
                await client.get(nginx.url + "/downgrade")
        async with client_for(nginx, allow_downgrade=True) as client:
            assert (await client.get(nginx.url + "/downgrade")).text == "hello\n"

    run_on(loop, main())


def test_credentials_reach_only_their_origin(loop: str, nginx: Nginx) -> None:
    async def main() -> None:
        async with client_for(nginx) as client:
            fields = {"Authorization": "Bearer x", "X-Test": "y"}
            assert (await client.get(nginx.url + "/show", headers=fields)).text == "Bearer x|y|localhost"

    run_on(loop, main())


def test_certificates_that_are_refused(loop: str, nginx: Nginx, tmp_path: object) -> None:
    async def main() -> None:
        async with client_for(nginx) as client:
            with pytest.raises(TlsError, match="has expired") as caught:
                await client.get(f"https://localhost:{nginx.expired}/")
            assert caught.value.certificate
            with pytest.raises(TlsError, match="not for this address"):
                await client.get(nginx.url.replace("localhost", "127.0.0.2") + "/hello")
            with pytest.raises(TlsError, match="does not speak TLS") as caught:
                await client.get(f"https://localhost:{nginx.http}/hello")
            assert not caught.value.certificate
        async with HttpClient() as client:
            with pytest.raises(TlsError, match="not known here"):
                await client.get(nginx.url + "/hello")
        async with HttpClient(tls_context=tls.client_context(verify=False)) as client:
            assert (await client.get(f"https://localhost:{nginx.expired}/")).text == "expired"

    run_on(loop, main())


def test_a_connection_that_nginx_closed_while_idle(loop: str, nginx: Nginx) -> None:
    async def main() -> None:
        url = f"https://localhost:{nginx.stale}/"
        async with client_for(nginx) as client:
            assert (await client.get(url)).text == "stale"
            # The loop stands still past nginx's keepalive_timeout of one second: it cannot see the close.
            time.sleep(1.5)
            assert (await client.get(url)).text == "stale"

    run_on(loop, main())


def test_a_slow_download_ends_at_its_timeout(loop: str, nginx: Nginx) -> None:
    async def main() -> None:
        async with client_for(nginx, timeout=Timeout(total=0.3)) as client:
            with pytest.raises(TimeoutExceeded, match="total time") as caught:
                await client.get(nginx.url + "/slow.bin")
            assert caught.value.phase == "response"
            assert (await client.get(nginx.url + "/hello")).status == 200

    run_on(loop, main())


def test_many_at_once_share_connections(loop: str, nginx: Nginx) -> None:
    before = len(nginx.log("/hello"))

    async def main() -> None:
        async with client_for(nginx) as client:
            answers = await asyncio.gather(*(client.get(nginx.url + "/hello") for _ in range(200)))
            assert {answer.text for answer in answers} == {"hello\n"}

    run_on(loop, main())
    lines = nginx.log("/hello")[before:]
    assert len(lines) == 200 and len({line.connection for line in lines}) <= 64


# --- what nginx never does: TLS peers of our own ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.mark.parametrize("clean", [True, False])
def test_a_body_truncated_without_close_notify_is_an_error(loop: str, authority: Authority, clean: bool) -> None:
    leaf = authority.leaf("localhost", file="cut")

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\npay 1000 to")
        if clean:
            peer.writer.close()
        else:
            # Below TLS: the bytes end, and no close_notify was sent. RFC 9112 section 9.8. A loop may hold what was
            # written until its turn ends, so let some turns pass.
            for _ in range(3):
                await asyncio.sleep(0)
            peer.writer.transport.get_extra_info("socket").shutdown(1)
        await peer.reader.read()

    async def main() -> None:
        async with serving(serve, tls=tls.server_context(leaf.certificate, leaf.key)) as server:
            async with HttpClient(tls_context=tls.client_context(cafile=authority.cafile)) as client:
                if clean:
                    assert (await client.get(server.url)).body == b"pay 1000 to"
                else:
                    with pytest.raises(ServerDisconnected, match="close_notify"):
                        await client.get(server.url)

    run_on(loop, main())


def test_bytes_after_a_response_are_not_taken_for_the_next_one(loop: str, authority: Authority) -> None:
    leaf = authority.leaf("localhost", file="garbage")
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async def serve(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(good + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    async def main() -> None:
        async with serving(serve, tls=tls.server_context(leaf.certificate, leaf.key)) as server:
            async with HttpClient(tls_context=tls.client_context(cafile=authority.cafile)) as client:
                for _ in range(5):
                    assert (await client.get(server.url)).body == b"ok"
                assert server.connections == 5

    run_on(loop, main())


def test_a_server_that_disconnects_during_the_handshake(loop: str) -> None:
    async def serve(peer: Peer) -> None:
        await peer.reader.read(5)

    async def main() -> None:
        async with serving(serve) as server, HttpClient(tls_context=tls.client_context(verify=False)) as client:
            with pytest.raises(TlsError) as caught:
                await client.get(server.url.replace("http:", "https:"))
            assert not caught.value.certificate

    run_on(loop, main())


def test_a_server_that_stalls_the_handshake(loop: str) -> None:
    async def serve(peer: Peer) -> None:
        await peer.reader.read()

    async def main() -> None:
        async with serving(serve) as server:
            context = tls.client_context(verify=False)
            async with HttpClient(tls_context=context, timeout=Timeout(connect=0.2)) as client:
                with pytest.raises(TimeoutExceeded, match="stopped at tls") as caught:
                    await client.get(server.url.replace("http:", "https:"))
                assert caught.value.phase == "tls"

    run_on(loop, main())


def test_an_early_close_inside_the_answer(loop: str, authority: Authority) -> None:
    leaf = authority.leaf("localhost", file="early")

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot all")

    async def main() -> None:
        async with serving(serve, tls=tls.server_context(leaf.certificate, leaf.key)) as server:
            async with HttpClient(tls_context=tls.client_context(cafile=authority.cafile)) as client:
                with pytest.raises(RemoteProtocolError, match="inside its response"):
                    await client.get(server.url)

    run_on(loop, main())


@pytest.mark.parametrize("kind", ["bytes", "length", "chunked", "stalls"])
def test_a_body_that_nginx_refuses_before_its_end(loop: str, nginx: Nginx, kind: str) -> None:
    """It answers 413 to the head or to the 32nd MiB; what is left of the body is not sent."""
    before = len(nginx.log("/echo"))
    size = 40 << 20

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(size >> 16):
            yield bytes(1 << 16)
        if kind == "stalls":
            await asyncio.Event().wait()

    async def main() -> None:
        async with asyncio.timeout(30), client_for(nginx, limits=Limits(connections=1)) as client:
            fields = {"Content-Length": str(size)} if kind == "length" else {}
            body = bytes(size) if kind == "bytes" else pieces()
            try:
                assert (await client.post(nginx.url + "/echo", body, headers=fields)).status == 413
            except ServerDisconnected:
                # nginx closes while we still write: the reset may overtake its answer.
                pass
            assert (await client.get(nginx.url + "/hello")).text == "hello\n"

    run_on(loop, main())
    # The line may still be on its way.
    assert {line.status for line in nginx.log("/echo")[before:]} <= {413}


def test_credentials_that_nginx_checks(loop: str, nginx: Nginx) -> None:
    async def main() -> None:
        async with client_for(nginx, base_url=nginx.url, url_credentials=True) as client:
            assert (await client.get("/private/text.txt")).status == 401
            assert (await client.get("/private/text.txt", auth=("me", "wrong"))).status == 401
            response = await client.get("/private/text.txt", auth=("me", "secret"))
            assert response.status == 200 and response.headers["content-encoding"] == "gzip"
            in_url = nginx.url.replace("https://", "https://me:secret@") + "/private/text.txt"
            assert (await client.get(in_url)).text == response.text

    run_on(loop, main())


@pytest.mark.parametrize("http2", [False, True])
def test_a_large_upload_that_waits_for_nginx(loop: str, nginx: Nginx, http2: bool) -> None:
    """nginx answers 100 over HTTP/1.1; over HTTP/2 it does not, and the wait ends with the limit."""
    data = bytes(range(256)) * 8192

    async def main() -> None:
        context = tls.client_context(cafile=nginx.authority.cafile, alpn=tls.ALPN_HTTP2 if http2 else tls.ALPN_HTTP1)
        url = f"https://localhost:{nginx.http2 if http2 else nginx.https}/store/up{http2}"
        async with HttpClient(tls_context=context, expect_continue=True) as client:
            response = await client.put(url, data)
            assert response.status in (201, 204)
            assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            assert http2 or [one.status for one in response.informational] == [100]
            facts = response.connection
            assert facts is not None and facts.tls_version == "TLSv1.3" and facts.peer[0] == "127.0.0.1"

    run_on(loop, main())
    assert (nginx.folder / "www" / "store" / f"up{http2}").read_bytes() == data
