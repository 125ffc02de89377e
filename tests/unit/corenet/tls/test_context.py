"""TLS contexts have safe defaults, and failed handshakes give a readable reason.

The handshakes run between two memory buffers, without a socket, so each failure is caused deliberately.
"""

import ssl
import warnings
from pathlib import Path

import pytest
from support.certs import Authority

from corenet import tls


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def shake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A handshake in memory; it raises the client's exception."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [ours, theirs]
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
    assert not waiting
    return ours, theirs


def test_the_default_context_is_made_once_and_is_strict() -> None:
    context = tls.default_client_context()
    assert tls.default_client_context() is context
    assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_flags & ssl.VERIFY_X509_STRICT and context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN
    assert context.hostname_checks_common_name is False
    assert context.options & ssl.OP_NO_RENEGOTIATION


def test_a_private_authority_is_accepted_and_alpn_is_negotiated(authority: Authority) -> None:
    leaf = authority.leaf("host.example", "192.0.2.1")
    server = tls.server_context(leaf.certificate, leaf.key)
    client = tls.client_context(cafile=authority.cafile)
    ours, theirs = shake(client, server, "host.example")
    assert ours.version() == "TLSv1.3" and ours.selected_alpn_protocol() == "http/1.1"
    assert theirs.selected_alpn_protocol() == "http/1.1"
    shake(client, server, "192.0.2.1")
    assert shake(tls.client_context(cadata=authority.cafile.read_text()), server, "host.example")


@pytest.mark.parametrize(
    ("names", "asked", "expired", "trusted", "words"),
    [
        (("host.example",), "other.example", False, True, "not for this host name"),
        (("host.example",), "192.0.2.9", False, True, "not for this address"),
        (("host.example",), "host.example", True, True, "has expired"),
        (("host.example",), "host.example", False, False, "issuer is not known here"),
        (("*.example",), "a.b.example", False, True, "not for this host name"),
    ],
)
def test_refused_certificates_give_a_readable_reason(
    authority: Authority, tmp_path: Path, names: tuple[str, ...], asked: str, expired: bool, trusted: bool, words: str
) -> None:
    leaf = authority.leaf(*names, file="refused", expired=expired)
    trust = authority if trusted else Authority(tmp_path, "Another CA")
    with pytest.raises(ssl.SSLError) as caught:
        shake(tls.client_context(cafile=trust.cafile), tls.server_context(leaf.certificate, leaf.key), asked)
    failure = tls.describe_handshake_error(caught.value)
    assert failure is not None and failure.certificate and words in failure.reason


def test_without_verification_every_certificate_is_accepted(authority: Authority) -> None:
    leaf = authority.leaf("host.example", file="any", expired=True)
    shake(tls.client_context(verify=False), tls.server_context(leaf.certificate, leaf.key), "whatever.example")


def test_other_handshake_failures_give_a_readable_reason() -> None:
    client = tls.client_context(verify=False)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(incoming, outgoing, server_hostname="x")
    with pytest.raises(ssl.SSLWantReadError):
        ours.do_handshake()
    incoming.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ssl.SSLError) as caught:
        ours.do_handshake()
    failure = tls.describe_handshake_error(caught.value)
    assert failure is not None and not failure.certificate and "does not speak TLS" in failure.reason
    assert tls.describe_handshake_error(OSError("other")) is None
    ended = tls.describe_handshake_error(ssl.SSLEOFError(8, "EOF"))
    assert ended is not None and "ended the connection" in ended.reason


def test_close_notify_is_distinguished_from_truncation(authority: Authority) -> None:
    leaf = authority.leaf("host.example", file="close_notify")
    server = tls.server_context(leaf.certificate, leaf.key)
    client = tls.client_context(cafile=authority.cafile)
    ours, theirs = shake(client, server, "host.example")
    assert not tls.received_close_notify(ours)
    with pytest.raises(ssl.SSLWantReadError):
        theirs.unwrap()
    assert tls.received_close_notify(ours)
    assert not tls.received_close_notify(None)


def test_old_versions_are_refused_by_servers(authority: Authority) -> None:
    """TLS 1.1 and older are refused even if the program permits their weak ciphers; so is renegotiation."""
    leaf = authority.leaf("host.example", file="old")
    server = tls.server_context(leaf.certificate, leaf.key)
    assert server.options & ssl.OP_NO_RENEGOTIATION and server.options & ssl.OP_NO_COMPRESSION
    server.set_ciphers("ALL:@SECLEVEL=0")
    client = ssl.create_default_context(cafile=str(authority.cafile))
    client.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        shake(client, server, "host.example")


def test_missing_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        tls.client_context(cafile=tmp_path / "nothing.pem")
    with pytest.raises(OSError, match="No such file"):
        tls.server_context(tmp_path / "nothing.pem")
