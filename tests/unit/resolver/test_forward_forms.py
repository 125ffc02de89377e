"""Every form of an address in `Resolver(forward=...)`, asked for real, alone and with `resolver.install`."""

import asyncio
import base64
import hashlib
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from support.certs import Authority, Leaf
from support.quic_server import QuicServer, framed
from support.upstream_peers import StreamPeer, UdpPeer

import corenet
import resolver
from corenet.http.events import Data, End, Response
from corenet.http.h1 import SERVER, H1Codec
from resolver.settings import DnssecSettings, ForwardZone, IterationSettings, Settings
from resolver.wire import consts as c

NAME = "dns.example"
ADDRESS = bytes([192, 0, 2, 7])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def leaf(authority: Authority) -> Leaf:
    return authority.leaf(NAME, "127.0.0.1")


def answers(query: bytes) -> list[bytes]:
    """One address for each query of type A, nothing for others."""
    end = query.index(b"\0", 12) + 5
    found = query[end - 4:end - 2] == c.A.to_bytes(2, "big")
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + ADDRESS if found else b""
    return [query[:2] + b"\x81\x80\0\1" + bytes([0, found]) + bytes(4) + query[12:end] + record]


def pin_of(leaf: Leaf) -> str:
    key = x509.load_pem_x509_certificate(leaf.certificate.read_bytes()).public_key()
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return "sha256//" + base64.b64encode(hashlib.sha256(encoded).digest()).decode()


