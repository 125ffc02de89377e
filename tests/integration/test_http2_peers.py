"""HTTP/2 with peers that were not written by us: our client against nginx, curl against a server of our codec.

nginx's access log says which connection each request came on. Without the Debian packages `nginx-light` and `curl` the
tests are skipped, and say so.
"""

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator, Iterator

import pytest
from support.certs import Authority
from support.h2_peer import BYTES, h2_site
from support.http_peer import LOOPS, run_on
from support.nginx import BIG, Nginx, find_nginx

from corenet import tls
from corenet.http import HttpClient, Limits, Timeout, TimeoutExceeded

pytestmark = [pytest.mark.integration, pytest.mark.parametrize("loop", sorted(LOOPS))]


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    program = find_nginx()
    if program is None:
        pytest.skip("nginx is not installed; the Debian package is nginx-light")
    with Nginx(program, tmp_path_factory.mktemp("nginx")) as running:
        yield running


def client_for(nginx: Nginx, **options: object) -> HttpClient:
    context = tls.client_context(cafile=nginx.authority.cafile, alpn=tls.ALPN_HTTP2)
    return HttpClient(tls_context=context, **options)  # type: ignore[arg-type]


def test_many_requests_on_one_connection(loop: str, nginx: Nginx) -> None:
    before = len(nginx.log("/hello"))

    async def main() -> None:
        async with client_for(nginx) as client:
            answers = await asyncio.gather(*(client.get(nginx.http2_url + "/hello") for _ in range(300)))
            assert {(answer.text, answer.http_version) for answer in answers} == {("hello\n", "HTTP/2")}

    run_on(loop, main())
    lines = nginx.log("/hello")[before:]
    assert len(lines) == 300 and len({line.connection for line in lines}) == 1


def test_more_requests_than_nginx_takes_on_a_connection(loop: str, nginx: Nginx) -> None:
    """After 1000 requests nginx sends GOAWAY; no request is lost, and none is sent twice."""
    before = len(nginx.log("/teapot"))

    async def main() -> None:
        async with client_for(nginx) as client:
            for _ in range(25):
                answers = await asyncio.gather(*(client.get(nginx.http2_url + "/teapot") for _ in range(100)))
                assert {answer.status for answer in answers} == {418}

    run_on(loop, main())
    lines = nginx.log("/teapot")[before:]
    assert len(lines) == 2500 and len({line.connection for line in lines}) == 3


