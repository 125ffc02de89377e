"""OCSP staples: valid ones, each kind of invalid one, and our server sending them."""

import asyncio
import contextlib
import datetime
import math
import ssl
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from support.certs import Authority, Leaf
from support.tls_engines import ENGINES
from support.tls_pair import Listening, ours

from corenet.limits import TLS_STAPLE_AGE, TLS_STAPLE_SIZE, TLS_STAPLE_TOLERANCE
from corenet.tls import CertificateRefused, client_context, set_staple, use_engine
from corenet.tls.staples import verify_staple

__all__ = ["ours"]

# Of the import, so what is valid now is valid for longer than the longest run of all tests.
NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)
DER = serialization.Encoding.DER
native = pytest.mark.skipif("openssl" not in ENGINES, reason="libssl is not to be had in this Python")


@dataclass
class World:
    """An authority, its leaf certificate, and staples with any content."""

    authority: Authority
    leaf: Leaf

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.leaf.certificate.read_bytes())

    @property
    def chain(self) -> list[bytes]:
        return [self.certificate.public_bytes(DER), self.authority.certificate.public_bytes(DER)]

    def staple(
        self,
        *,
        status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
        since: datetime.datetime = NOW - DAY,
        until: datetime.datetime | None = NOW + DAY,
        of: x509.Certificate | None = None,
        signer: tuple[x509.Certificate, Any] | None = None,
        sent_along: bool = True,
        identifier: hashes.HashAlgorithm | None = None,
        by_name: bool = False,
    ) -> bytes:
        revoked = status is ocsp.OCSPCertStatus.REVOKED
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert=of or self.certificate,
            issuer=self.authority.certificate,
            algorithm=identifier or hashes.SHA1(),
            cert_status=status,
            this_update=since,
            next_update=until,
            revocation_time=NOW - DAY if revoked else None,
            revocation_reason=x509.ReasonFlags.key_compromise if revoked else None,
        )
        certificate, key = signer or (self.authority.certificate, self.authority.key)
        encoding = ocsp.OCSPResponderEncoding.NAME if by_name else ocsp.OCSPResponderEncoding.HASH
        builder = builder.responder_id(encoding, certificate)
        if signer and sent_along:
            builder = builder.certificates([certificate])
        algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        return builder.sign(key, algorithm).public_bytes(DER)

    def responder(
        self,
        key: Any = None,
        *,
        usage: Any = ExtendedKeyUsageOID.OCSP_SIGNING,
        issuer: Any = None,
        days: int = 5,
        also: x509.ExtensionType | None = None,
    ) -> tuple[x509.Certificate, Any]:
        """A responder with a certificate of the authority, or one signed with the key `issuer`."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "responder")]))
            .issuer_name(self.authority.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - datetime.timedelta(days=20))
            .not_valid_after(NOW + datetime.timedelta(days=days))
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if also is not None:
            builder = builder.add_extension(also, critical=False)
        return builder.sign(issuer or self.authority.key, hashes.SHA256()), key

    def impostor(self, key: ec.EllipticCurvePrivateKey) -> tuple[x509.Certificate, Any]:
        """A false authority: the authority's name with another key."""
        builder = x509.CertificateBuilder(self.authority.certificate.subject, self.authority.certificate.subject)
        builder = builder.public_key(key.public_key()).serial_number(1)
        builder = builder.not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)
        return builder.sign(key, hashes.SHA256()), key

    def verify(self, staple: bytes | None, **options: Any) -> float:
        return verify_staple(staple, self.chain, NOW, **{"required": False, **options})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    authority = Authority(tmp_path_factory.mktemp("staples"))
    return World(authority, authority.leaf("localhost", "127.0.0.1"))


