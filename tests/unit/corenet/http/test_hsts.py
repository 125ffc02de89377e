"""HSTS: the field's grammar, which hosts are known, upgrades before anything is sent, and only over verified TLS."""

from pathlib import Path

import pytest
from support.certs import Authority
from support.http_peer import LOOPS, Peer, always_ok, run_on, serving

from corenet import limits, tls
from corenet.http import Headers, HstsStore, HttpClient, RedirectError, TlsError, parse_url
from corenet.http.hsts import parse_policy


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("max-age=31536000", (31_536_000, False)),
        ("max-age=31536000 ; includeSubDomains", (31_536_000, True)),
        ('MAX-AGE = "5"; INCLUDESUBDOMAINS; preload', (5, True)),
        (";; max-age=5;", (5, False)),
        ("max-age=0", (0, False)),
        ('max-age=5; x="a;b\\"c"', (5, False)),
        ("max-age=" + "9" * 5000, (limits.HTTP_HSTS_SECONDS, False)),
        ("max-age=00000000000000005", (5, False)),
        ("", None),
        ("includeSubDomains", None),
        ("max-age", None),
        ("max-age=", None),
        ("max-age=-1", None),
        ("max-age=1.5", None),
        ("max-age=x", None),
        ("max-age=1; max-age=1", None),
        ("max-age=1, includeSubDomains", None),
        ("max-age=1 includeSubDomains", None),
        ('max-age="1', None),
        ("max-age=\xb2", None),
    ],
)
def test_the_field_is_parsed(text: str, policy: tuple[int, bool] | None) -> None:
    assert parse_policy(text) == policy


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Verified:
    """The attributes of a transport whose certificate and name were verified."""

    check_hostname = True

    def get_extra_info(self, name: str) -> "Verified | None":
        return self if name == "sslcontext" else None


VERIFIED = Verified()


def note(store: HstsStore, url: str, *fields: str) -> None:
    store.note(parse_url(url), Headers.of([("Strict-Transport-Security", field) for field in fields]), VERIFIED)


@pytest.mark.parametrize(
    ("url", "upgraded"),
    [
        ("http://a.org/", "https://a.org/"),
        ("http://a.org./x?y#z", "https://a.org./x?y#z"),
        ("http://a.org:80/x", "https://a.org/x"),
        ("http://a.org:8080/x", "https://a.org:8080/x"),
        ("http://www.a.org/", "http://www.a.org/"),
        ("http://sub.org/", "https://sub.org/"),
        ("http://x.y.sub.org/", "https://x.y.sub.org/"),
        ("http://xsub.org/", "http://xsub.org/"),
        ("http://org/", "http://org/"),
        ("https://a.org/", "https://a.org/"),
        ("http://192.0.2.1/", "http://192.0.2.1/"),
        ("http://[2001:db8::1]/", "http://[2001:db8::1]/"),
    ],
)
def test_known_hosts_are_upgraded_to_https(url: str, upgraded: str) -> None:
    store = HstsStore()
    note(store, "https://A.org./", "max-age=100", "max-age=0")
    note(store, "https://sub.org/", "max-age=100; includeSubDomains")
    note(store, "https://192.0.2.1/", "max-age=100")
    note(store, "https://[2001:db8::1]/", "max-age=100")
    note(store, "http://www.a.org/", "max-age=100")
    assert store.upgrade(parse_url(url)).text == upgraded and len(store) == 2


def test_policies_expire_and_are_replaced() -> None:
    clock = Clock()
    store = HstsStore(clock=clock)
    note(store, "https://a.org/", "max-age=10; includeSubDomains")
    assert store.knows("www.a.org")
    note(store, "https://a.org/", "max-age=20")
    assert store.knows("a.org") and not store.knows("www.a.org")
    note(store, "https://a.org/", "nonsense")
    note(store, "https://a.org/")
    clock.now += 19
    assert store.knows("a.org")
    clock.now += 1
    assert not store.knows("a.org") and len(store) == 0
    note(store, "https://a.org/", "max-age=20")
    note(store, "https://a.org/", "max-age=0")
    assert len(store) == 0


def test_the_number_of_hosts_is_bounded() -> None:
    store = HstsStore()
    for number in range(limits.HTTP_HSTS_HOSTS + 10):
        note(store, f"https://h{number}.org/", "max-age=10")
    assert len(store) == limits.HTTP_HSTS_HOSTS
    assert not store.knows("h9.org") and store.knows("h10.org") and store.knows(f"h{number}.org")


POLICY = b"HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=100\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_the_client_upgrades_only_after_verified_tls(loop: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    leaf = authority.leaf("localhost")

    async def main() -> None:
        async def serve(peer: Peer) -> None:
            while True:
                await peer.request()
                await peer.send(POLICY)

        context = tls.server_context(leaf.certificate, leaf.key)
        trusting = tls.client_context(cafile=authority.cafile)
        unverified = tls.client_context(verify=False)
        store = HstsStore()
        async with serving(serve, tls=context) as server:
            http = f"http://localhost:{server.port}/"
            async with HttpClient(tls_context=unverified, hsts=store) as client:
                assert (await client.get(server.url)).status == 200
            assert len(store) == 0
            async with HttpClient(tls_context=trusting, hsts=store) as client:
                async with client.stream("GET", server.url):
                    pass
                assert len(store) == 1
                response = await client.get(http)
                assert response.status == 200 and response.url == server.url + "/"
            # An attacker on the path gets no plaintext, even when its certificate is refused.
            async with HttpClient(hsts=store) as client:
                with pytest.raises(TlsError):
                    await client.get(http)
        async with serving(serve) as plain, HttpClient(hsts=HstsStore()) as client:
            await client.get(plain.url)
            assert client._hsts is not None and len(client._hsts) == 0

    run_on(loop, main())


@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_redirects_are_upgraded(loop: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    leaf = authority.leaf("localhost")

    async def main() -> None:
        store = HstsStore()
        context = tls.server_context(leaf.certificate, leaf.key)
        async with serving(always_ok, tls=context) as target:
            location = f"http://localhost:{target.port}/"

            async def serve(peer: Peer) -> None:
                await peer.request()
                await peer.send(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())

            async with (
                serving(serve, tls=context) as server,
                HttpClient(tls_context=tls.client_context(cafile=authority.cafile), hsts=store) as client,
            ):
                with pytest.raises(RedirectError, match="https to http"):
                    await client.get(server.url)
                note(store, "https://localhost/", "max-age=100")
                assert (await client.get(server.url)).url == target.url + "/"

    run_on(loop, main())


def test_a_trailing_line_end_does_not_loop() -> None:
    """`$` in a regular expression also matches before a trailing line end: the parser would loop for ever."""
    assert parse_policy("max-age=1\n") is None
    assert parse_policy("max-age=1;\n") is None
