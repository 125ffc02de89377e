"""OCSP staples: the revocation status that a server sends with its certificate, and how a client checks it.

A staple is accepted when it is for this certificate, is neither from the future nor stale, and is signed by the
certificate's issuer or by a responder with an OCSP signing certificate from that issuer (RFC 6960 section 4.2.2.2).
Otherwise `CertificateRefused` gives the reason. If the certificate has must-staple (TLS feature "status_request",
RFC 7633), a missing staple is refused, too. An OCSP response with an error status counts as no staple.
"""

import datetime
import hashlib
import ssl
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corenet.limits import TLS_STAPLE_AGE, TLS_STAPLE_SIZE, TLS_STAPLE_TOLERANCE
from corenet.tls.der import public_key_bits, subject_public_key_info
from corenet.tls.libssl import load
from corenet.tls.refusal import CertificateRefused, StapleExpired

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.x509 import ocsp

__all__ = ["has_must_staple", "set_staple", "verify_staple"]

_TOLERANCE = datetime.timedelta(seconds=TLS_STAPLE_TOLERANCE)
_MAX_AGE = datetime.timedelta(seconds=TLS_STAPLE_AGE)
# Hashes in certificate identifiers. These need no collision resistance, and responders use SHA-1 (RFC 5019).
_ID_HASHES = {"sha1": hashlib.sha1, "sha256": hashlib.sha256, "sha384": hashlib.sha384, "sha512": hashlib.sha512}
_SIGNATURE_HASHES = ("sha256", "sha384", "sha512")


def set_staple(context: ssl.SSLContext, path: "str | PathLike[str] | bytes | None") -> float:
    """Make a server's context staple an OCSP response (DER) to all later handshakes. Call it again with each new
    response.

    `path` is a file, or the response itself as bytes; None stops stapling. `context` is any server context with a
    loaded certificate. The signature is checked if the context also has the issuer's certificate. After an exception
    the previous staple stays in use.

    Returns the time after which the response is no longer sent, in seconds since the epoch; 0.0 for None.

    Raises:
        OSError: the file cannot be read.
        StapleExpired: the response is stale, and nothing else is wrong with it.
        ValueError: clients would refuse the response.
        RuntimeError: stapling does not work with this Python's ssl; the message gives the reason.
    """
    from corenet.tls.stapling import certificates_of, install_staple

    reason = load()
    if reason is not None:
        raise RuntimeError(f"OCSP responses cannot be stapled: {reason}")
    if path is None:
        install_staple(context, None, 0)
        return 0.0
    response, prefix = (path, "") if isinstance(path, bytes) else (Path(path).read_bytes(), f"{path}: ")
    chain = certificates_of(context)
    if not chain:
        raise ValueError(f"{prefix}the context has no certificate; load it before its staple")
    try:
        now = datetime.datetime.now(datetime.UTC)
        accepted_until = verify_staple(response, chain, now, required=True, issuer_known=len(chain) > 1)
    except StapleExpired as error:
        raise StapleExpired(f"{prefix}{error.verify_message}", error.until) from None
    except CertificateRefused as error:
        raise ValueError(f"{prefix}{error.verify_message}") from None
    # The tolerance was added for a client whose clock is slow. Here it is subtracted from the end, for one whose clock
    # is fast.
    sent_until = accepted_until - 2 * TLS_STAPLE_TOLERANCE
    install_staple(context, response, sent_until)
    return sent_until


