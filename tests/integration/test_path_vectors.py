"""Certification paths of NIST's PKITS (package cryptography-vectors) against what client contexts accept.

A server sends the certificate of the case and all others of the collection that may belong to its path; the client
trusts the root of the collection. The name of a case says whether its path is valid. Left out are cases that only a CRL
or a certificate policy makes invalid, which neither this client nor curl looks at, and those with DSA keys, which TLS
1.3 does not know and whose size OpenSSL refuses.
"""

import re
import ssl
import warnings
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cryptography_vectors
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12
from cryptography.utils import CryptographyDeprecationWarning

from corenet import tls

FOLDER = Path(cryptography_vectors.__file__).parent / "x509" / "PKITS_data"
ROOT = "TrustAnchorRootCertificate"
REVOKED = re.compile(r"CRL|cRL|Revoked|onlyContains|onlySomeReasons|istributionPoint|IDP|SerialNumberTest1[58]"
                     r"|NewWithOldTest5|OldWithNewTest2")
POLICIES = re.compile(r"Polic")
# RFC 5280 section 4.2.1.9: conforming CAs mark it as critical. Only `strict` contexts insist.
LAX_ONLY = "ValidbasicConstraintsNotCriticalTest4EE"


Name = tuple[tuple[str, str], ...]


def cases() -> Iterator[str]:
    for path in sorted((FOLDER / "certs").glob("*EE.crt")):
        name = path.stem
        if "DSA" in name or not name.startswith(("Valid", "Invalid")):
            continue
        if name.startswith("Valid") or not (REVOKED.search(name) or POLICIES.search(name)):
            yield name


CASES = list(cases())


def normalised(name: x509.Name) -> Name:
    """A name as it is compared: without regard to case and to white space (RFC 5280 section 7.1)."""
    return tuple(sorted((part.oid.dotted_string, " ".join(str(part.value).lower().split())) for part in name))


@cache
def collection() -> tuple[dict[str, bytes], dict[str, Name], dict[Name, list[str]]]:
    """Each certificate, the name of its issuer, and the certificates of each subject."""
    data: dict[str, bytes] = {}
    issuer: dict[str, Name] = {}
    subjects: dict[Name, list[str]] = defaultdict(list)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # a negative serial number is one of the cases
        for path in (FOLDER / "certs").glob("*.crt"):
            if "DSA" in path.stem:
                continue
            data[path.stem] = path.read_bytes()
            certificate = x509.load_der_x509_certificate(data[path.stem])
            issuer[path.stem] = normalised(certificate.issuer)
            subjects[normalised(certificate.subject)].append(path.stem)
    return data, issuer, subjects


def chain(name: str) -> list[str]:
    """`name` and all that may be above it, except the root."""
    _, issuer, subjects = collection()
    found = [name]
    for one in found:
        found.extend(above for above in sorted(subjects[issuer[one]]) if above not in found and above != ROOT)
    return found


def refusal(name: str, folder: Path, *, strict: bool = True) -> str:
    """Why a client refuses the server of the case; empty when it does not."""
    data, _, _ = collection()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        key, _, _ = pkcs12.load_key_and_certificates((FOLDER / "pkcs12" / f"{name}.p12").read_bytes(), b"password")
    assert key is not None
    pem = "".join(ssl.DER_cert_to_PEM_cert(data[one]) for one in chain(name))
    (folder / "chain.pem").write_text(pem)
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(folder / "chain.pem", folder / "key.pem")
    client_context = tls.client_context(cadata=ssl.DER_cert_to_PEM_cert(data[ROOT]), strict=strict)
    client_context.check_hostname = False  # these are no certificates of servers
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    try:
        client.do_handshake()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    return ""


def test_the_collection_is_complete() -> None:
    assert sum(name.startswith("Valid") for name in CASES) == 86
    assert sum(name.startswith("Invalid") for name in CASES) == 44


@pytest.mark.parametrize("name", CASES)
def test_valid_paths_are_accepted_and_invalid_ones_refused(name: str, tmp_path: Path) -> None:
    reason = refusal(name, tmp_path)
    if name == LAX_ONLY:
        assert "not marked critical" in reason
        assert not refusal(name, tmp_path, strict=False)
    else:
        assert bool(reason) is name.startswith("Invalid")