@pytest.fixture(scope="module")
def demanding(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose leaf certificate has must-staple."""
    authority = Authority(tmp_path_factory.mktemp("demanding"))
    return World(authority, authority.leaf("localhost", "127.0.0.1", must_staple=True))


# --- verified ---------------------------------------------------------------------------------------------------------


def test_valid_staples_are_accepted(world: World) -> None:
    until = (NOW + DAY).timestamp() + TLS_STAPLE_TOLERANCE
    assert world.verify(world.staple()) == until
    for identifier in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512()):
        assert world.verify(world.staple(identifier=identifier)) == until
    assert world.verify(world.staple(by_name=True)) == until
    for key in (None, rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()):
        for by_name in (False, True):
            assert world.verify(world.staple(signer=world.responder(key), by_name=by_name)) == until


def test_validity_of_a_staple_is_at_most_ten_days(world: World) -> None:
    """A staple without nextUpdate, or with one in a year, is valid for ten days."""
    longest = (NOW - DAY).timestamp() + TLS_STAPLE_AGE + TLS_STAPLE_TOLERANCE
    assert world.verify(world.staple(until=None)) == longest
    assert world.verify(world.staple(until=NOW + 365 * DAY)) == longest


def test_small_clock_differences_are_tolerated(world: World) -> None:
    little = datetime.timedelta(seconds=TLS_STAPLE_TOLERANCE - 1)
    assert world.verify(world.staple(since=NOW + little, until=NOW + DAY)) > NOW.timestamp()
    assert world.verify(world.staple(until=NOW - little)) > NOW.timestamp()


def refused(world: World, staple: bytes | None, sentence: str, **options: Any) -> None:
    with pytest.raises(CertificateRefused, match=sentence):
        world.verify(staple, **options)


def test_the_certificate_status_is_respected(world: World) -> None:
    refused(
        world,
        world.staple(status=ocsp.OCSPCertStatus.REVOKED),
        f"revoked on {NOW - DAY:%Y-%m-%d}, reason: keyCompromise",
    )
    refused(world, world.staple(status=ocsp.OCSPCertStatus.UNKNOWN), "unknown to the OCSP responder")


def test_stale_and_future_staples_are_refused(world: World) -> None:
    beyond = datetime.timedelta(seconds=TLS_STAPLE_TOLERANCE + 1)
    refused(world, world.staple(until=NOW - beyond), "is stale: it was valid until")
    refused(world, world.staple(since=NOW + beyond, until=NOW + DAY), "is the clock right")
    old = NOW - datetime.timedelta(seconds=TLS_STAPLE_AGE + TLS_STAPLE_TOLERANCE + 1)
    refused(world, world.staple(since=old, until=None), "is stale")
    refused(world, world.staple(since=old, until=NOW + DAY), "is stale")


def test_staples_of_wrong_signers_are_refused(world: World, demanding: World) -> None:
    unrelated_key = ec.generate_private_key(ec.SECP256R1())
    # The name of the authority, but another key.
    for sent_along in (False, True):
        forged = world.staple(signer=world.impostor(unrelated_key), by_name=True, sent_along=sent_along)
        refused(world, forged, "signature .* is wrong")
    changed = bytearray(world.staple())
    changed[-1] ^= 1
    refused(world, bytes(changed), "signature .* is wrong|cannot be read")
    # Signed by a responder that the authority has not authorised.
    refused(world, world.staple(signer=world.responder(issuer=unrelated_key)), "responder not authorised")
    other = (demanding.authority.certificate, demanding.authority.key)
    refused(world, world.staple(signer=other), "not authorised|wrong")
    refused(world, world.staple(signer=world.responder(usage=None)), "not for OCSP signing")
    refused(world, world.staple(signer=world.responder(usage=ExtendedKeyUsageOID.SERVER_AUTH)), "not for OCSP signing")
    refused(world, world.staple(signer=world.responder(days=-10)), "not valid now")
    refused(world, world.staple(signer=world.responder(), sent_along=False), "not contain its signer's certificate")
    # The server has signed the staple itself.
    own = serialization.load_pem_private_key(world.leaf.key.read_bytes(), None)
    refused(world, world.staple(signer=(world.certificate, own)), "not for OCSP signing")
    # sha256WithRSAEncryption is changed to sha1WithRSAEncryption, because the library no longer signs with SHA-1.
    strong = world.staple(signer=world.responder(rsa.generate_private_key(65537, 2048)))
    oid = bytes.fromhex("2a864886f70d0101")
    assert strong.count(oid + b"\x0b") == 1
    refused(world, strong.replace(oid + b"\x0b", oid + b"\x05"), "sha1")


def test_a_staple_for_another_certificate_is_refused(world: World, demanding: World) -> None:
    other = world.authority.leaf("localhost", file="other")
    certificate = x509.load_pem_x509_certificate(other.certificate.read_bytes())
    refused(world, world.staple(of=certificate), "for another certificate")
    refused(world, demanding.staple(), "for another certificate")


def test_a_missing_staple_is_refused_when_required(world: World, demanding: World) -> None:
    later = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER).public_bytes(DER)
    for nothing in (None, b"", later):
        assert world.verify(nothing) == math.inf
        refused(world, nothing, "sent no OCSP staple", required=True)
        refused(demanding, nothing, "must-staple")
    assert demanding.verify(demanding.staple()) > NOW.timestamp()


def test_damaged_staples_are_refused(world: World) -> None:
    good = world.staple()
    refused(world, b"\x30\x03\x0a\x01", "cannot be read")
    refused(world, bytes(TLS_STAPLE_SIZE + 1), "more than")
    for cut in range(1, len(good)):
        with pytest.raises(CertificateRefused):
            world.verify(good[:cut])
    for at in range(len(good)):
        broken = bytearray(good)
        broken[at] ^= 0x55
        with contextlib.suppress(CertificateRefused):
            world.verify(bytes(broken))
            # The only byte outside the signature: the response status.
            assert ocsp.load_der_ocsp_response(bytes(broken)).response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL


def test_certificates_that_cannot_be_read(world: World) -> None:
    good = world.chain
    # extendedKeyUsage becomes a second keyUsage.
    twice = good[0].replace(b"\x06\x03\x55\x1d\x25", b"\x06\x03\x55\x1d\x0f")
    # A version that does not exist.
    unknown = good[0].replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07")
    assert good[0] not in (twice, unknown)
    for staple in (None, world.staple()):
        for broken in (b"", good[0][:100], unknown):
            with pytest.raises(CertificateRefused, match="certificate cannot be read"):
                verify_staple(staple, [broken, good[1]], NOW, required=False)
    with pytest.raises(CertificateRefused, match="extensions of the certificate cannot be read"):
        verify_staple(None, [twice, good[1]], NOW, required=False)
    with pytest.raises(CertificateRefused, match="certificate cannot be read"):
        verify_staple(world.staple(), [good[0], b"?"], NOW, required=False)


def test_responder_whose_extensions_cannot_be_read(world: World) -> None:
    # A name of a kind that cryptography does not know: x400Address.
    names = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x02\xa3\x00")
    refused(world, world.staple(signer=world.responder(also=names)), "cannot be read")


# --- asked for and handed out -----------------------------------------------------------------------------------------


def server_of(world: World) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(world.leaf.certificate, world.leaf.key)
    return context


def shake(ours: Any, server: ssl.SSLContext, client: ssl.SSLContext) -> bool:
    """Make one connection; return whether its session was resumed."""

    async def main() -> bool:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with Listening(server) as listening:
            return await listening.visit(client)

    return bool(ours(main()))


@pytest.fixture
def openssl(each_tls_engine: str) -> Any:
    """The engine that sees staples, also while the other one is tested."""
    use_engine("openssl")
    yield
    use_engine(each_tls_engine)


@native
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_our_client_accepts_the_staple_of_our_server(
    version: ssl.TLSVersion, ours: Any, openssl: None, demanding: World, tmp_path: Path
) -> None:
    server = server_of(demanding)
    client = client_context(cafile=demanding.authority.cafile, staples="required")
    client.maximum_version = version
    with pytest.raises(CertificateRefused, match="must-staple"):
        shake(ours, server, client)
    file = tmp_path / "staple.der"
    file.write_bytes(demanding.staple())
    until = set_staple(server, file)
    assert until == (NOW + DAY).timestamp() - TLS_STAPLE_TOLERANCE
    assert shake(ours, server, client) is False
    # Resumed without another check, but only until the staple expires.
    kept = [one for many in client.sessions._sessions.values() for one in many]  # type: ignore[attr-defined]
    assert kept and all(one.trusted_until <= (NOW + DAY).timestamp() + TLS_STAPLE_TOLERANCE for one in kept)
    # Clients need not request it.
    shake(ours, server, client_context(cafile=demanding.authority.cafile))
    set_staple(server, None)
    with pytest.raises(CertificateRefused, match="must-staple"):
        shake(ours, server, client_context(cafile=demanding.authority.cafile, staples="requested"))


@native
def test_a_renewed_staple_is_sent(ours: Any, openssl: None, world: World, tmp_path: Path) -> None:
    server, client = server_of(world), client_context(cafile=world.authority.cafile, staples="required", resume=False)
    file = tmp_path / "staple.der"
    for days in (1, 2):
        file.write_bytes(world.staple(until=NOW + days * DAY))
        assert set_staple(server, file) == (NOW + days * DAY).timestamp() - TLS_STAPLE_TOLERANCE
        shake(ours, server, client)


@native
def test_a_staple_file_that_clients_would_refuse_is_refused(
    ours: Any, openssl: None, world: World, demanding: World, tmp_path: Path
) -> None:
    """The error names the file, and the former staple stays in use."""
    server, client = server_of(world), client_context(cafile=world.authority.cafile, staples="required", resume=False)
    file = tmp_path / "staple.der"
    file.write_bytes(world.staple())
    set_staple(server, file)
    for wrong, sentence in (
        (b"", "sent no OCSP staple"),
        (b"nonsense", "cannot be read"),
        (world.staple(until=NOW - 2 * DAY, since=NOW - 3 * DAY), "stale"),
        (world.staple(status=ocsp.OCSPCertStatus.REVOKED), "revoked"),
        (demanding.staple(), "another certificate"),
    ):
        file.write_bytes(wrong)
        with pytest.raises(ValueError, match=rf"staple\.der: .*{sentence}"):
            set_staple(server, file)
    with pytest.raises(OSError, match="nowhere"):
        set_staple(server, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no certificate"):
        set_staple(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), file)
    shake(ours, server, client)


@native
def test_signature_is_checked_where_the_issuer_is_in_the_file(world: World, tmp_path: Path) -> None:
    whole = tmp_path / "chain.pem"
    whole.write_bytes(world.leaf.certificate.read_bytes() + world.authority.cafile.read_bytes())
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(whole, world.leaf.key)
    file = tmp_path / "staple.der"
    file.write_bytes(world.staple(signer=world.impostor(ec.generate_private_key(ec.SECP256R1())), by_name=True))
    with pytest.raises(ValueError, match="signature"):
        set_staple(server, file)
    set_staple(server_of(world), file)


@native
def test_an_engine_that_cannot_read_staples_refuses_required_ones(
    ours: Any, each_tls_engine: str, world: World, demanding: World
) -> None:
    use_engine("stdlib")
    try:
        client = client_context(cafile=demanding.authority.cafile, staples="required")
        with pytest.raises(CertificateRefused, match="cannot read staples"):
            shake(ours, server_of(demanding), client)
        client = client_context(cafile=demanding.authority.cafile, staples="requested")
        with pytest.raises(CertificateRefused, match="must-staple"):
            shake(ours, server_of(demanding), client)
        shake(ours, server_of(world), client_context(cafile=world.authority.cafile, staples="requested"))
    finally:
        use_engine(each_tls_engine)


def test_an_unknown_value_of_staples_is_refused() -> None:
    with pytest.raises(ValueError, match="no, requested, required"):
        client_context(verify=False, staples="maybe")  # type: ignore[arg-type]


def test_without_libssl_stapling_gives_the_reason() -> None:
    code = (
        "import _ssl, ssl; from corenet.tls import set_staple\n"
        "_ssl.__file__ = '/lib/nowhere.so'\n"
        "try: set_staple(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), None)\n"
        "except RuntimeError as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout == "OCSP responses cannot be stapled: the module _ssl cannot be opened\n"
