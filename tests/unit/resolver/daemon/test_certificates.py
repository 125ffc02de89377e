"""Certificates of the daemon: read before they are used, refused with file and reason, kept while they are the same."""

import ssl
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.certs import Authority, Leaf

from resolver import limits
from resolver.daemon.certificates import ExpiryWatch, load
from resolver.settings import ListenerSettings, Settings, TlsSettings

DAY = 86_400


def settings(*leaves: Leaf, protocol: str = "tls") -> Settings:
    return Settings(
        tls=TlsSettings(
            certificate=tuple(str(leaf.certificate) for leaf in leaves), key=tuple(str(leaf.key) for leaf in leaves)
        ),
        listener=(ListenerSettings(address="127.0.0.1", protocol=protocol),),
    )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def names_served(context: ssl.SSLContext, authority: Authority, name: str) -> list[str]:
    """The names in the certificate that a client which asks for `name` gets."""
    client = ssl.create_default_context(cafile=str(authority.cafile))
    client.check_hostname = False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname=name)
    other = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (one, other):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return [value for kind, value in one.getpeercert()["subjectAltName"] if kind == "DNS"]


def test_without_a_listener_with_tls_no_file_is_read() -> None:
    assert load(Settings(tls=TlsSettings(certificate=("missing",), key=("missing",)))) is None


def test_contexts_are_kept_while_the_files_are_the_same(authority: Authority) -> None:
    leaf = authority.leaf("dns.example")
    first = load(settings(leaf))
    assert first is not None
    assert load(settings(leaf), first) is first
    authority.leaf("dns.example")  # a new key and certificate in the same files
    second = load(settings(leaf), first)
    assert second is not None and second is not first
    assert second.context("tls") is not first.context("tls")


def test_the_certificate_follows_the_name_that_is_asked_for(authority: Authority) -> None:
    first = authority.leaf("one.example", file="one")
    second = authority.leaf("two.example", "*.two.example", file="two")
    certificates = load(settings(first, second, protocol="https"))
    assert certificates is not None
    context = certificates.context("https")
    assert names_served(context, authority, "one.example") == ["one.example"]
    assert names_served(context, authority, "Two.example") == ["two.example", "*.two.example"]
    assert names_served(context, authority, "x.two.example") == ["two.example", "*.two.example"]
    assert names_served(context, authority, "other.example") == ["one.example"]


def missing(leaf: Leaf) -> None:
    leaf.key.unlink()


def unreadable(leaf: Leaf) -> None:
    leaf.certificate.unlink()
    leaf.certificate.mkdir()


def no_certificate(leaf: Leaf) -> None:
    leaf.certificate.write_bytes(leaf.key.read_bytes())


def other_key(leaf: Leaf) -> None:
    Authority(leaf.key.parent).leaf("x", file="other")
    leaf.key.write_bytes((leaf.key.parent / "other.key").read_bytes())


def encrypted(leaf: Leaf) -> None:
    command = ["openssl", "pkcs8", "-topk8", "-in", str(leaf.key), "-passout", "pass:x"]
    leaf.key.write_bytes(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)


def no_key(leaf: Leaf) -> None:
    leaf.key.write_text("nothing")


def huge(leaf: Leaf) -> None:
    leaf.certificate.write_bytes(b"x" * (limits.TLS_FILE_SIZE + 1))


@pytest.mark.parametrize(
    ("damage", "setting", "words"),
    [
        (missing, "tls.key", "cannot be read: No such file"),
        (unreadable, "tls.certificate", "cannot be read: Is a directory"),
        (no_certificate, "tls.certificate", "no PEM certificate"),
        (other_key, "tls.key", "not the key of"),
        (encrypted, "tls.key", "encrypted"),
        (no_key, "tls.key", "cannot be used with"),
        (huge, "tls.certificate", "larger than"),
    ],
)
def test_what_cannot_be_used_is_refused_with_file_and_reason(
    authority: Authority, damage: Callable[[Leaf], None], setting: str, words: str
) -> None:
    leaf = authority.leaf("dns.example")
    damage(leaf)
    with pytest.raises(ValueError, match=words) as caught:
        load(settings(leaf))
    file = leaf.key if setting == "tls.key" else leaf.certificate
    assert str(caught.value).startswith(f"{setting}: {str(file)!r}: ")


