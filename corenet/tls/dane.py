"""DANE: a server's certificate is verified with the TLSA records of its name (RFC 6698, RFC 7671).

No I/O: record data and certificates go in. The caller has looked the records up and passes only those whose answer was
secure. A record is usable when its usage, selector and matching type are known and the length of its data fits; others
are ignored. Of usable records one must match:

* usage 3 (DANE-EE): the server's own certificate. Name and validity period are not checked (RFC 7671 section 5.1).
* usage 2 (DANE-TA): an authority in the chain that the server has sent, or the one that the record holds. The chain
  must lead to it, and the certificate must be valid now and for the name.
* usage 0 and 1 (PKIX-TA, PKIX-EE): as an addition to the usual verification, an authority in the verified chain or the
  server's own certificate.

When a set has records of usage 2 or 3, the usual verification is off, and those of usage 0 and 1 are not used.
"""

import datetime
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from corenet.limits import HTTP_TLSA_RECORDS, TLS_DANE_CHAIN
from corenet.tls.der import subject_public_key_info
from corenet.tls.refusal import CertificateRefused

__all__ = ["TLSA", "DanePolicy", "TlsaRecord", "parse_tlsa", "tlsa_name"]

TLSA = 52
"""The number of the RR type."""

PKIX_TA, PKIX_EE, DANE_TA, DANE_EE = range(4)
CERTIFICATE, PUBLIC_KEY = range(2)
EXACT, SHA256, SHA512 = range(3)
_SIZES = {SHA256: 32, SHA512: 64}


@dataclass(frozen=True, slots=True)
class TlsaRecord:
    """One record, RFC 6698 section 2.1."""

    usage: int
    selector: int
    matching: int
    data: bytes

    @property
    def is_usable(self) -> bool:
        """Whether this client understands the record."""
        known = self.usage <= DANE_EE and self.selector <= PUBLIC_KEY and self.matching <= SHA512
        return known and len(self.data) == _SIZES.get(self.matching, len(self.data)) and bool(self.data)

    def matches(self, certificate: bytes) -> bool:
        """Whether the record is about `certificate`, in DER.

        Raises:
            ValueError: `certificate` is not a certificate.
        """
        selected = certificate if self.selector == CERTIFICATE else subject_public_key_info(certificate)
        if self.matching == SHA256:
            selected = hashlib.sha256(selected).digest()
        elif self.matching == SHA512:
            selected = hashlib.sha512(selected).digest()
        return selected == self.data

    def __str__(self) -> str:
        return f"{self.usage} {self.selector} {self.matching}"


def tlsa_name(host: str, port: int) -> str:
    """The name of the TLSA records of a TCP service (RFC 6698 section 3)."""
    return f"_{port}._tcp.{host}"


def parse_tlsa(rdatas: Iterable[bytes]) -> tuple[TlsaRecord, ...]:
    """The usable records among those with the data `rdatas`.

    Raises:
        ValueError: there are more than HTTP_TLSA_RECORDS, or one is too short.
    """
    found = []
    for number, rdata in enumerate(rdatas):
        if number == HTTP_TLSA_RECORDS:
            raise ValueError(f"there are more than {HTTP_TLSA_RECORDS} records")
        if len(rdata) < 3:
            raise ValueError("a record has less than three octets")
        record = TlsaRecord(rdata[0], rdata[1], rdata[2], rdata[3:])
        if record.is_usable:
            found.append(record)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class DanePolicy:
    """The usable records of one name; there is at least one. `name` is shown in errors."""

    name: str
    records: tuple[TlsaRecord, ...]

    @property
    def replaces_pkix(self) -> bool:
        """Whether the certificate need not lead to an authority that is trusted here."""
        return any(record.usage >= DANE_TA for record in self.records)

    def verify_chain(self, chain: Sequence[bytes], host: str) -> TlsaRecord:
        """Return the record that accepts the server `host`, whose chain in DER is `chain`, its own certificate first.

        Raises:
            CertificateRefused: none does.
        """
        if not chain:
            raise CertificateRefused("the server sent no certificate")
        if len(chain) > TLS_DANE_CHAIN:
            raise CertificateRefused(f"the server sent {len(chain)} certificates; {TLS_DANE_CHAIN} are permitted")
        why = ""
        try:
            for record in self.records:
                if record.usage in (DANE_EE, PKIX_EE):
                    matching = [] if self._is_unused(record) else [one for one in chain[:1] if record.matches(one)]
                    if matching:
                        return record
                elif not self._is_unused(record):
                    for authority in _authorities(record, chain):
                        refusal = _path_error(chain, authority, host) if record.usage == DANE_TA else ""
                        if not refusal:
                            return record
                        why = f"; the authority of one matches, but {refusal}"
        except ValueError as error:
            raise CertificateRefused(f"the server's certificate chain cannot be read: {error}") from None
        count = "the TLSA record" if len(self.records) == 1 else f"any of the {len(self.records)} TLSA records"
        raise CertificateRefused(f"the server's certificates do not match {count} of {self.name}{why}")

    def _is_unused(self, record: TlsaRecord) -> bool:
        return record.usage < DANE_TA and self.replaces_pkix


def _authorities(record: TlsaRecord, chain: Sequence[bytes]) -> list[bytes]:
    found = [one for one in chain[1:] if record.matches(one)]
    if (record.usage, record.selector, record.matching) == (DANE_TA, CERTIFICATE, EXACT) and record.data != chain[0]:
        found.append(record.data)  # the server need not send it, RFC 7671 section 5.2.2
    return found


def _path_error(chain: Sequence[bytes], authority: bytes, host: str) -> str:
    """Why `chain` does not lead to `authority` or is not for `host` now; empty when it does and is."""
    # Loads a library of several MiB, which is needed only for such records.
    from cryptography import x509
    from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

    try:
        name: x509.DNSName | x509.IPAddress = x509.IPAddress(ip_address(host))
    except ValueError:
        name = x509.DNSName(host)
    try:
        leaf, *others = (x509.load_der_x509_certificate(one) for one in chain)
        store = Store([x509.load_der_x509_certificate(authority)])
        verifier = PolicyBuilder().store(store).time(datetime.datetime.now(datetime.UTC)).build_server_verifier(name)
        verifier.verify(leaf, others)
    except VerificationError as error:
        return str(error)
    return ""
