"""HTTPS records and DANE end to end: signed zones of the playground, our resolver on the loop, and a real nginx."""

import asyncio
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from support.certs import Authority
from support.http_peer import run_on
from support.nginx import Nginx, find_nginx

from corenet import tls
from corenet.http import ConnectError, HttpClient, NameResolutionError, Response, TlsError, TracePoint
from resolver import Resolver, Settings
from resolver.addrinfo import install
from resolver.playground import World, faults, signed, start, world_tables
from resolver.playground.signing import Plan
from resolver.playground.world_tables import ZoneSpec
from resolver.wire import consts as c

pytestmark = pytest.mark.integration

ZONE, OPEN, FORGED = (f"{label}.dnssec.playground." for label in ("web", "open", "forged"))
NAMES = [f"{label}.{zone}".rstrip(".") for zone in (ZONE, OPEN, FORGED) for label in ("www", "strict", "wrong", "ca")]
NAMES.append(ZONE.rstrip("."))


@dataclass
class Net:
    nginx: Nginx
    world: World
    untrusted: Path
    """The file of an authority that has signed nothing."""


def zone_text(nginx: Nginx) -> str:
    """Names for one server: by HTTPS records, with right and wrong TLSA records."""
    certificate = x509.load_pem_x509_certificate(nginx.leaf.certificate.read_bytes())
    own = hashlib.sha256(
        certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    ).hexdigest()
    return f"""
@      HTTPS 0 www
www    HTTPS 1 alt alpn=h2 port={nginx.http2}
       A 127.0.0.1
alt    A 127.0.0.1
strict A 127.0.0.1
wrong  A 127.0.0.1
ca     A 127.0.0.1
_{nginx.http2}._tcp.alt    TLSA 3 1 1 {own}
_{nginx.https}._tcp.strict TLSA 3 1 1 {own}
_{nginx.https}._tcp.wrong  TLSA 3 1 1 {"00" * 32}
_{nginx.https}._tcp.ca     TLSA 2 0 0 {nginx.authority.certificate.public_bytes(serialization.Encoding.DER).hex()}
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    program = find_nginx()
    if program is None:
        pytest.skip("Debian package nginx is not installed")
    folder = tmp_path_factory.mktemp("records")
    (folder / "untrusted").mkdir()
    with Nginx(program, folder, *NAMES) as nginx:
        text = zone_text(nginx)
        corrupt = faults.corrupt(f"_{nginx.https}._tcp.strict", c.TLSA)
        zones = {name: ZoneSpec(signed.CHILDREN, "A web server.", text) for name in (ZONE, OPEN, FORGED)}
        world = World(
            {**signed.ZONES, **zones},
            {**world_tables.SERVERS, **signed.SERVERS},
            plans={**signed.PLANS, ZONE: Plan(), FORGED: Plan(faults=(corrupt,))},
            now=int(time.time()),
        )
        yield Net(nginx, world, Authority(folder / "untrusted", "Nobody's CA").cafile)


def fetch(net: Net, url: str, *, cafile: Path | None = None, **options: Any) -> Response:
    """One GET with a resolver of its own on the loop."""

    async def main() -> Response:
        async with await start(net.world, port=0) as running, Resolver(running.settings(Settings())) as dns:
            install(asyncio.get_running_loop(), dns)
            context = tls.client_context(cafile=cafile or net.nginx.authority.cafile, alpn=tls.ALPN_HTTP2)
            async with HttpClient(tls_context=context, **options) as client:
                return await client.get(url)

    return run_on("corenet", main())


def endpoint(response: Response) -> str:
    assert response.connection is not None
    return response.connection.endpoint


@pytest.mark.parametrize("host", ["www.web", "web"])
def test_an_https_record_leads_to_another_port_and_http2(net: Net, host: str) -> None:
    """The name itself, and the apex of the zone by AliasMode."""
    points: list[TracePoint] = []
    response = fetch(net, f"https://{host}.dnssec.playground/hello", https_records=True, trace=points.append)
    assert (response.text, response.http_version) == ("hello\n", "HTTP/2")
    assert endpoint(response) == f"alt.web.dnssec.playground:{net.nginx.http2}"
    shown = [str(point) for point in points]
    assert any(one.startswith("https.done records=") and f"port={net.nginx.http2}" in one for one in shown), shown


def test_a_url_of_http_goes_to_https(net: Net) -> None:
    response = fetch(net, "http://www.web.dnssec.playground/hello", https_records=True)
    assert (response.url, response.text) == ("https://www.web.dnssec.playground/hello", "hello\n")


def test_without_https_records_the_records_are_not_used(net: Net) -> None:
    response = fetch(net, f"https://www.web.dnssec.playground:{net.nginx.https}/hello")
    assert (response.http_version, endpoint(response)) == ("HTTP/1.1", "")


@pytest.mark.parametrize("host", ["strict", "ca"])
def test_a_secure_tlsa_record_replaces_the_authorities(net: Net, host: str) -> None:
    url = f"https://{host}.web.dnssec.playground:{net.nginx.https}/hello"
    response = fetch(net, url, cafile=net.untrusted, dane=True)
    assert response.text == "hello\n" and response.connection is not None
    assert response.connection.tlsa == f"_{net.nginx.https}._tcp.{host}.web.dnssec.playground"
    with pytest.raises(TlsError):
        fetch(net, url, cafile=net.untrusted)


def test_an_endpoint_is_verified_with_its_own_tlsa_record(net: Net) -> None:
    url = "https://www.web.dnssec.playground/hello"
    response = fetch(net, url, cafile=net.untrusted, dane=True, https_records=True)
    assert response.connection is not None
    assert response.connection.tlsa == f"_{net.nginx.http2}._tcp.alt.web.dnssec.playground"


def test_a_secure_tlsa_record_of_another_key_refuses_the_server(net: Net) -> None:
    with pytest.raises(TlsError, match="do not match the TLSA record") as caught:
        fetch(net, f"https://wrong.web.dnssec.playground:{net.nginx.https}/hello", dane=True)
    assert caught.value.certificate


def test_a_tlsa_record_of_an_unsigned_zone_is_ignored(net: Net) -> None:
    response = fetch(net, f"https://wrong.open.dnssec.playground:{net.nginx.https}/hello", dane=True)
    assert response.text == "hello\n"
    with pytest.raises(TlsError):
        fetch(net, f"https://strict.open.dnssec.playground:{net.nginx.https}/", cafile=net.untrusted, dane=True)


def test_a_bogus_tlsa_record_refuses_the_server(net: Net) -> None:
    with pytest.raises(NameResolutionError, match=r"TLSA records of .* cannot be used"):
        fetch(net, f"https://strict.forged.dnssec.playground:{net.nginx.https}/hello", dane=True)
    # Only this record is forged: the addresses of the zone are sound.
    assert fetch(net, f"https://strict.forged.dnssec.playground:{net.nginx.https}/hello").text == "hello\n"


def test_a_name_that_does_not_exist(net: Net) -> None:
    with pytest.raises(ConnectError, match=r"nothing\.web\.dnssec\.playground has no address"):
        fetch(net, "https://nothing.web.dnssec.playground/", dane=True, https_records=True)
