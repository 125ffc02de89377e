"""Certificates of the daemon: read before they are used, refused with file and reason, kept while they are the same."""

import errno
import logging
import os
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority, Leaf

from corenet.tls import CertificateRefused, client_context
from corenet.tls.engines import make_tls_engine
from resolver import limits
from resolver.daemon import certificates
from resolver.daemon.certificates import ExpiryWatch, load
from resolver.settings import ListenerSettings, Settings, TlsSettings

DAY = 86_400


def settings(*leaves: Leaf, protocol: str = "tls", staples: tuple[str, ...] = ()) -> Settings:
    return Settings(
        tls=TlsSettings(
            certificate=tuple(str(leaf.certificate) for leaf in leaves),
            key=tuple(str(leaf.key) for leaf in leaves),
            ocsp_staple=staples,
        ),
        listener=(ListenerSettings(address="127.0.0.1", protocol=protocol),),
    )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def client_of(authority: Authority) -> ssl.SSLContext:
    client = ssl.create_default_context(cafile=str(authority.cafile))
    client.check_hostname = False
    return client


def connect(context: ssl.SSLContext, client: ssl.SSLContext, name: str, session: Any = None) -> Any:
    """The client's end of a connection, which has received an octet and the tickets before it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname=name, session=session)
    other = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (one, other):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    other.write(b"x")
    assert one.read(1) == b"x"
    return one


def names_served(context: ssl.SSLContext, authority: Authority, name: str) -> list[str]:
    """The names in the certificate that a client which asks for `name` gets."""
    one = connect(context, client_of(authority), name)
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


def test_certificates_in_use_stay_when_this_user_may_not_read_them(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start reads them as root, and then becomes another user. A reload reads them as that one."""
    leaf = authority.leaf("dns.example")
    first = load(settings(leaf))
    other = replace(settings(leaf), tls=TlsSettings(certificate=("other",), key=("other",)))

    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(certificates, "open_regular", refuse)
    assert load(settings(leaf), first, keep_unreadable=True) is first
    for given, keep in ((settings(leaf), False), (other, True)):
        with pytest.raises(ValueError, match="cannot be read: Permission denied"):
            load(given, first, keep_unreadable=keep)


def test_the_certificate_is_selected_by_sni(authority: Authority) -> None:
    first = authority.leaf("one.example", file="one")
    second = authority.leaf("two.example", "*.two.example", file="two")
    certificates = load(settings(first, second, protocol="https"))
    assert certificates is not None
    context = certificates.context("https")
    assert names_served(context, authority, "one.example") == ["one.example"]
    assert names_served(context, authority, "Two.example") == ["two.example", "*.two.example"]
    assert names_served(context, authority, "x.two.example") == ["two.example", "*.two.example"]
    assert names_served(context, authority, "other.example") == ["one.example"]


