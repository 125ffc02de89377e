"""The client through proxies that we did not write, to a real nginx, on asyncio's loop and on ours.

HTTP: tinyproxy, squid, and haproxy with TLS in front of tinyproxy. SOCKS5: microsocks with a password, dante without
one and with rules. All are Debian packages. They listen on 127.0.0.1 and end with the fixture.
"""

import asyncio
import os
import socket
from collections.abc import Iterator
from typing import NoReturn

import pytest
from support.http_peer import LOOPS, run_on
from support.nginx import Nginx, find_nginx
from support.ports import free_port
from support.web_peers import haproxy_in_front, program, started

from corenet import tls
from corenet.http import HttpClient, NameResolutionError, Proxies, Proxy, ProxyError, TlsError

pytestmark = [pytest.mark.integration, pytest.mark.parametrize("loop", sorted(LOOPS))]


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    program = find_nginx()
    if program is None:
        pytest.skip("nginx is not installed; the Debian package is nginx-light")
    with Nginx(program, tmp_path_factory.mktemp("nginx")) as running:
        yield running


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


# --- TLS to the proxy -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secure_tinyproxy(tmp_path_factory: pytest.TempPathFactory, nginx: Nginx, tinyproxy: int) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("haproxy")
    with haproxy_in_front(folder, nginx.authority, tinyproxy, mode="tcp", alpn="http/1.1") as port:
        yield port


@pytest.fixture(scope="module")
def squid(tmp_path_factory: pytest.TempPathFactory, nginx: Nginx) -> Iterator[tuple[int, int]]:
    """A plain port and one with TLS. Clients may ask squid for the ports of nginx only."""
    folder = tmp_path_factory.mktemp("squid")
    # Started by root, squid becomes another user, who reads what it needs and writes its files here.
    for place in (folder.parent.parent, folder.parent, nginx.folder):
        place.chmod(0o755)
    folder.chmod(0o777)
    leaf = nginx.authority.leaf("localhost", "127.0.0.1", file="squid")
    leaf.key.chmod(0o644)
    http, https = free_port(), free_port()
    (folder / "users").write_text("user:$1$salt$M6xQvx9eSlM4zTu69di5B/\n")
    (folder / "squid.conf").write_text(
        f"""
http_port 127.0.0.1:{http}
https_port 127.0.0.1:{https} tls-cert={leaf.certificate} tls-key={leaf.key}
auth_param basic program /usr/lib/squid/basic_ncsa_auth {folder}/users
auth_param basic children 1 startup=0
acl known proxy_auth REQUIRED
acl safe port {nginx.https} {nginx.http2} {nginx.http}
http_access deny !safe
http_access allow known
http_access deny all
cache deny all
cache_mem 0
visible_hostname squid.test
pid_filename {folder}/pid
cache_log {folder}/cache.log
access_log none
netdb_filename none
pinger_enable off
coredump_dir {folder}
shutdown_lifetime 0 seconds
dns_nameservers 127.0.0.1
hosts_file /etc/hosts
"""
    )
    with started(program("squid", "squid-openssl"), "-N", "-f", folder / "squid.conf", port=https):
        yield http, https


def secure_client(nginx: Nginx, proxy: str, **options: object) -> HttpClient:
    context = tls.client_context(cafile=nginx.authority.cafile, alpn=tls.ALPN_HTTP2)
    to_proxy = Proxy(proxy, tls_context=tls.client_context(cafile=nginx.authority.cafile))
    return HttpClient(tls_context=context, proxy=to_proxy, **options)  # type: ignore[arg-type]


def test_tls_to_haproxy_in_front_of_tinyproxy(loop: str, nginx: Nginx, secure_tinyproxy: int) -> None:
    """Requests for https are TLS inside TLS."""

    async def main() -> None:
        async with secure_client(nginx, f"https://user:pass@localhost:{secure_tinyproxy}") as client:
            await check_all(client, nginx)
            assert (await client.post(nginx.http2_url + "/echo", b"x" * 300_000)).body == b"x" * 300_000
        async with client_for(nginx, f"https://user:pass@localhost:{secure_tinyproxy}") as client:
            with pytest.raises(TlsError) as refused:
                await client.get(nginx.url + "/hello")
            # The proxy's certificate is not one of the system's authorities.
            assert refused.value.certificate

    run_on(loop, main())