async def https(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests over HTTP/1.1; the body must come to the path of the configuration."""
    codec, body = H1Codec(SERVER), b""
    while received := await reader.read(65_536):
        for event in codec.feed(received):
            if isinstance(event, Data):
                body += event.data
            elif isinstance(event, End):
                [reply] = answers(body)
                fields = [(b"content-type", b"application/dns-message"), (b"content-length", b"%d" % len(reply))]
                writer.write(codec.send(Response(200, fields)) + codec.send(Data(reply)) + codec.send(End()))
                codec.next_cycle()
                body = b""
    writer.close()


class Servers:
    """A server of each kind; `place` has the addresses and ports for a form."""

    def __init__(self) -> None:
        self.place: dict[str, str] = {}
        self._close: list[Callable[[], Any]] = []

    @classmethod
    async def start(cls, leaf: Leaf) -> "Servers":
        made = cls()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(leaf.certificate, leaf.key)
        for name, address in (("v4", "127.0.0.1"), ("v6", "::1")):
            udp = await UdpPeer.start(answers, address)
            made._close.append(udp.close)
            made.place[name] = f"[{address}]:{udp.port}" if ":" in address else f"{address}:{udp.port}"
        made.place["v4at"] = made.place["v4"].replace(":", "@")
        for name, address in (("tls", "127.0.0.1"), ("tls6", "::1")):
            stream = await StreamPeer.start(answers, address, tls=context)
            made._close.append(stream.close)
            made.place[name] = f"[{address}]:{stream.port}" if ":" in address else f"{address}:{stream.port}"
        web = await asyncio.start_server(https, "127.0.0.1", 0, ssl=context)
        made._close.append(web.close)
        made.place["https"] = f"127.0.0.1:{web.sockets[0].getsockname()[1]}"
        quic = await QuicServer.start(
            leaf, lambda server, quic, stream, query: quic.send_stream_data(stream, framed(answers(query)[0]), True)
        )
        made._close.append(quic.close)
        made.place["quic"] = f"127.0.0.1:{quic.port}"
        made.place["pin"] = pin_of(leaf)
        made.place["other"] = "sha256//" + "A" * 43 + "="
        return made

    async def close(self) -> None:
        for one in self._close:
            closing = one()
            if closing is not None:
                await closing
        await asyncio.sleep(0)


FORMS = [
    "{v4}", "{v6}", "{v4at}",
    "tls://{tls}#dns.example", "TLS://{tls}#DNS.Example.", "tls://{tls}#127.0.0.1", "tls://{tls}#{pin}",
    "tls://{tls}#dns.example,{pin}", "tls://{tls}#{pin},dns.example", "tls://{tls}#{other},{pin}",
    "tls://{tls6}#dns.example",
    "https://{https}#dns.example", "https://{https}/dns-query#dns.example", "https://{https}/q{{?dns}}#dns.example",
    "https://{https}/#{pin}",
    "quic://{quic}#dns.example", "quic://{quic}#{pin}", "quic://{quic}#dns.example,{pin}",
]  # fmt: skip
WRONG = ["tls://{tls}#other.example", "tls://{tls}#{other}", "https://{https}#{other}", "quic://{quic}#{other}"]


def settings(authority: Authority) -> Settings:
    return Settings(
        dnssec=DnssecSettings(enabled=False),
        iteration=IterationSettings(do_not_query_localhost=False, tls_cert_bundle=str(authority.cafile)),
    )


@contextmanager
def quiet(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """A refused handshake is reported to the handler of asyncio's servers."""
    loop.set_exception_handler(lambda *_: None)
    yield
    loop.set_exception_handler(None)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_address_is_queried(authority: Authority, leaf: Leaf, form: str) -> None:
    async def body() -> None:
        servers = await Servers.start(leaf)
        text = form.format_map(servers.place)
        async with resolver.Resolver(settings(authority), forward=[text]) as dns:
            assert [str(one) for one in await dns.resolve("www.example.org", "A")] == ["192.0.2.7"]
            found = dns.statistics().upstream
            for protocol in ("tls", "https", "quic"):
                assert (found[f"{protocol}_sent"] > 0) is text.lower().startswith(f"{protocol}://")
            if "://" in text:
                assert found["udp_sent"] == found["tcp_sent"] == 0
        await servers.close()

    corenet.run(body())


@pytest.mark.parametrize("form", WRONG)
def test_a_server_with_another_identity_gets_no_query(authority: Authority, leaf: Leaf, form: str) -> None:
    async def body() -> None:
        servers = await Servers.start(leaf)
        with quiet(asyncio.get_running_loop()):
            async with resolver.Resolver(settings(authority), forward=[form.format_map(servers.place)]) as dns:
                answer = await dns.resolve("www.example.org", "A")
                assert answer.rcode == c.SERVFAIL and answer.ede[0].code in (22, 23), answer
                found = dns.statistics().upstream
                assert not any(found[f"{one}_sent"] for one in ("udp", "tcp", "tls", "https", "quic"))
        await servers.close()

    corenet.run(body())


@pytest.mark.parametrize("form", ["{v4}", "tls://{tls}#dns.example", "https://{https}#dns.example",
                                  "quic://{quic}#dns.example"])
def test_names_of_an_installed_resolver_are_resolved_there(authority: Authority, leaf: Leaf, form: str) -> None:
    """Everything on the loop that connects to a name uses it."""

    async def body() -> None:
        servers, loop = await Servers.start(leaf), asyncio.get_running_loop()
        async with resolver.Resolver(settings(authority), forward=[form.format_map(servers.place)]) as dns:
            resolver.install(loop, dns)
            found = await loop.getaddrinfo("www.example.org", 443)
            assert {info[4][0] for info in found} == {"192.0.2.7"}
        await servers.close()

    corenet.run(body())


def test_zones_and_addresses_together(authority: Authority, leaf: Leaf) -> None:
    """A zone of the call, one of the settings, and the addresses for all other names."""

    async def body() -> None:
        servers = await Servers.start(leaf)
        place = servers.place
        given = resolver.settings.replace(
            settings(authority), forward=(ForwardZone("settings.example", (f"tls://{place['tls']}#{NAME}",)),)
        )
        forward = [ForwardZone("call.example", (f"quic://{place['quic']}#{NAME}",)), place["v4"], place["v6"]]
        async with resolver.Resolver(given, forward=forward) as dns:
            for name, counter in (("a.settings.example", "tls"), ("a.call.example", "quic"), ("a.example.org", "udp")):
                await dns.resolve(name, "A")
                assert dns.statistics().upstream[f"{counter}_sent"] == 1, name
        await servers.close()

    corenet.run(body())


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        ("192.0.2.1", "a list of addresses"),
        (["tls://192.0.2.1"], "has no name and no pin"),
        (["192.0.2.1", "tls://192.0.2.2#a.example"], "unencrypted and would get the same queries"),
        (["tls://dns.example"], "a name where an address must be"),
        (["h3://192.0.2.1#a.example"], "unknown scheme 'h3'"),
        (["192.0.2.1", ForwardZone(".", ("192.0.2.2",))], "configured twice"),
    ],
)
def test_a_refusal_names_the_argument(forward: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        resolver.Resolver(forward=forward)
    assert str(caught.value).startswith("forward: ")