def test_downloads_and_uploads(loop: str, nginx: Nginx) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(64):
            yield bytes([number]) * 65536

    async def main() -> None:
        async with client_for(nginx) as client:
            url = f"{nginx.http2_url}/store/h2-{loop}.bin"
            assert (await client.request("PUT", url, body=pieces())).status in (201, 204)
            wanted = b"".join([piece async for piece in pieces()])
            assert (await client.get(url)).body == wanted
            body = bytes(range(32, 127)) * 1000
            assert (await client.post(nginx.http2_url + "/echo", body)).body == body
            digest = hashlib.sha256()
            async with client.stream("GET", nginx.http2_url + "/big.bin") as response:
                async for piece in response:
                    digest.update(piece)
            assert digest.digest() == hashlib.sha256(bytes(range(256)) * (BIG // 256)).digest()
            text = await client.get(nginx.http2_url + "/text.txt")
            assert text.headers["content-encoding"] == "gzip" and len(text.body) == 210_000

    run_on(loop, main())


def test_head_empty_and_redirects(loop: str, nginx: Nginx) -> None:
    async def main() -> None:
        async with client_for(nginx) as client:
            head = await client.request("HEAD", nginx.http2_url + "/big.bin")
            assert head.headers["content-length"] == str(BIG) and head.body == b""
            assert (await client.get(nginx.http2_url + "/empty")).status == 204
            moved = await client.get(nginx.http2_url + "/to-hello")
            assert moved.text == "hello\n" and moved.history[0].status == 302
            fields = {"Authorization": "Bearer x", "X-Test": "y"}
            assert (await client.get(nginx.http2_url + "/show", headers=fields)).text == "Bearer x|y|localhost"

    run_on(loop, main())


def test_a_body_that_nginx_refuses(loop: str, nginx: Nginx) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), client_for(nginx) as client:
            assert (await client.post(nginx.http2_url + "/echo", bytes(40 << 20))).status == 413
            assert (await client.get(nginx.http2_url + "/hello")).status == 200

    run_on(loop, main())


def test_a_slow_download_ends_at_its_time_and_alone(loop: str, nginx: Nginx) -> None:
    async def main() -> None:
        async with client_for(nginx) as client:
            slow = asyncio.ensure_future(client.get(nginx.http2_url + "/slow.bin", timeout=Timeout(total=0.5)))
            assert (await client.get(nginx.http2_url + "/hello")).status == 200
            with pytest.raises(TimeoutExceeded, match="total time"):
                await slow
            assert (await client.get(nginx.http2_url + "/hello")).status == 200

    run_on(loop, main())


def test_cancelled_downloads(loop: str, nginx: Nginx) -> None:
    before = len(nginx.log("/hello"))

    async def main() -> None:
        async with client_for(nginx, limits=Limits(streams=20)) as client:
            for round_ in range(10):
                tasks = [asyncio.ensure_future(client.get(nginx.http2_url + "/big.bin")) for _ in range(5)]
                for _ in range(round_ * 5):
                    await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                assert (await client.get(nginx.http2_url + "/hello")).text == "hello\n"

    run_on(loop, main())
    assert len({line.connection for line in nginx.log("/hello")[before:]}) == 1


def test_both_protocols_at_once(loop: str, nginx: Nginx) -> None:
    """The ports are different origins, and each keeps its own protocol."""

    async def main() -> None:
        async with client_for(nginx) as client:
            urls = [nginx.url + "/hello", nginx.http2_url + "/hello", f"http://localhost:{nginx.http}/hello"]
            answers = await asyncio.gather(*(client.get(url) for url in urls * 10))
            assert [answer.http_version for answer in answers] == ["HTTP/1.1", "HTTP/2", "HTTP/1.1"] * 10

    run_on(loop, main())


# --- curl, whose HTTP/2 is nghttp2 ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    found = Authority(tmp_path_factory.mktemp("ca"))
    found.leaf("localhost")
    return found


async def curl(authority: Authority, *arguments: str) -> bytes:
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed")
    process = await asyncio.create_subprocess_exec(
        program, "-sS", "--http2", "--cacert", str(authority.cafile), *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, error = await process.communicate()
    assert process.returncode == 0, error
    return out


def test_curl_asks_our_server(loop: str, authority: Authority, tmp_path: object) -> None:
    body = BYTES * 8

    async def main() -> None:
        leaf = authority.folder / "leaf.pem", authority.folder / "leaf.key"
        async with h2_site(tls.server_context(*leaf, alpn=tls.ALPN_HTTP2), window=65_535) as site:
            out = await curl(authority, "-w", "%{http_version} %{http_code}", site.url + "/x/curl")
            assert out == b"hello curl2 200"
            assert await curl(authority, site.url + "/size/1000000") == (BYTES * 16)[:1_000_000]
            upload = authority.folder / "upload"
            upload.write_bytes(body)
            assert await curl(authority, "--data-binary", f"@{upload}", site.url + "/echo") == body
            assert await curl(authority, "-T", str(upload), site.url + "/duplex") == body
            head = await curl(authority, "-I", site.url + "/")
            assert head.startswith(b"HTTP/2 200") and b"content-length: 1000" in head
            assert b"sum: 1" in await curl(authority, "-i", site.url + "/trailers")
            many = await curl(authority, "--parallel", *(f"{site.url}/x/{number}" for number in range(40)))
            assert many.count(b"hello") == 40
            fields = await curl(authority, "-H", "Cookie: a=1", "-H", "X-Y: " + "z" * 5000, site.url + "/fields")
            assert b"a=1" in fields and b"z" * 5000 in fields
            assert site.errors == []

    run_on(loop, main())


def test_a_connection_that_curl_leaves(loop: str, authority: Authority) -> None:
    async def main() -> None:
        leaf = authority.folder / "leaf.pem", authority.folder / "leaf.key"
        async with h2_site(tls.server_context(*leaf, alpn=tls.ALPN_HTTP2)) as site:
            task = asyncio.ensure_future(curl(authority, "--max-time", "0.3", site.url + "/hang"))
            with pytest.raises(AssertionError, match="timed out"):
                await task
            assert site.errors == []

    run_on(loop, main())


