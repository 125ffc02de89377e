"""The client with a resolver that gives addresses as they come, HTTPS records (RFC 9460) and TLSA records (DANE)."""

import asyncio
import hashlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from support.certs import Authority, Leaf
from support.http_peer import LOOPS, OK, Peer, always_ok, run_on, serving, until
from support.records import FixedRecords, https_record, tlsa_record

from corenet import tls
from corenet.http import (
    Cache,
    ConnectError,
    HttpClient,
    LocalProtocolError,
    NameResolutionError,
    Timeout,
    TimeoutExceeded,
    TlsError,
    TracePoint,
    parse_url,
)
from corenet.http import connections as connections_module
from corenet.http.services import find_services
from corenet.http.url import Origin
from corenet.limits import HTTP_SERVICE_ALIASES
from corenet.loop import RecordLookupError, Records
from corenet.tls.dane import DanePolicy, TlsaRecord

HOST, ALT = "www.example", "alt.example"
HTTPS, TLSA, A, AAAA = 65, 52, 1, 28
NAMED = "127.0.0.1"


class Site:
    """An authority, and a certificate for `HOST`."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.leaf = self.authority.leaf(HOST)
        self.other = self.authority.leaf("other.example", file="other")

    def client(self, **options: Any) -> HttpClient:
        return HttpClient(tls_context=tls.client_context(cafile=self.authority.cafile), **options)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("names"))


def context_of(leaf: Leaf) -> Any:
    return tls.server_context(leaf.certificate, leaf.key)


def answer(*rdatas: bytes, name: str = HOST, secure: bool = False) -> Records:
    return Records(name, secure, rdatas)


def with_resolver(resolver: FixedRecords, main: Callable[[], Awaitable[None]]) -> None:
    """Run on our loop with `resolver`; no task is left when it ends."""

    async def run() -> None:
        asyncio.get_running_loop().set_resolver(resolver)  # type: ignore[attr-defined]
        await main()
        # The servers' side of a refused handshake ends a few turns later.
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, "every task has ended")

    run_on("corenet", run())


def resolver_for(*hosts: str) -> FixedRecords:
    return FixedRecords(addresses={host: [[NAMED]] for host in hosts})


def free_port() -> int:
    """A port without a listener."""
    with socket.socket() as probe:
        probe.bind((NAMED, 0))
        return int(probe.getsockname()[1])


# --- addresses --------------------------------------------------------------------------------------------------------


def test_an_attempt_starts_before_all_answers_are_in() -> None:
    resolver = FixedRecords(addresses={HOST: [[NAMED], asyncio.Event()]})
    points: list[TracePoint] = []

    async def main() -> None:
        async with serving(always_ok) as server, HttpClient(trace=points.append) as client:
            assert (await client.get(f"http://{HOST}:{server.port}/")).body == b"ok"
        assert resolver.asked == [(HOST, 0)]

    with_resolver(resolver, main)
    # The abandoned lookup has an end in the trace as well.
    assert [str(point) for point in points if (point.name, point.phase) == ("dns", "done")] == [
        f"dns.done host={HOST} complete=False addresses={NAMED}"
    ]


def test_the_next_address_is_tried_when_one_refuses() -> None:
    resolver = FixedRecords(addresses={HOST: [["::1"], ["::1", NAMED]]})
    points: list[TracePoint] = []

    async def main() -> None:
        async with serving(always_ok) as server, HttpClient(trace=points.append) as client:
            response = await client.get(f"http://{HOST}:{server.port}/")
            assert response.connection is not None and response.connection.peer == (NAMED, server.port)

    with_resolver(resolver, main)
    attempts = [point.details["address"] for point in points if (point.name, point.phase) == ("connect", "attempt")]
    assert attempts == ["::1", NAMED]
    assert [point.phase for point in points if point.name == "dns"] == ["started", "done"]


def test_errors_name_what_failed() -> None:
    resolver = resolver_for(HOST)

    async def main() -> None:
        async with HttpClient() as client:
            port = free_port()
            told = rf"cannot connect to {HOST} port {port}: {NAMED}: Connection refused"
            with pytest.raises(ConnectError, match=told):
                await client.get(f"http://{HOST}:{port}/")
            with pytest.raises(NameResolutionError, match=r"nothing\.example has no address: Name or service not"):
                await client.get("http://nothing.example/")
        async with HttpClient(local_address="::1") as client:
            with pytest.raises(NameResolutionError, match="no address of the family of the local address"):
                await client.get(f"http://{HOST}/")

    with_resolver(resolver, main)


def test_a_lookup_that_takes_too_long_ends_with_its_phase() -> None:
    resolver = FixedRecords(addresses={HOST: [asyncio.Event()]})

    async def main() -> None:
        async with HttpClient(timeout=Timeout(connect=0.05)) as client:
            with pytest.raises(TimeoutExceeded) as caught:
                await client.get(f"http://{HOST}/")
            assert caught.value.phase == "dns"

    with_resolver(resolver, main)


def test_an_error_of_the_resolver_itself_is_not_hidden() -> None:
    resolver = FixedRecords(addresses={HOST: RuntimeError("the resolver is closed")})

    async def main() -> None:
        async with HttpClient() as client:
            with pytest.raises(RuntimeError, match="the resolver is closed"):
                await client.get(f"http://{HOST}/")

    with_resolver(resolver, main)


# --- HTTPS records ----------------------------------------------------------------------------------------------------


def test_target_and_port_of_a_record_are_used_with_the_origins_name(site: Site) -> None:
    """The certificate and the field Host are those of the origin."""
    resolver = resolver_for(HOST, ALT)
    points: list[TracePoint] = []
    hosts: list[str] = []

    async def serve(peer: Peer) -> None:
        hosts.append((await peer.request())[1]["host"])
        await peer.send(OK)

    async def main() -> None:
        async with serving(serve, tls=context_of(site.leaf)) as alternative:
            port = free_port()
            record = https_record(1, ALT, port=alternative.port)
            resolver.records[f"_{port}._https.{HOST}", HTTPS] = answer(record)
            async with site.client(https_records=True, trace=points.append) as client:
                response = await client.get(f"https://{HOST}:{port}/")
            assert response.connection is not None
            assert response.connection.endpoint == f"{ALT}:{alternative.port}"
            assert hosts == [f"{HOST}:{port}"]
            [found] = [point for point in points if (point.name, point.phase) == ("https", "done")]
            assert found.details["records"] == f"1 {ALT} port={alternative.port}"

    with_resolver(resolver, main)


def test_without_https_records_no_query_is_sent(site: Site) -> None:
    resolver = resolver_for(HOST)

    async def main() -> None:
        async with serving(always_ok, tls=context_of(site.leaf)) as server, site.client() as client:
            response = await client.get(f"https://{HOST}:{server.port}/")
            assert response.connection is not None and response.connection.endpoint == ""
        assert resolver.asked == [(HOST, 0)]

    with_resolver(resolver, main)


@pytest.mark.parametrize("fault", ["refuses", "has no address", "is not the origin"])
def test_the_origin_itself_is_the_last_resort(fault: str, site: Site) -> None:
    resolver = resolver_for(HOST) if fault == "has no address" else resolver_for(HOST, ALT)
    points: list[TracePoint] = []

    async def main() -> None:
        async with serving(always_ok, tls=context_of(site.leaf)) as server, serving(
            always_ok, tls=context_of(site.other)
        ) as other_server:
            port = other_server.port if fault == "is not the origin" else free_port()
            resolver.records[f"_{server.port}._https.{HOST}", HTTPS] = answer(https_record(1, ALT, port=port))
            async with site.client(https_records=True, trace=points.append) as client:
                response = await client.get(f"https://{HOST}:{server.port}/")
            assert response.connection is not None and response.connection.peer[1] == server.port
            assert response.connection.endpoint == ""

    with_resolver(resolver, main)
    failed = [point.name for point in points if point.phase == "failed"]
    [target] = [point.details for point in points if point.phase == "target"]
    assert target["host"] == ALT and ("error" in target) == (fault == "has no address")
    assert failed == {"refuses": [], "has no address": [], "is not the origin": ["tls"]}[fault]


def test_the_error_of_tls_is_reported_when_the_origin_is_unreachable(site: Site) -> None:
    resolver = resolver_for(HOST, ALT)

    async def main() -> None:
        async with serving(always_ok, tls=context_of(site.other)) as other_server:
            port = free_port()
            resolver.records[f"_{port}._https.{HOST}", HTTPS] = answer(https_record(1, ALT, port=other_server.port))
            async with site.client(https_records=True) as client:
                with pytest.raises(TlsError, match="not for this host name"):
                    await client.get(f"https://{HOST}:{port}/")

    with_resolver(resolver, main)


def test_records_are_used_by_priority_and_protocol(site: Site) -> None:
    resolver = resolver_for(HOST, ALT, "second.example")

    async def main() -> None:
        async with serving(always_ok, tls=context_of(site.leaf)) as server:
            port = free_port()
            resolver.records[f"_{port}._https.{HOST}", HTTPS] = answer(
                https_record(1, ALT, alpn=("h3",), default=False, port=server.port),
                https_record(3, "second.example", port=server.port),
                https_record(2, ALT, port=free_port()),
            )
            async with site.client(https_records=True) as client:
                response = await client.get(f"https://{HOST}:{port}/")
            assert response.connection is not None
            assert response.connection.endpoint == f"second.example:{server.port}"

    with_resolver(resolver, main)


def test_hints_are_used_until_the_target_is_resolved(site: Site) -> None:
    resolver = FixedRecords(addresses={HOST: socket.gaierror(socket.EAI_NONAME, "none"), ALT: [asyncio.Event()]})

    async def main() -> None:
        async with serving(always_ok, tls=context_of(site.leaf)) as server:
            port = free_port()
            record = https_record(1, ALT, port=server.port, hints=(NAMED,))
            resolver.records[f"_{port}._https.{HOST}", HTTPS] = answer(record)
            async with site.client(https_records=True) as client:
                assert (await client.get(f"https://{HOST}:{port}/")).body == b"ok"

    with_resolver(resolver, main)


def test_missing_records_do_not_delay_the_connection(site: Site) -> None:
    resolver = resolver_for(HOST)
    points: list[TracePoint] = []

    async def main() -> None:
        async with serving(always_ok, tls=context_of(site.leaf)) as server:
            resolver.held[f"_{server.port}._https.{HOST}", HTTPS] = asyncio.Event()
            async with site.client(https_records=True, trace=points.append) as client:
                assert (await client.get(f"https://{HOST}:{server.port}/")).body == b"ok"

    with_resolver(resolver, main)
    assert "https.failed error=no longer needed" in map(str, points)


@pytest.mark.parametrize("bogus", [True, False])
def test_bogus_records_are_errors_and_other_failures_are_ignored(bogus: bool, site: Site) -> None:
    resolver = resolver_for(HOST)

    async def main() -> None:
        async with serving(always_ok, tls=context_of(site.leaf)) as server, site.client(https_records=True) as client:
            failure = RecordLookupError("the signature is wrong", bogus=bogus)
            resolver.records[f"_{server.port}._https.{HOST}", HTTPS] = failure
            if bogus:
                with pytest.raises(NameResolutionError, match=f"HTTPS records of {HOST} are bogus: the signature is"):
                    await client.get(f"https://{HOST}:{server.port}/")
            else:
                assert (await client.get(f"https://{HOST}:{server.port}/")).body == b"ok"

    with_resolver(resolver, main)


def test_malformed_records_are_ignored(site: Site) -> None:
    resolver = resolver_for(HOST)

    async def main() -> None:
        async with serving(always_ok, tls=context_of(site.leaf)) as server, site.client(https_records=True) as client:
            resolver.records[f"_{server.port}._https.{HOST}", HTTPS] = answer(https_record(1, ALT), b"\0\1")
            assert (await client.get(f"https://{HOST}:{server.port}/")).body == b"ok"

    with_resolver(resolver, main)


def test_aliases_are_followed_to_addresses_and_to_records(site: Site) -> None:
    """An apex that is only an alias: first to a name with addresses, then to one with records."""
    resolver = resolver_for(ALT)

    async def main() -> None:
        async with serving(always_ok, tls=context_of(site.leaf)) as server:
            named = f"_{server.port}._https.{HOST}"
            resolver.records[named, HTTPS] = answer(https_record(0, ALT))
            async with site.client(https_records=True) as client:
                response = await client.get(f"https://{HOST}:{server.port}/")
                assert response.connection is not None and response.connection.endpoint == f"{ALT}:{server.port}"
            port = free_port()
            resolver.records[f"_{port}._https.{HOST}", HTTPS] = answer(https_record(0, "step.example"))
            # The root as target is the owner of the record, after aliases.
            resolver.records["step.example", HTTPS] = answer(https_record(1, ".", port=server.port), name=ALT)
            async with site.client(https_records=True) as client:
                response = await client.get(f"https://{HOST}:{port}/")
                assert response.connection is not None and response.connection.endpoint == f"{ALT}:{server.port}"

    with_resolver(resolver, main)


@pytest.mark.parametrize("steps", [HTTP_SERVICE_ALIASES, HTTP_SERVICE_ALIASES + 1])
def test_the_number_of_aliases_is_bounded(steps: int) -> None:
    resolver = FixedRecords()
    for number in range(steps):
        name = HOST if number == 0 else f"n{number}.example"
        resolver.records[name, HTTPS] = answer(https_record(0, f"n{number + 1}.example"))

    async def main() -> None:
        found = await find_services(
            resolver, parse_url(f"https://{HOST}/").origin, protocols=("h2",), shuffle=lambda _: None, trace=None
        )
        ends = [f"n{steps}.example:443"] if steps <= HTTP_SERVICE_ALIASES else []
        assert list(map(str, found.endpoints)) == ends and len(resolver.asked) == HTTP_SERVICE_ALIASES + 1

    with_resolver(resolver, main)


def test_a_url_of_http_is_upgraded_when_there_are_usable_records(site: Site) -> None:
    resolver = resolver_for(HOST)

    async def main() -> None:
        async with serving(always_ok, tls=context_of(site.leaf)) as server:
            named = f"_{server.port}._https.{HOST}"
            for caches in (False, True):
                resolver.records[named, HTTPS] = answer(https_record(1, "."), name=HOST)
                async with site.client(https_records=True, cache=Cache() if caches else None) as client:
                    response = await client.get(f"http://{HOST}:{server.port}/x?y=1")
                    assert response.url == f"https://{HOST}:{server.port}/x?y=1"
                    async with client.stream("GET", f"http://{HOST}:{server.port}/") as streamed:
                        assert streamed.url == f"https://{HOST}:{server.port}/"
        async with serving(always_ok) as plain, site.client(https_records=True) as client:
            useless = https_record(1, ".", alpn=("h3",), default=False)
            resolver.records[f"_{plain.port}._https.{HOST}", HTTPS] = answer(useless)
            response = await client.get(f"http://{HOST}:{plain.port}/")
            assert response.url == f"http://{HOST}:{plain.port}/"
            resolver.records[f"_{plain.port}._https.{HOST}", HTTPS] = RecordLookupError("forged", bogus=True)
            with pytest.raises(NameResolutionError, match="are bogus: forged"):
                await client.get(f"http://{HOST}:{plain.port}/")

    with_resolver(resolver, main)


def test_a_url_waits_for_its_records_until_the_timeout() -> None:
    resolver = resolver_for(HOST)
    resolver.held[HOST, HTTPS] = asyncio.Event()

    async def main() -> None:
        async with HttpClient(https_records=True, timeout=Timeout(connect=0.05)) as client:
            with pytest.raises(TimeoutExceeded) as caught:
                await client.get(f"http://{HOST}/")
            assert caught.value.phase == "dns"

    with_resolver(resolver, main)


def test_a_proxy_makes_the_switches_ineffective(site: Site) -> None:
    resolver = FixedRecords()

    async def main() -> None:
        async with serving(always_ok) as proxy:
            async with site.client(https_records=True, dane=True, proxy=proxy.url) as client:
                response = await client.get(f"http://{HOST}/")
                assert response.url == f"http://{HOST}/"
        assert resolver.asked == []

    with_resolver(resolver, main)


@pytest.mark.parametrize("loop", sorted(LOOPS))
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_resolver_that_cannot_look_up_records_is_an_error(loop: str, scheme: str) -> None:
    async def main() -> None:
        async with HttpClient(https_records=True) as client:
            with pytest.raises(LocalProtocolError, match=r"need a resolver on the loop .* resolver\.install"):
                await client.get(f"{scheme}://{HOST}/")

    run_on(loop, main())


# --- DANE -------------------------------------------------------------------------------------------------------------


def digest_of(leaf: Leaf) -> bytes:
    certificate = x509.load_pem_x509_certificate(leaf.certificate.read_bytes())
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest()


def test_a_secure_tlsa_record_replaces_the_authorities(site: Site, tmp_path: Path) -> None:
    """The server's certificate is from an untrusted authority, for another name, and expired."""
    resolver = resolver_for(HOST)
    leaf = Authority(tmp_path, "Unknown").leaf("other.example", expired=True)
    points: list[TracePoint] = []

    async def main() -> None:
        async with serving(always_ok, tls=context_of(leaf)) as server:
            name, url = f"_{server.port}._tcp.{HOST}", f"https://{HOST}:{server.port}/"
            rdata = tlsa_record(3, 0, 1, digest_of(leaf))
            resolver.records[name, TLSA] = answer(rdata, name=name, secure=True)
            async with site.client(dane=True, trace=points.append) as client:
                response = await client.get(url)
                assert response.connection is not None and response.connection.tlsa == name
            # An insecure answer is ignored, whether it matches or not.
            resolver.records[name, TLSA] = answer(rdata, name=name)
            async with site.client(dane=True) as client:
                with pytest.raises(TlsError, match="issuer is not known"):
                    await client.get(url)

    with_resolver(resolver, main)
    [found] = [point.details for point in points if (point.name, point.phase) == ("tlsa", "done")]
    assert (found["records"], found["secure"]) == ("3 0 1", True)