def test_the_sessions_that_openssl_keeps_are_counted(authority: Authority) -> None:
    """TLS 1.2 without tickets: the state of the session stays with the server, also when the connection has ended."""
    certificates = load(settings(authority.leaf("dns.example")))
    assert certificates is not None
    client = client_of(authority)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.options |= ssl.OP_NO_TICKET
    context, before = certificates.context("tls"), certificates.memory()
    assert before.octets == 0
    assert before.limit == 2 * limits.TLS_SERVER_SESSIONS * limits.TLS_SERVER_SESSION_OCTETS, "of TLS and HTTPS"
    for _ in range(3):
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        one = client.wrap_bio(to_client, to_server, server_hostname="dns.example")
        other = context.wrap_bio(to_server, to_client, server_side=True)
        for step in ("do_handshake", "do_handshake", "do_handshake", "unwrap", "unwrap"):
            for side in (one, other):
                try:
                    getattr(side, step)()
                except ssl.SSLWantReadError:
                    continue
    del one, other
    assert certificates.memory().octets == 3 * limits.TLS_SERVER_SESSION_OCTETS


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
def test_unusable_files_are_refused_with_file_and_reason(
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
    [(level, text)] = watch.due(certificates, end - 14 * DAY + 1)
    assert level == logging.WARNING
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
    [(_, text)] = ExpiryWatch().due(certificates, end - left)
    assert words in text
    if left <= 0:
        assert f"since {datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} UTC" in text


def test_an_expired_certificate_is_still_served(authority: Authority) -> None:
    """Some clients do not check it; refusing to start would take away UDP and TCP as well."""
    assert load(settings(authority.leaf("dns.example", expired=True))) is not None


def test_quic_has_a_configuration_and_the_others_keep_theirs(authority: Authority) -> None:
    leaf = authority.leaf("dns.example")
    found = load(settings(leaf, protocol="quic"))
    assert found is not None
    assert found.context("quic")[""].alpn_protocols == ["doq"] and not found.context("quic")[""].is_client
    assert load(settings(leaf, protocol="quic"), found) is found
    without = load(settings(leaf))
    assert without is not None
    both = load(settings(leaf, protocol="quic"), without)  # it had no configuration for QUIC
    assert both is not None and both.context("quic")[""].alpn_protocols == ["doq"]
    assert both.context("tls") is without.context("tls"), "a first listener for QUIC costs no session tickets"
    assert both.context("https") is without.context("https")


def test_quic_without_its_library_is_refused(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"quic needs qh3.*pip install 'corenet-resolver\[quic\]'"):
        load(settings(authority.leaf("dns.example"), protocol="quic"))


def test_a_key_that_quic_cannot_use_is_refused(authority: Authority) -> None:
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


# --- session tickets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["tls", "https"])
def test_tickets_stay_valid_across_new_certificates_and_names(authority: Authority, protocol: str) -> None:
    first, second = authority.leaf("one.example", file="one"), authority.leaf("two.example", file="two")
    client = client_of(authority)
    found = [load(settings(first, second, protocol=protocol))]
    for file in ("one", "two"):
        authority.leaf(f"{file}.example", file=file)  # renewed
        found.append(load(settings(first, second, protocol=protocol), found[-1]))
    for name in ("one.example", "two.example"):
        for before, after in pairwise(found):
            assert before is not None and after is not None and before is not after
            session = connect(before.context(protocol), client, name).session
            assert connect(after.context(protocol), client, name, session).session_reused


def test_tickets_are_accepted_for_one_more_period(authority: Authority) -> None:
    found = load(settings(authority.leaf("dns.example")))
    assert found is not None
    context, client, began = found.context("tls"), client_of(authority), time.monotonic()
    session = connect(context, client, "dns.example").session
    assert found.rotate_ticket_keys(began + limits.TICKET_KEY_PERIOD + 60) <= limits.TICKET_KEY_PERIOD
    assert connect(context, client, "dns.example", session).session_reused
    found.rotate_ticket_keys(began + 2 * limits.TICKET_KEY_PERIOD + 60)
    assert not connect(context, client, "dns.example", session).session_reused


def test_two_daemons_do_not_accept_tickets_of_each_other(authority: Authority) -> None:
    leaf = authority.leaf("dns.example")
    one, other = load(settings(leaf)), load(settings(leaf))
    assert one is not None and other is not None
    client = client_of(authority)
    session = connect(one.context("tls"), client, "dns.example").session
    assert not connect(other.context("tls"), client, "dns.example", session).session_reused


def test_certificates_work_without_libssl(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corenet.tls.tickets.load", lambda: "no libssl")
    found = load(settings(authority.leaf("dns.example")))
    assert found is not None and found.ticket_trouble == "session ticket keys cannot be set: no libssl"
    assert found.rotate_ticket_keys(time.monotonic()) > 0
    assert names_served(found.context("tls"), authority, "dns.example") == ["dns.example"]


# --- staples ----------------------------------------------------------------------------------------------------------


def with_staple(authority: Authority, **options: Any) -> tuple[Leaf, Path]:
    leaf, staple = authority.leaf("dns.example"), authority.folder / "leaf.ocsp"
    staple.write_bytes(authority.staple(leaf, **options))
    return leaf, staple


def test_a_new_staple_is_read_and_keeps_ticket_keys(authority: Authority) -> None:
    leaf, staple = with_staple(authority, hours=30)
    given = settings(leaf, staples=(str(staple),))
    before = load(given)
    assert before is not None and load(given, before) is before
    staple.write_bytes(authority.staple(leaf, hours=90))
    after = load(given, before)
    assert after is not None and after is not before
    [old], [new] = before.staple_expiry().values(), after.staple_expiry().values()
    assert new > old + 50 * 3600
    client = client_of(authority)
    session = connect(before.context("tls"), client, "dns.example").session
    assert connect(after.context("tls"), client, "dns.example", session).session_reused


def test_one_of_several_certificates_may_have_a_staple(authority: Authority) -> None:
    leaf, staple = with_staple(authority)
    other = authority.leaf("other.example", file="other")
    found = load(settings(other, leaf, staples=("", str(staple))))
    assert found is not None and found.staple_expiry().keys() == {str(staple)}
    with pytest.raises(ValueError, match="1 files for 2 certificates"):
        settings(other, leaf, staples=(str(staple),))


def gone(authority: Authority, leaf: Leaf, staple: Path) -> None:
    staple.unlink()


def revoked(authority: Authority, leaf: Leaf, staple: Path) -> None:
    staple.write_bytes(authority.staple(leaf, revoked=True))


def of_another(authority: Authority, leaf: Leaf, staple: Path) -> None:
    staple.write_bytes(authority.staple(authority.leaf("other.example", file="other")))


def garbage(authority: Authority, leaf: Leaf, staple: Path) -> None:
    staple.write_bytes(leaf.certificate.read_bytes())


def empty(authority: Authority, leaf: Leaf, staple: Path) -> None:
    staple.write_bytes(b"")


def endless(authority: Authority, leaf: Leaf, staple: Path) -> None:
    staple.write_bytes(bytes(limits.TLS_FILE_SIZE + 1))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (gone, "cannot be read: No such file"),
        (revoked, "the certificate was revoked on "),
        (of_another, "the OCSP staple is for another certificate"),
        (garbage, "the OCSP staple cannot be read"),
        (empty, "the file is empty"),
        (endless, "larger than"),
    ],
)
def test_a_staple_that_clients_would_refuse_is_refused_with_file_and_reason(
    authority: Authority, damage: Callable[[Authority, Leaf, Path], None], words: str
) -> None:
    leaf, staple = with_staple(authority)
    given = settings(leaf, staples=(str(staple),))
    before = load(given)
    damage(authority, leaf, staple)
    for known in (None, before):
        with pytest.raises(ValueError, match=words) as caught:
            load(given, known)
        assert str(caught.value).startswith(f"tls.ocsp-staple: {str(staple)!r}: ")


