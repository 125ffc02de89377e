"""The client against servers that we did not write: Apache, haproxy in front of it, and `openssl s_server`.

Apache and haproxy answer by HTTP/1.1 and HTTP/2; haproxy changes what it passes on. `openssl s_server` does handshakes
that the others do not: without tickets, with a retry request, with a certificate of the client's, with RSA, with an end
of the connection instead of a length. On asyncio's loop and on ours.
"""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.certs import Authority
from support.http_peer import LOOPS, run_on
from support.ports import free_port
from support.web_peers import Apache, haproxy_in_front, program, started

from corenet import tls
from corenet.http import BasicAuth, DigestAuth, HttpClient, ServerDisconnected, TlsError

pytestmark = [pytest.mark.integration, pytest.mark.parametrize("loop", sorted(LOOPS))]


@pytest.fixture(scope="module")
def apache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apache]:
    # Below pytest's folder, which is its owner's alone, Apache's own user could read nothing.
    folder = tmp_path_factory.mktemp("apache")
    for parent in (folder.parent, folder.parent.parent):
        with contextlib.suppress(PermissionError):
            parent.chmod(0o755)
    with Apache(folder) as running:
        yield running


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, apache: Apache) -> Iterator[int]:
    lines = (
        "http-request return status 200 content-type text/plain lf-string %[req.hdr(x-asked)] if { path /own }",
        "http-request deny deny_status 421 if { path /wrong }",
        "http-response set-header Via haproxy",
        # Apache does not know that TLS ends before it.
        "http-response replace-header Location http:(.*) https:\\1",
    )
    folder = tmp_path_factory.mktemp("haproxy")
    with haproxy_in_front(folder, apache.authority, apache.http, mode="http", alpn="h2,http/1.1", lines=lines) as port:
        yield port


def client_for(authority: Authority, *, http2: bool, **options: object) -> HttpClient:
    alpn = tls.ALPN_HTTP2 if http2 else tls.ALPN_HTTP1
    return HttpClient(tls_context=tls.client_context(cafile=authority.cafile, alpn=alpn), **options)  # type: ignore[arg-type]


async def pieces() -> AsyncIterator[bytes]:
    for number in range(8):
        yield bytes([number]) * 5000


async def check_all(client: HttpClient, site: str, text: str, version: str) -> None:
    """Each kind of response, one after the other and several at a time."""
    plain = await client.get(site + "/text.txt")
    assert (plain.status, plain.text, plain.http_version) == (200, text, version)
    packed = await client.get(site + "/packed/text.txt")
    assert packed.text == text and packed.headers["vary"] == "Accept-Encoding"
    async with client.stream("GET", site + "/packed/text.txt") as response:
        assert "".join([piece.decode() async for piece in response]) == text
    head = await client.head(site + "/text.txt")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(text)))
    part = await client.get(site + "/text.txt", headers={"Range": "bytes=5-9", "Accept-Encoding": "identity"})
    assert (part.status, part.text) == (206, text[5:10])
    tag = plain.headers["etag"]
    unchanged = await client.get(site + "/text.txt", headers={"If-None-Match": tag})
    assert (unchanged.status, unchanged.body) == (304, b"")
    assert (await client.get(site + "/empty.txt")).body == b""
    assert (await client.get(site + "/gone")).status == 410
    moved = await client.get(site + "/to-text")
    assert [response.status for response in moved.history] == [302] and moved.text == text
    assert (await client.post(site + "/text.txt", b"x" * 5000)).status in (200, 405)
    assert (await client.post(site + "/text.txt", body=pieces())).status in (200, 405)
    for credentials, path in ((BasicAuth("me", "secret"), "/basic"), (DigestAuth("me", "secret"), "/digest")):
        assert (await client.get(site + path + "/text.txt")).status == 401
        for _ in range(2):
            assert (await client.get(site + path + "/text.txt", auth=credentials)).text == text
    assert (await client.get(site + "/digest/text.txt", auth=DigestAuth("me", "wrong"))).status == 401
    bodies = await asyncio.gather(*(client.get(site + "/text.txt") for _ in range(20)))
    assert {response.text == text for response in bodies} == {True}


@pytest.mark.parametrize("http2", [False, True])
def test_apache(loop: str, apache: Apache, http2: bool) -> None:
    async def main() -> None:
        async with client_for(apache.authority, http2=http2) as client:
            await check_all(client, f"https://localhost:{apache.https}", apache.text, "HTTP/2" if http2 else "HTTP/1.1")

    run_on(loop, main())


def test_apache_ends_kept_connections(loop: str, apache: Apache) -> None:
    """After six requests, with `Connection: close`: no request fails, and none is sent twice."""
    before = len(apache.log("/empty.txt"))

    async def main() -> None:
        async with client_for(apache.authority, http2=False) as client:
            for _ in range(15):
                assert (await client.get(f"http://localhost:{apache.http}/empty.txt")).status == 200

    run_on(loop, main())
    numbers = [int(line[1]) for line in apache.log("/empty.txt")[before:]]
    assert numbers == [0, 1, 2, 3, 4, 5] * 2 + [0, 1, 2]