@pytest.mark.parametrize("secure", [False, True])
def test_squid(loop: str, nginx: Nginx, squid: tuple[int, int], secure: bool) -> None:
    scheme, port = ("https", squid[1]) if secure else ("http", squid[0])

    async def main() -> None:
        async with secure_client(nginx, f"{scheme}://user:pass@localhost:{port}") as client:
            await check_all(client, nginx)
            # Only what is forwarded goes through squid's hands; in a tunnel it sees nothing.
            assert "squid.test" in (await client.get(f"http://localhost:{nginx.http}/hello")).headers["via"]
            assert "via" not in (await client.get(nginx.url + "/hello")).headers
            shown = await client.get(f"http://localhost:{nginx.http}/show", headers={"X-Test": "y"})
            assert shown.text == "|y|localhost"
            assert (await client.post(f"http://localhost:{nginx.http}/echo", b"x" * 300_000)).body == b"x" * 300_000
            head = await client.head(f"http://localhost:{nginx.http}/big.bin")
            assert head.headers["content-length"] == str(10 * 1024 * 1024)
            with pytest.raises(ProxyError) as forbidden:
                await client.get("https://localhost:9/")
            assert forbidden.value.status == 403
        for wrong in ("user:wrong@", ""):
            async with secure_client(nginx, f"{scheme}://{wrong}localhost:{port}") as client:
                with pytest.raises(ProxyError) as refused:
                    await client.get(nginx.url + "/hello")
                assert refused.value.status == 407
                assert (await client.get(f"http://localhost:{nginx.http}/hello")).status == 407

    run_on(loop, main())


def test_hosts_that_bypass_the_proxy(loop: str, nginx: Nginx, tinyproxy: int) -> None:
    """The proxy refuses these credentials, so only what goes past it has an answer."""

    async def main() -> None:
        wrong = f"http://user:wrong@127.0.0.1:{tinyproxy}"
        context = tls.client_context(cafile=nginx.authority.cafile)
        for no_proxy, direct in (
            ("localhost", {"localhost"}),
            ("127.0.0.0/8", {"127.0.0.1"}),
            (f"localhost:{nginx.https}, example", {"localhost"}),
            ("*", {"localhost", "127.0.0.1"}),
            ("ocalhost, 128.0.0.0/8", set()),
        ):
            proxies = Proxies(https=wrong, no_proxy=no_proxy)
            async with HttpClient(tls_context=context, proxy=proxies) as client:
                for host in ("localhost", "127.0.0.1"):
                    url = f"https://{host}:{nginx.https}/hello"
                    if host in direct:
                        assert (await client.get(url)).text == "hello\n"
                    else:
                        with pytest.raises(ProxyError):
                            await client.get(url)

    run_on(loop, main())


# --- SOCKS5 with rules ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dante(tmp_path_factory: pytest.TempPathFactory, nginx: Nginx) -> Iterator[int]:
    """Without a password; it forbids the port of nginx that has expired certificates."""
    folder = tmp_path_factory.mktemp("dante")
    port = free_port()
    user = "user.privileged: root\nuser.unprivileged: nobody\n" if os.geteuid() == 0 else ""
    (folder / "danted.conf").write_text(
        f"logoutput: {folder}/log\ninternal: 127.0.0.1 port = {port}\nexternal: 127.0.0.1\n{user}"
        "clientmethod: none\nsocksmethod: none\n"
        "client pass { from: 127.0.0.1/32 to: 0.0.0.0/0 }\n"
        f"socks block {{ from: 127.0.0.1/32 to: 0.0.0.0/0 port = {nginx.expired} }}\n"
        "socks pass { from: 127.0.0.1/32 to: 0.0.0.0/0 command: connect }\n"
    )
    with started(program("danted", "dante-server"), "-N", "1", "-f", folder / "danted.conf", port=port):
        yield port


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_dante(loop: str, nginx: Nginx, dante: int, scheme: str) -> None:
    """Credentials that the proxy does not ask for are not sent."""

    async def main() -> None:
        for credentials in ("", "user:pass@"):
            async with client_for(nginx, f"{scheme}://{credentials}127.0.0.1:{dante}") as client:
                await check_all(client, nginx)
        async with client_for(nginx, f"{scheme}://127.0.0.1:{dante}") as client:
            with pytest.raises(ProxyError, match="not allowed"):
                await client.get(f"https://localhost:{nginx.expired}/")
            with pytest.raises(ProxyError, match="refused"):
                await client.get(f"http://127.0.0.1:{free_port()}/")

    run_on(loop, main())


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_which_side_resolves_names(loop: str, nginx: Nginx, dante: int, scheme: str) -> None:
    """Where no name can be resolved here, only the proxy can do it."""

    async def nowhere(*_arguments: object, **_options: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "no names here")

    async def main() -> None:
        asyncio.get_running_loop().getaddrinfo = nowhere  # type: ignore[method-assign,assignment]
        async with client_for(nginx, f"{scheme}://127.0.0.1:{dante}") as client:
            if scheme == "socks5h":
                assert (await client.get(nginx.url + "/hello")).text == "hello\n"
            else:
                with pytest.raises(NameResolutionError):
                    await client.get(nginx.url + "/hello")

    run_on(loop, main())