def test_warnings_begin_two_weeks_before_the_end_and_come_once_a_day(authority: Authority) -> None:
    leaf = authority.leaf("dns.example")
    certificates = load(settings(leaf))
    assert certificates is not None
    [end] = certificates.expiry().values()
    watch = ExpiryWatch()
    assert watch.due(certificates, end - 14 * DAY) == []
    [text] = watch.due(certificates, end - 14 * DAY + 1)
    assert text == f"tls.certificate: {leaf.certificate} expires in 13 days; renew it and reload (SIGHUP)"
    begin = (end // DAY - 5) * DAY
    assert len(watch.due(certificates, begin)) == 1
    assert watch.due(certificates, begin + DAY - 1) == []
    assert len(watch.due(certificates, begin + DAY)) == 1


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (2 * DAY, "expires in 2 days"),
        (2 * DAY - 1, "expires in 1 day;"),
        (DAY - 1, "expires in 23 hours"),
        (3600, "expires in 1 hour;"),
        (3599, "expires in less than one hour"),
        (0, "expired since "),
        (-3 * DAY, "expired since "),
    ],
)
def test_the_last_day_is_counted_in_hours(authority: Authority, left: int, words: str) -> None:
    certificates = load(settings(authority.leaf("dns.example")))
    assert certificates is not None
    [end] = certificates.expiry().values()
    [text] = ExpiryWatch().due(certificates, end - left)
    assert words in text
    if left <= 0:
        assert f"since {datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} UTC" in text


def test_an_expired_certificate_is_served_all_the_same(authority: Authority) -> None:
    """Some clients do not check it; refusing to start would take away UDP and TCP as well."""
    assert load(settings(authority.leaf("dns.example", expired=True))) is not None


def test_quic_has_a_configuration_and_the_others_keep_theirs(authority: Authority) -> None:
    leaf = authority.leaf("dns.example")
    found = load(settings(leaf, protocol="quic"))
    assert found is not None
    assert found.context("quic").alpn_protocols == ["doq"] and not found.context("quic").is_client
    assert load(settings(leaf, protocol="quic"), found) is found
    without = load(settings(leaf))
    assert without is not None
    both = load(settings(leaf, protocol="quic"), without)  # it had no configuration for QUIC
    assert both is not None and both.context("quic").alpn_protocols == ["doq"]
    assert both.context("tls") is without.context("tls"), "a first listener for QUIC costs no session tickets"
    assert both.context("https") is without.context("https")


def test_quic_without_its_library_is_refused(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"quic needs qh3.*pip install 'corenet-resolver\[quic\]'"):
        load(settings(authority.leaf("dns.example"), protocol="quic"))


def test_a_key_that_quic_cannot_use(authority: Authority) -> None:
    leaf = authority.leaf("dns.example")
    leaf.key.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ValueError, match=r"tls\.key"):
        load(settings(leaf, protocol="quic"))


def test_quic_beside_tls_on_one_port_but_without_proxy_headers() -> None:
    tls = TlsSettings(certificate=("c",), key=("k",))
    both = tuple(ListenerSettings(address="127.0.0.1", protocol=protocol) for protocol in ("tls", "quic"))
    assert [one.key for one in Settings(tls=tls, listener=both).listener] == [
        ("127.0.0.1", 853, "tls"), ("127.0.0.1", 853, "quic")
    ]
    plain = ListenerSettings(address="127.0.0.1:853", protocol="dns")
    with pytest.raises(ValueError, match="is the address and port of"):
        Settings(tls=tls, listener=(plain, both[1]))
    with pytest.raises(ValueError, match="PROXY headers are not read"):
        ListenerSettings(address="127.0.0.1", protocol="quic", proxy_protocol_from=("10.0.0.0/8",))