@pytest.mark.parametrize("secure", [True, False])
def test_a_secure_tlsa_record_of_another_certificate_refuses_the_server(secure: bool, site: Site) -> None:
    resolver = resolver_for(HOST)

    async def main() -> None:
        async with serving(always_ok, tls=context_of(site.leaf)) as server, site.client(dane=True) as client:
            name, url = f"_{server.port}._tcp.{HOST}", f"https://{HOST}:{server.port}/"
            resolver.records[name, TLSA] = answer(tlsa_record(3, 1, 1, bytes(32)), name=name, secure=secure)
            if not secure:
                assert (await client.get(url)).body == b"ok"
                return
            with pytest.raises(TlsError, match=f"do not match the TLSA record of {name}") as caught:
                await client.get(url)
            assert caught.value.certificate

    with_resolver(resolver, main)


def test_unusable_tlsa_records_leave_the_authorities_in_use(site: Site) -> None:
    resolver = resolver_for(HOST)

    async def main() -> None:
        async with serving(always_ok, tls=context_of(site.leaf)) as server, site.client(dane=True) as client:
            name = f"_{server.port}._tcp.{HOST}"
            resolver.records[name, TLSA] = answer(tlsa_record(9, 1, 1, bytes(32)), name=name, secure=True)
            assert (await client.get(f"https://{HOST}:{server.port}/")).body == b"ok"

    with_resolver(resolver, main)


