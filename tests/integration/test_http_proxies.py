"""The client through proxies that we did not write: tinyproxy (HTTP) and microsocks (SOCKS5), to a real nginx.

Both are small Debian packages. They listen on 127.0.0.1 and end with the fixture. On asyncio's loop and on ours.
"""

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.http_peer import LOOPS, run_on
from support.nginx import Nginx, find_nginx
from support.ports import free_port

from corenet import tls
from corenet.http import HttpClient, ProxyError

pytestmark = [pytest.mark.integration, pytest.mark.parametrize("loop", sorted(LOOPS))]

START_SECONDS = 30.0


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    program = find_nginx()
    if program is None:
        pytest.skip("nginx is not installed; the Debian package is nginx-light")
    with Nginx(program, tmp_path_factory.mktemp("nginx")) as running:
        yield running


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; it is a Debian package")
    return found


@contextmanager
def started(*command: str | Path, port: int) -> Iterator[int]:
    """Run a proxy until it listens, and end it afterwards."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1.0).close()
                break
            except OSError:
                assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
                assert time.monotonic() < deadline, f"{command[0]} does not listen"
        yield port
    finally:
        process.terminate()
        process.wait(START_SECONDS)


@pytest.fixture(scope="module")
def tinyproxy(tmp_path_factory: pytest.TempPathFactory, nginx: Nginx) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("tinyproxy")
    port = free_port()
    config = folder / "tinyproxy.conf"
    config.write_text(
        f"Port {port}\nListen 127.0.0.1\nTimeout 60\nAllow 127.0.0.1\nBasicAuth user pass\n"
        f"ConnectPort {nginx.https}\nConnectPort {nginx.http2}\n"
    )
    with started(program("tinyproxy"), "-d", "-c", config, port=port):
        yield port


@pytest.fixture(scope="module")
def microsocks() -> Iterator[int]:
    port = free_port()
    with started(program("microsocks"), "-i", "127.0.0.1", "-p", str(port), "-u", "user", "-P", "pass", port=port):
        yield port


def client_for(nginx: Nginx, proxy: str) -> HttpClient:
    return HttpClient(tls_context=tls.client_context(cafile=nginx.authority.cafile, alpn=tls.ALPN_HTTP2), proxy=proxy)


async def check_all(client: HttpClient, nginx: Nginx) -> None:
    """Requests of each kind, some at the same time, on connections that are kept."""
    for url in (nginx.url, nginx.http2_url, f"http://localhost:{nginx.http}"):
        bodies = await asyncio.gather(*(client.get(url + "/hello") for _ in range(5)))
        assert [response.text for response in bodies] == ["hello\n"] * 5
        assert (await client.get(url + "/empty")).status == 204


def test_tinyproxy(loop: str, nginx: Nginx, tinyproxy: int) -> None:
    async def main() -> None:
        async with client_for(nginx, f"http://user:pass@127.0.0.1:{tinyproxy}") as client:
            await check_all(client, nginx)
        async with client_for(nginx, f"http://user:wrong@127.0.0.1:{tinyproxy}") as client:
            with pytest.raises(ProxyError) as refused:
                await client.get(nginx.url + "/hello")
            assert refused.value.status in (401, 407)
            assert (await client.get(f"http://localhost:{nginx.http}/hello")).status in (401, 407)
        async with client_for(nginx, f"http://user:pass@127.0.0.1:{tinyproxy}") as client:
            with pytest.raises(ProxyError) as forbidden:
                await client.get("https://localhost:9/")
            assert forbidden.value.status == 403

    run_on(loop, main())


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_microsocks(loop: str, nginx: Nginx, microsocks: int, scheme: str) -> None:
    async def main() -> None:
        async with client_for(nginx, f"{scheme}://user:pass@127.0.0.1:{microsocks}") as client:
            await check_all(client, nginx)
            with pytest.raises(ProxyError, match="connection refused"):
                await client.get(f"http://127.0.0.1:{free_port()}/")
        for credentials, reason in (("user:wrong@", "refused"), ("", "does not accept")):
            async with client_for(nginx, f"{scheme}://{credentials}127.0.0.1:{microsocks}") as client:
                with pytest.raises(ProxyError, match=reason):
                    await client.get(nginx.url + "/hello")

    run_on(loop, main())
