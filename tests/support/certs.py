"""A temporary certificate authority for tests: valid leaf certificates, expired ones, and ones for other names.

Keys are P-256, because making RSA keys takes longer than most tests. The authority passes the strict checks of
RFC 5280, so that a strict client context accepts it.
"""

import datetime
import ssl
import tempfile
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

__all__ = ["Authority", "Leaf", "contexts_for_localhost"]


@dataclass(frozen=True)
class Leaf:
    """A server certificate with its chain and its key, as PEM files."""

    certificate: Path
    key: Path


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


class Authority:
    """A CA in a folder; `cafile` is what clients trust."""

    def __init__(self, folder: Path, name: str = "Throw-away CA") -> None:
        self.folder = folder
        self.name = _name(name)
        self.key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        public = self.key.public_key()
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1000))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        self.cafile = folder / "ca.pem"
        self.cafile.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def leaf(
        self, *names: str, file: str = "leaf", expired: bool = False, must_staple: bool = False, responder: str = ""
    ) -> Leaf:
        """Issue a certificate for DNS names and addresses; `must_staple` has it demand an OCSP staple (RFC 7633),
        `responder` is the URL of its OCSP responder."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        end = now - datetime.timedelta(days=1) if expired else now + datetime.timedelta(days=20)
        alternatives: list[x509.GeneralName] = []
        for name in names:
            try:
                alternatives.append(x509.IPAddress(ip_address(name)))
            except ValueError:
                alternatives.append(x509.DNSName(name))
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(names[0]))
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=400))
            .not_valid_after(end)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
            .add_extension(x509.KeyUsage(True, False, False, False, False, False, False, False, False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if must_staple:
            builder = builder.add_extension(x509.TLSFeature([x509.TLSFeatureType.status_request]), critical=False)
        if responder:
            url = x509.UniformResourceIdentifier(responder)
            access = x509.AuthorityInformationAccess([x509.AccessDescription(AuthorityInformationAccessOID.OCSP, url)])
            builder = builder.add_extension(access, critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        leaf = Leaf(self.folder / f"{file}.pem", self.folder / f"{file}.key")
        leaf.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        _write_key(leaf.key, key)
        return leaf

    def staple(
        self, leaf: Leaf, *, hours: int = 48, revoked: bool = False, delegated: bool = False, sha1: bool = False
    ) -> bytes:
        """An OCSP response for `leaf` that is valid for `hours` from now, in DER. `delegated` has it signed by a
        responder whose certificate ends with it. `sha1` names `leaf` by SHA-1, as requests of `openssl ocsp` do."""
        now = datetime.datetime.now(datetime.UTC)
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert=x509.load_pem_x509_certificate(leaf.certificate.read_bytes()),
            issuer=self.certificate,
            algorithm=hashes.SHA1() if sha1 else hashes.SHA256(),
            cert_status=ocsp.OCSPCertStatus.REVOKED if revoked else ocsp.OCSPCertStatus.GOOD,
            this_update=now - datetime.timedelta(days=3),
            next_update=now + datetime.timedelta(hours=hours),
            revocation_time=now - datetime.timedelta(days=4) if revoked else None,
            revocation_reason=None,
        )
        signer, key = self.certificate, self.key
        if delegated:
            key = ec.generate_private_key(ec.SECP256R1())
            signer = (
                x509.CertificateBuilder()
                .subject_name(_name("responder"))
                .issuer_name(self.name)
                .public_key(key.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(days=5))
                .not_valid_after(now + datetime.timedelta(hours=hours))
                .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), critical=False)
                .sign(self.key, hashes.SHA256())
            )
            builder = builder.certificates([signer])
        builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, signer)
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def contexts_for_localhost() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context of one throw-away authority."""
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority(Path(folder))
        leaf = authority.leaf("localhost")
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(leaf.certificate, leaf.key)
        return server, ssl.create_default_context(cafile=str(authority.cafile))
