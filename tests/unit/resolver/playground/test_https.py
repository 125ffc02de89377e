"""The web server of the playground: answers, pipelining, refusals, and its temporary certificates.

The client uses TLS and HTTP of the standard library; tests/integration uses corenet's client.
"""

import asyncio
import datetime
import ssl
from collections.abc import Awaitable, Callable

import pytest
from cryptography import x509

import corenet
from resolver.limits import PLAYGROUND_TCP_IDLE
from resolver.playground import World, start, world_tables
from resolver.playground.certs import make_identity
from resolver.playground.https import Site, _Connection, start_web

HOST, ADDRESS = "www.example.playground.", "127.20.220.80"
Run = Callable[[Awaitable[None]], None]


@pytest.fixture(params=[asyncio.run, corenet.run], ids=["asyncio", "corenet"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.param


async def talk(port: int, authority: bytes, request: bytes, host: str = HOST.rstrip(".")) -> bytes:
    context = ssl.create_default_context(cadata=authority.decode())
    reader, writer = await asyncio.open_connection(ADDRESS, port, ssl=context, server_hostname=host)
    try:
        writer.write(request)
        writer.write_eof() if writer.can_write_eof() else None
        return await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()


def get(path: str, *more: str, method: str = "GET", last: bool = True) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", *more, *(["Connection: close"] if last else [])]
    return "\r\n".join([*lines, "", ""]).encode()


def test_the_pages_are_served(run: Run) -> None:
    async def body() -> None:
        web = await start_web(HOST, ADDRESS, port=0)
        authority = web.authority_file.read_bytes()
        assert web.url == f"https://www.example.playground:{web.port}/"
        try:
            answer = await talk(web.port, authority, get("/"))
            assert answer.startswith(b"HTTP/1.1 200") and b"Welcome to www.example.playground" in answer
            assert b"x-colour: blue" in (await talk(web.port, authority, get("/headers", "x-colour: blue"))).lower()
            answer = await talk(web.port, authority, get("/redirect"))
            assert answer.startswith(b"HTTP/1.1 302") and b"\r\nlocation: /\r\n" in answer.lower()
            assert (await talk(web.port, authority, get("/none"))).startswith(b"HTTP/1.1 404")
            assert (await talk(web.port, authority, get("/", method="DELETE"))).startswith(b"HTTP/1.1 405")
            head = await talk(web.port, authority, get("/", method="HEAD"))
            assert head.startswith(b"HTTP/1.1 200") and head.endswith(b"\r\n\r\n")
            both = await talk(web.port, authority, get("/", last=False) + get("/none"))
            assert both.index(b"HTTP/1.1 200") < both.index(b"HTTP/1.1 404")
            assert (await talk(web.port, authority, b"GET / HTTP/1.1\r\nbad header\r\n\r\n")).startswith(
                b"HTTP/1.1 400"
            )
        finally:
            await web.close()
        assert not web.authority_file.exists()

    run(body())


def test_verification_fails_for_other_authorities_and_names(run: Run) -> None:
    async def body() -> None:
        web = await start_web(HOST, ADDRESS, port=0)
        try:
            with pytest.raises(ssl.SSLCertVerificationError):
                await talk(web.port, make_identity(HOST).authority, get("/"))
            with pytest.raises(ssl.SSLCertVerificationError):
                await talk(web.port, web.authority_file.read_bytes(), get("/"), host="mail.example.playground")
        finally:
            await web.close()

    run(body())


def test_the_certificate_is_stored_at_the_given_path(tmp_path) -> None:
    async def body() -> None:
        servers = {"a.root.": world_tables.ServerSpec("127.20.220.1")}
        world = World({".": world_tables.ZoneSpec(("a.root.",), "root")}, servers, ())
        async with await start(world, port=0, web=True, web_port=0, ca=tmp_path / "ca.pem") as running:
            assert running.web is not None and running.web.authority_file == tmp_path / "ca.pem"
        assert b"BEGIN CERTIFICATE" in (tmp_path / "ca.pem").read_bytes()
        with pytest.raises(OSError):
            await start(world, port=0, web=True, web_port=0, ca=tmp_path / "missing" / "ca.pem")

    asyncio.run(body())


def test_certificates_are_short_lived_and_narrow() -> None:
    now = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    identity = make_identity(HOST, (ADDRESS,), now=now)
    leaf, authority = (x509.load_pem_x509_certificate(pem) for pem in (identity.certificate, identity.authority))
    leaf.verify_directly_issued_by(authority)
    assert leaf.not_valid_after_utc - now <= datetime.timedelta(days=30)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["www.example.playground"]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_a_connection_is_aborted_when_it_is_idle_and_not_before() -> None:
    """On asyncio's loop, whose clock can be replaced."""

    class Transport(asyncio.Transport):
        written, aborted = b"", False

        def write(self, data: bytes | bytearray | memoryview) -> None:
            self.written += data

        def is_closing(self) -> bool:
            return False

        def abort(self) -> None:
            self.aborted = True

    async def body() -> None:
        loop, now = asyncio.get_running_loop(), 0.0
        loop.time = lambda: now  # type: ignore[method-assign]
        connection, transport = _Connection(Site(HOST), set()), Transport()
        connection.connection_made(transport)

        async def at(second: float) -> bool:
            nonlocal now
            now = second
            for _ in range(3):
                await asyncio.sleep(0)
            return transport.aborted

        assert not await at(PLAYGROUND_TCP_IDLE - 1)
        connection.data_received(get("/", last=False))
        assert transport.written.startswith(b"HTTP/1.1 200")
        assert not await at(2 * PLAYGROUND_TCP_IDLE - 2)
        connection.data_received(b"GET")  # no whole request
        assert await at(2 * PLAYGROUND_TCP_IDLE)

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(body())