@pytest.mark.parametrize("bogus", [True, False])
def test_failed_tlsa_lookups_refuse_the_connection(bogus: bool, site: Site) -> None:
    resolver = resolver_for(HOST)

    async def main() -> None:
        async with serving(always_ok, tls=context_of(site.leaf)) as server, site.client(dane=True) as client:
            name = f"_{server.port}._tcp.{HOST}"
            resolver.records[name, TLSA] = RecordLookupError("the signature is wrong", bogus=bogus)
            with pytest.raises(NameResolutionError, match=f"TLSA records of {name} cannot be used: the signature"):
                await client.get(f"https://{HOST}:{server.port}/")

    with_resolver(resolver, main)


def test_the_name_behind_secure_aliases_comes_first(site: Site) -> None:
    resolver = resolver_for(HOST)

    async def main() -> None:
        async with serving(always_ok, tls=context_of(site.leaf)) as server:
            url = f"https://{HOST}:{server.port}/"
            at_alias, at_host = f"_{server.port}._tcp.{ALT}", f"_{server.port}._tcp.{HOST}"
            right, wrong = tlsa_record(3, 0, 1, digest_of(site.leaf)), tlsa_record(3, 0, 1, bytes(32))
            resolver.records[HOST, A] = answer(bytes(4), name=ALT, secure=True)
            resolver.records[at_host, TLSA] = answer(wrong, name=at_host, secure=True)
            resolver.records[at_alias, TLSA] = answer(right, name=at_alias, secure=True)
            async with site.client(dane=True) as client:
                response = await client.get(url)
                assert response.connection is not None and response.connection.tlsa == at_alias
            # An insecure alias is not followed; the records of the host itself are used.
            resolver.records[HOST, A] = answer(bytes(4), name=ALT, secure=False)
            async with site.client(dane=True) as client:
                with pytest.raises(TlsError, match=at_host):
                    await client.get(url)

    with_resolver(resolver, main)