def test_a_staple_without_libssl_is_refused(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    leaf, staple = with_staple(authority)
    monkeypatch.setattr("corenet.tls.staples.load", lambda: "no libssl")
    with pytest.raises(ValueError, match="OCSP responses cannot be stapled: no libssl"):
        load(settings(leaf, staples=(str(staple),)))


def test_warnings_of_a_staple_begin_one_day_before_its_end(authority: Authority) -> None:
    leaf, staple = with_staple(authority)
    found = load(settings(leaf, staples=(str(staple),)))
    assert found is not None
    [end] = found.staple_expiry().values()
    watch = ExpiryWatch()
    assert watch.due(found, end - DAY) == []
    [(_, text)] = watch.due(found, end - DAY + 1)
    assert text == f"tls.ocsp-staple: {staple} expires in 23 hours; fetch a new one and reload (SIGHUP)"
    assert watch.due(found, end - DAY + 2) == []
    [(_, text)] = ExpiryWatch().due(found, end + DAY)
    assert "expired since" in text and "so it is not sent" in text


def staple_sent(context: ssl.SSLContext, authority: Authority) -> bool:
    """Whether a client that requires a staple accepts the server."""
    client = make_tls_engine(client_context(cafile=authority.cafile, staples="required"), False, "dns.example")
    server = make_tls_engine(context, True)
    try:
        for _ in range(4):
            for one, other in ((client, server), (server, client)):
                one.handshake()
                other.feed(one.drain())
    except CertificateRefused:
        return False
    return True


@pytest.mark.parametrize("signer", ["issuer", "responder"])
def test_a_stale_staple_does_not_prevent_the_start(authority: Authority, signer: str) -> None:
    """The certificate is used without its staple, at a start and at a reload; log and metrics report it."""
    leaf, staple = with_staple(authority)
    # The chain has the issuer, so that the signature is checked.
    leaf.certificate.write_bytes(leaf.certificate.read_bytes() + authority.cafile.read_bytes())
    given = settings(leaf, staples=(str(staple),))
    before = load(given)
    assert before is not None
    staple.write_bytes(authority.staple(leaf, hours=-1, delegated=signer == "responder"))
    for known in (None, before):
        found = load(given, known)
        assert found is not None
        [end] = found.staple_expiry().values()
        now = end + 3600
        [(level, text)] = ExpiryWatch().due(found, now)
        assert level == logging.WARNING
        assert text == (
            f"tls.ocsp-staple: {staple} expired since {datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} UTC, so it is"
            " not sent; fetch a new one and reload (SIGHUP)"
        )
        assert not staple_sent(found.context("tls"), authority)
        assert found.staples_missing(now) == {}
    assert staple_sent(before.context("tls"), authority)


@pytest.mark.parametrize("damage", ["signature", "revoked"])
def test_a_stale_staple_that_is_wrong_too_is_refused(authority: Authority, damage: str) -> None:
    leaf, staple = with_staple(authority)
    leaf.certificate.write_bytes(leaf.certificate.read_bytes() + authority.cafile.read_bytes())
    data = authority.staple(leaf, hours=-1, revoked=damage == "revoked")
    staple.write_bytes(data if damage == "revoked" else data[:-1] + bytes([data[-1] ^ 1]))
    words = "revoked on" if damage == "revoked" else "signature of the OCSP staple is wrong"
    with pytest.raises(ValueError, match=words):
        load(settings(leaf, staples=(str(staple),)))


@pytest.mark.parametrize("state", ["none", "stale", "good"])
def test_must_staple_without_a_staple_is_an_error_in_the_log(authority: Authority, state: str) -> None:
    leaf, staple = authority.leaf("dns.example", must_staple=True), authority.folder / "leaf.ocsp"
    staple.write_bytes(authority.staple(leaf, hours=-1 if state == "stale" else 48))
    found = load(settings(leaf, staples=() if state == "none" else (str(staple),)))
    assert found is not None
    now = int(time.time())
    watch = ExpiryWatch()
    errors = [text for level, text in watch.due(found, now) if level == logging.ERROR]
    assert found.staples_missing(now) == {str(leaf.certificate): int(state != "good")}
    assert errors == ([] if state == "good" else [
        f"tls.ocsp-staple: none is sent with {leaf.certificate}, whose must-staple demands one, so clients may refuse"
        " it; fetch one and reload (SIGHUP)"
    ])
    assert watch.due(found, now) == []  # once a day
    if state == "good":
        [end] = found.staple_expiry().values()
        assert found.staples_missing(end) == {str(leaf.certificate): 1}