def verify_staple(
    staple: bytes | None,
    chain: Sequence[bytes],
    now: datetime.datetime,
    *,
    required: bool,
    issuer_known: bool = True,
) -> float:
    """Return until when the staple for the first certificate of `chain` is accepted, the tolerance included, in seconds
    since the epoch; infinity when there is no staple and none is required.

    `chain` is the verified chain in DER, the server's certificate first. `required` refuses a missing staple even when
    the certificate has no must-staple. `issuer_known=False` skips the checks that need the issuer's certificate; only
    a server that checks its own staple may use it.

    Raises:
        StapleExpired: the staple is stale, and nothing else is wrong with it.
        CertificateRefused: the staple is missing, wrongly signed, stale, or says that the certificate was revoked.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.x509 import ocsp

    leaf = _certificate(chain[0])
    response = None
    if staple:
        if len(staple) > TLS_STAPLE_SIZE:
            raise CertificateRefused(f"the OCSP staple has {len(staple)} bytes, more than {TLS_STAPLE_SIZE}")
        try:
            response = ocsp.load_der_ocsp_response(staple)
            answered = response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
        except ValueError as error:
            raise CertificateRefused(f"the OCSP staple cannot be read: {error}") from None
        if not answered:
            response = None
    if response is None:
        if _has_must_staple(leaf):
            raise CertificateRefused("the certificate requires an OCSP staple (must-staple), and the server sent none")
        if required:
            raise CertificateRefused("the server sent no OCSP staple")
        return float("inf")
    if issuer_known and len(chain) < 2:
        raise CertificateRefused("the issuer of the certificate is not known, so its OCSP staple cannot be checked")
    try:
        issuer = _certificate(chain[1]) if issuer_known else None
        found = _response_for(response, leaf, issuer)
        if found is None:
            raise CertificateRefused("the OCSP staple is for another certificate")
        since = found.this_update_utc
        until = min(found.next_update_utc or since + _MAX_AGE, since + _MAX_AGE)
        if issuer is not None:
            # The certificate of a responder may end with its responses: for a stale response it is checked at the
            # time when that response ended.
            _check_signature(response, issuer, min(now, until + _TOLERANCE))
    except CertificateRefused:
        # It is a ValueError, too.
        raise
    except (
        ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType
    ) as error:
        raise CertificateRefused(f"the OCSP staple cannot be read: {error}") from None
    if found.certificate_status is ocsp.OCSPCertStatus.REVOKED:
        when = found.revocation_time_utc
        why = f", reason: {found.revocation_reason.value}" if found.revocation_reason else ""
        raise CertificateRefused(f"the certificate was revoked on {when:%Y-%m-%d}{why}, according to its OCSP staple")
    if found.certificate_status is not ocsp.OCSPCertStatus.GOOD:
        raise CertificateRefused("the certificate is unknown to the OCSP responder, according to the staple")
    if since > now + _TOLERANCE:
        raise CertificateRefused(f"the OCSP staple is not valid before {since:%Y-%m-%d %H:%M} UTC; is the clock right?")
    if until < now - _TOLERANCE:
        sentence = f"the OCSP staple is stale: it was valid until {until:%Y-%m-%d %H:%M} UTC"
        raise StapleExpired(sentence, until.timestamp())
    return (until + _TOLERANCE).timestamp()


def has_must_staple(certificate: bytes) -> bool:
    """Return whether a certificate (DER) has must-staple (RFC 7633).

    Raises:
        CertificateRefused: it cannot be read.
    """
    return _has_must_staple(_certificate(certificate))


def _certificate(data: bytes) -> "x509.Certificate":
    from cryptography import x509

    try:
        return x509.load_der_x509_certificate(data)
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise CertificateRefused(f"the certificate cannot be read: {error}") from None


def _has_must_staple(leaf: "x509.Certificate") -> bool:
    from cryptography import x509

    try:
        features = leaf.extensions.get_extension_for_class(x509.TLSFeature).value
    except x509.ExtensionNotFound:
        return False
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise CertificateRefused(f"the extensions of the certificate cannot be read: {error}") from None
    return x509.TLSFeatureType.status_request in features


def _response_for(
    response: "ocsp.OCSPResponse", leaf: "x509.Certificate", issuer: "x509.Certificate | None"
) -> "ocsp.OCSPSingleResponse | None":
    """The single response for `leaf` (RFC 6960 section 4.1.1), or None."""
    name = leaf.issuer.public_bytes()
    key = None if issuer is None else _key_bits(issuer)
    for one in response.responses:
        digest = _ID_HASHES.get(one.hash_algorithm.name)
        if (
            digest is not None
            and one.serial_number == leaf.serial_number
            and one.issuer_name_hash == digest(name).digest()
            and (key is None or one.issuer_key_hash == digest(key).digest())
        ):
            return one
    return None


def _key_bits(certificate: "x509.Certificate") -> bytes:
    """The bits of the public key, the input of key hashes (RFC 6960 section 4.1.1)."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return public_key_bits(subject_public_key_info(certificate.public_bytes(Encoding.DER)))


def _check_signature(response: "ocsp.OCSPResponse", issuer: "x509.Certificate", now: datetime.datetime) -> None:
    """Find the signer of the response, check that it is authorised, and verify the signature.

    Raises:
        CertificateRefused: the signer is missing or not authorised, or the signature is wrong.
    """
    candidates = [issuer, *response.certificates]
    signers = [one for one in candidates if _is_responder(response, one)]
    if not signers:
        raise CertificateRefused("the OCSP staple does not contain its signer's certificate")
    signer = signers[0]
    if signer is not issuer and not _same_authority(signer, issuer):
        _check_delegated_responder(signer, issuer, now)
    if not _signature_is_valid(response, signer):
        raise CertificateRefused("the signature of the OCSP staple is wrong")


def _is_responder(response: "ocsp.OCSPResponse", certificate: "x509.Certificate") -> bool:
    if response.responder_name is not None:
        return response.responder_name == certificate.subject
    return response.responder_key_hash == hashlib.sha1(_key_bits(certificate)).digest()


def _same_authority(one: "x509.Certificate", other: "x509.Certificate") -> bool:
    """Return whether both have the same name and key, as the certificates of one authority have after a renewal."""
    return one.subject == other.subject and _key_bits(one) == _key_bits(other)


def _check_delegated_responder(signer: "x509.Certificate", issuer: "x509.Certificate", now: datetime.datetime) -> None:
    """Check that the issuer itself has issued the responder's certificate, for OCSP signing (RFC 6960 section 4.2.2.2).

    Raises:
        CertificateRefused: it has not, or the certificate is not valid at `now`.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.x509.oid import ExtendedKeyUsageOID

    try:
        signer.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        raise CertificateRefused("the OCSP staple is signed by a responder not authorised by the issuer") from None
    try:
        usage = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usage = x509.ExtendedKeyUsage([])
    if ExtendedKeyUsageOID.OCSP_SIGNING not in usage:
        raise CertificateRefused("the OCSP staple is signed with a certificate that is not for OCSP signing")
    if not signer.not_valid_before_utc - _TOLERANCE <= now <= signer.not_valid_after_utc + _TOLERANCE:
        raise CertificateRefused("the certificate that the OCSP staple is signed with is not valid now")


def _signature_is_valid(response: "ocsp.OCSPResponse", signer: "x509.Certificate") -> bool:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa

    key: Any = signer.public_key()
    signed, signature = response.tbs_response_bytes, response.signature
    try:
        algorithm = response.signature_hash_algorithm
        if algorithm is not None and algorithm.name not in _SIGNATURE_HASHES:
            raise CertificateRefused(f"the OCSP staple is signed with {algorithm.name}, which is no longer trusted")
        if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(signature, signed)
        elif algorithm is not None and isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, signed, padding.PKCS1v15(), algorithm)
        elif algorithm is not None and isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, signed, ec.ECDSA(algorithm))
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
