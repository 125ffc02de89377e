"""The authorities of encrypted servers: read and checked once, when the configuration is loaded, off the loop."""

import asyncio
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority

from corenet import tls
from resolver import limits
from resolver.api import Resolver
from resolver.net import client_contexts
from resolver.net.client_contexts import TlsContexts, check, contexts_for, encrypted_servers
from resolver.settings import ForwardZone, IterationSettings, Settings, StubZone
from resolver.upstream_address import Encryption

NAMED = "tls://192.0.2.1#dns.example"
PINNED = "tls://192.0.2.1#sha256//" + "A" * 43 + "="
BEGIN, END = "-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def settings(cafile: Path | str, *addresses: str) -> Settings:
    return Settings(
        forward=(ForwardZone(".", addresses),), iteration=IterationSettings(tls_cert_bundle=str(cafile))
    )


BROKEN: list[tuple[str | None, str]] = [
    (None, "cannot be read: No such file or directory"),
    ("", "the file has no certificate in PEM form"),
    ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "the file has no certificate in PEM form"),
    (BEGIN + "not base64!\n" + END, "the file has no certificate in PEM form"),
    ("x" * (limits.CA_FILE_SIZE + 1), f"the file is larger than {limits.CA_FILE_SIZE} bytes"),
]


@pytest.mark.parametrize(("content", "reason"), BROKEN, ids=[reason for _, reason in BROKEN])
def test_an_unusable_file_is_a_configuration_error(
    tmp_path: Path, content: str | None, reason: str
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    for make in (contexts_for, check, Resolver):
        with pytest.raises(ValueError) as caught:
            make(settings(file, NAMED))
        assert str(caught.value) == f"iteration.tls_cert_bundle: {str(file)!r}: {reason}"
    with pytest.raises(ValueError, match=r"ca\.pem': " + reason.split(" is ")[0]):
        asyncio.run(TlsContexts(str(file)).get(Encryption("tls", "dns.example")))


def test_a_malformed_certificate_is_found_by_the_configuration_check(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text(BEGIN + "AAAA\n" + END)
    with pytest.raises(ValueError, match=r"^iteration\.tls_cert_bundle: '.*ca\.pem': cannot be used: .+"):
        check(settings(file, NAMED))


def test_an_unneeded_file_is_not_read(tmp_path: Path) -> None:
    """Without encrypted servers, and with those that are authenticated by a pin alone."""
    for zone in (ForwardZone(".", ("192.0.2.1",)), ForwardZone(".", (PINNED,))):
        given = Settings(forward=(zone,), iteration=IterationSettings(tls_cert_bundle=str(tmp_path / "none.pem")))
        check(given)
        Resolver(given)
    assert Resolver(Settings()).tls_contexts is None


def test_the_text_between_certificates_may_be_anything(authority: Authority, tmp_path: Path) -> None:
    """The list of Mozilla has names beyond ASCII, which the standard library refuses in text."""
    file = tmp_path / "ca.pem"
    file.write_bytes("Főtanúsítvány\n=====\n".encode())
    with file.open("ab") as out:
        out.write(authority.cafile.read_bytes() + b"\xff\n" + authority.cafile.read_bytes())
    contexts = check(settings(file, NAMED))
    assert contexts.authorities().count(b"BEGIN") == 2


def test_the_content_read_at_load_is_used_when_the_file_changes(authority: Authority, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(authority.cafile.read_bytes())
    contexts = contexts_for(settings(file, NAMED))
    file.unlink()
    context = contexts.make(Encryption("tls", "dns.example"))
    assert len(context.get_ca_certs()) == 1
    assert asyncio.run(contexts.load_authorities()) == authority.cafile.read_bytes()


def test_contexts_are_made_once_and_in_a_thread(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[threading.Thread] = []
    real = tls.client_context

    def counted(**options: Any) -> ssl.SSLContext:
        made.append(threading.current_thread())
        return real(**options)

    monkeypatch.setattr(tls, "client_context", counted)

    async def main() -> None:
        contexts = TlsContexts(str(authority.cafile))
        server = Encryption("tls", "dns.example")
        found = await asyncio.gather(*(contexts.get(server) for _ in range(5)))
        assert len(set(map(id, found))) == 1 and await contexts.get(server) is found[0]
        assert await contexts.get(server._replace(name="other.example")) is found[0], "the name is no part of it"
        assert len(made) == 1 and made[0] is not threading.current_thread()
        assert await contexts.get(Encryption("https", "dns.example", (), "/")) is not found[0]
        http1 = await contexts.get(Encryption("https", "dns.example", (), "/"), http1=True)
        assert http1 is not await contexts.get(Encryption("https", "dns.example", (), "/"))
        assert len(made) == 3
        prepared = TlsContexts(str(authority.cafile))
        prepared.prepare([server, Encryption("quic", "dns.example")])
        before = len(made)
        await prepared.get(server)
        assert len(made) == before

    asyncio.run(main())


def test_a_failure_is_tried_again_by_the_next_connection(tmp_path: Path, authority: Authority) -> None:
    file = tmp_path / "ca.pem"
    contexts = TlsContexts(str(file))

    async def main() -> None:
        with pytest.raises(ValueError, match="No such file"):
            await contexts.get(Encryption("tls", "dns.example"))
        file.write_bytes(authority.cafile.read_bytes())
        assert isinstance(await contexts.get(Encryption("tls", "dns.example")), ssl.SSLContext)

    asyncio.run(main())


def test_the_system_s_authorities_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    real = client_contexts.system_authorities
    monkeypatch.setattr(client_contexts, "system_authorities", lambda: reads.append(1) or real())

    async def main() -> None:
        contexts = TlsContexts()
        first = await contexts.load_authorities()
        assert await contexts.load_authorities() is first and len(reads) == 1
        assert first.count(b"BEGIN CERTIFICATE") == len(ssl.create_default_context().get_ca_certs())

    asyncio.run(main())


def test_contexts_are_kept_only_for_the_same_authorities(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    file, other = tmp_path / "ca.pem", Authority(tmp_path / "other").cafile
    file.write_bytes(authority.cafile.read_bytes())
    before = contexts_for(settings(file, NAMED))
    assert before.same_trust(contexts_for(settings(file, NAMED)))
    assert not before.same_trust(contexts_for(settings(other, NAMED)))
    file.write_bytes(authority.cafile.read_bytes() * 2)
    assert not before.same_trust(contexts_for(settings(file, NAMED)))
    assert not before.same_trust(TlsContexts()) and TlsContexts().same_trust(TlsContexts())


def test_servers_of_all_zones_are_found_once() -> None:
    given = Settings(
        forward=(ForwardZone(".", (NAMED, PINNED)), ForwardZone("a.example", (NAMED,)), ForwardZone("b.example")),
        stub=(StubZone("c.example", ("tls://192.0.2.9#ns.example",)),),
    )
    assert [one.name for one in encrypted_servers(given)] == ["dns.example", "", "ns.example"]