def test_an_insecure_host_is_not_asked_for_records(site: Site) -> None:
    """Many servers of insecure zones do not answer such queries."""
    resolver = resolver_for(HOST)
    resolver.records[HOST, AAAA] = answer(bytes(16))

    async def main() -> None:
        async with serving(always_ok, tls=context_of(site.leaf)) as server, site.client(dane=True) as client:
            resolver.records[f"_{server.port}._tcp.{HOST}", TLSA] = RecordLookupError("no answer", bogus=False)
            assert (await client.get(f"https://{HOST}:{server.port}/")).body == b"ok"
        assert not [name for name, rdtype in resolver.asked if rdtype == TLSA]

    with_resolver(resolver, main)


@pytest.mark.parametrize("secure", [True, False])
def test_a_securely_found_endpoint_has_its_own_tlsa_records(secure: bool, site: Site) -> None:
    resolver = resolver_for(HOST, ALT)

    async def main() -> None:
        async with serving(always_ok, tls=context_of(site.leaf)) as server:
            port = free_port()
            own, origins = f"_{server.port}._tcp.{ALT}", f"_{port}._tcp.{HOST}"
            record = https_record(1, ALT, port=server.port)
            resolver.records[f"_{port}._https.{HOST}", HTTPS] = answer(record, secure=secure)
            right, wrong = tlsa_record(3, 0, 1, digest_of(site.leaf)), tlsa_record(3, 0, 1, bytes(32))
            resolver.records[own, TLSA] = answer(right, secure=True)
            resolver.records[origins, TLSA] = answer(wrong, secure=True)
            async with site.client(dane=True, https_records=True) as client:
                if secure:
                    response = await client.get(f"https://{HOST}:{port}/")
                    assert response.connection is not None and response.connection.tlsa == own
                else:
                    # Forged HTTPS records must not lead past the records of the origin.
                    with pytest.raises(TlsError, match=origins):
                        await client.get(f"https://{HOST}:{port}/")

    with_resolver(resolver, main)


def test_contexts_that_cannot_use_dane_are_refused() -> None:
    for context in (tls.client_context(verify=False), ssl.create_default_context()):
        with pytest.raises(ValueError, match="dane: needs a tls_context that client_context has made"):
            HttpClient(dane=True, tls_context=context)


def test_the_number_of_dane_contexts_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "HTTP_TLSA_CONTEXTS", 2)

    async def main() -> None:
        async with site.client(dane=True) as client:
            made = client._connections.make_context
            origin = Origin("https", HOST, 443)
            policies = [DanePolicy("x", (TlsaRecord(3, 1, 1, bytes((n,)) * 32),)) for n in range(3)]
            first, second = await made(origin, policies[0]), await made(origin, policies[1])
            assert await made(origin, policies[0]) is first
            await made(origin, policies[2])
            assert await made(origin, policies[0]) is first and await made(origin, policies[1]) is not second

    run_on("corenet", main())