@pytest.mark.parametrize("http2", [False, True])
def test_haproxy_in_front_of_apache(loop: str, apache: Apache, front: int, http2: bool) -> None:
    async def main() -> None:
        site = f"https://localhost:{front}"
        async with client_for(apache.authority, http2=http2) as client:
            version = "HTTP/2" if http2 else "HTTP/1.1"
            await check_all(client, site, apache.text, version)
            assert (await client.get(site + "/text.txt")).headers["via"] == "haproxy"
            own = await client.get(site + "/own", headers={"X-Asked": "x\xe9 \t y"})
            assert own.body == b"x\xe9 \t y"
            assert (await client.get(site + "/wrong")).status == 421

    run_on(loop, main())


# --- openssl s_server -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("keys"))
    authority.leaf("localhost", "127.0.0.1")
    (authority.folder / "page").write_text("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    (authority.folder / "open").write_text("HTTP/1.1 200 OK\r\n\r\nto the end")
    (authority.folder / "short").write_text("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello")
    subprocess.run(
        [
            *(program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", "-subj", "/CN=rsa"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", "rsa.key", "-out", "rsa.pem"),
        ],
        cwd=authority.folder,
        check=True,
        capture_output=True,
        timeout=60,
    )
    return authority


@contextlib.contextmanager
def s_server(folder: Path, *options: str, certificate: str = "leaf") -> Iterator[str]:
    """A server that sends files as they are, head included, and ends the connection after each."""
    port = free_port()
    command = [program("openssl"), "s_server", "-accept", f"127.0.0.1:{port}", "-HTTP", "-quiet"]
    with started(
        *command, "-cert", f"{certificate}.pem", "-key", f"{certificate}.key", *options, port=port, folder=folder
    ):
        yield f"https://localhost:{port}"


@pytest.mark.parametrize(
    ("options", "version"),
    [
        (["-no_ticket"], "TLSv1.3"),
        (["-num_tickets", "0"], "TLSv1.3"),
        (["-num_tickets", "9"], "TLSv1.3"),
        (["-curves", "P-521"], "TLSv1.3"),
        (["-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"], "TLSv1.3"),
        (["-tls1_2"], "TLSv1.2"),
        (["-tls1_2", "-no_ticket", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"], "TLSv1.2"),
        (["-max_send_frag", "512", "-split_send_frag", "512"], "TLSv1.3"),
        (["-alpn", "http/1.1"], "TLSv1.3"),
    ],
    ids=" ".join,
)
def test_handshakes(loop: str, keys: Authority, options: list[str], version: str) -> None:
    """Three connections each: the first has no session to resume."""

    async def main(site: str) -> None:
        async with client_for(keys, http2=True) as client:
            for path, text in (("/page", "hello"), ("/open", "to the end"), ("/page", "hello")):
                response = await client.get(site + path)
                assert response.text == text
                assert response.connection is not None and response.connection.tls_version == version

    with s_server(keys.folder, *options) as site:
        run_on(loop, main(site))


@pytest.mark.parametrize("options", [[], ["-tls1_2"], ["-tls1_2", "-cipher", "AES256-GCM-SHA384"]], ids=" ".join)
def test_an_rsa_certificate(loop: str, keys: Authority, options: list[str]) -> None:
    """Self-signed, so it is its own authority. A key exchange without forward secrecy is refused."""

    async def main(site: str) -> None:
        context = tls.client_context(cafile=keys.folder / "rsa.pem", strict=False)
        async with HttpClient(tls_context=context) as client:
            if "-cipher" in options:
                with pytest.raises(TlsError) as refused:
                    await client.get(site + "/page")
                assert not refused.value.certificate
            else:
                assert (await client.get(site + "/page")).text == "hello"

    with s_server(keys.folder, *options, certificate="rsa") as site:
        run_on(loop, main(site))


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_certificate_of_the_client(loop: str, keys: Authority, version: str) -> None:
    """With TLS 1.3 a missing one is refused after the client's handshake is over."""

    async def main(site: str) -> None:
        context = tls.client_context(
            cafile=keys.cafile, certificate=keys.folder / "leaf.pem", key=keys.folder / "leaf.key"
        )
        async with HttpClient(tls_context=context) as client:
            assert (await client.get(site + "/page")).text == "hello"
        async with client_for(keys, http2=False) as client:
            with pytest.raises((TlsError, ServerDisconnected)):
                await client.get(site + "/page")

    # The leaf is for servers only, so its purpose is not checked.
    options = (version, "-Verify", "3", "-CAfile", "ca.pem", "-purpose", "any", "-verify_return_error")
    with s_server(keys.folder, *options) as site:
        run_on(loop, main(site))


def test_truncated_responses_are_errors(loop: str, keys: Authority) -> None:
    async def main(site: str) -> None:
        async with client_for(keys, http2=False) as client:
            with pytest.raises(ServerDisconnected) as cut:
                await client.get(site + "/short")
            assert cut.value.received

    with s_server(keys.folder) as site:
        run_on(loop, main(site))
