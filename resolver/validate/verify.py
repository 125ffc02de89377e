"""Verification of one signature with one key. The only module of the package that imports `cryptography`.

A job that cannot be checked (unknown algorithm, malformed key or signature) yields False; no data of a remote server
raises. Loading a key costs a third of a P-256 check, so loaded keys are kept until newer ones replace them. Importing
the library takes 25 ms, so it is imported with the first job.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from resolver import limits
from resolver.effects import SignatureJob

__all__ = ["ALGORITHMS", "SHA1_ALGORITHMS", "SignatureJob", "check", "loaded"]

RSASHA1, RSASHA1_NSEC3, RSASHA256, RSASHA512, ECDSAP256, ECDSAP384, ED25519, ED448 = 5, 7, 8, 10, 13, 14, 15, 16

ALGORITHMS = frozenset((RSASHA1, RSASHA1_NSEC3, RSASHA256, RSASHA512, ECDSAP256, ECDSAP384, ED25519, ED448))
"""Supported algorithms (RFC 8624 section 3.1); a zone signed with none of them is insecure."""
SHA1_ALGORITHMS = frozenset((RSASHA1, RSASHA1_NSEC3))
"""Algorithms that RFC 9905 deprecates; the setting `dnssec.sha1` disables them."""


_Checker = Callable[[bytes, bytes], None]
_keys: "OrderedDict[tuple[int, bytes], _Checker | None]" = OrderedDict()
# The exceptions of the library for a wrong signature; set when the library is imported, with the first key.
_refusals: tuple[type[Exception], ...] = ()
KEPT_KEYS = limits.VERIFY_KEYS
OCTETS = limits.VERIFY_KEY_OCTETS
# The longest is an RSA key: modulus, exponent and length of the exponent (RFC 3110 section 2).
LONGEST_KEY = limits.RSA_MODULUS_MAX + 8 + 3


class _Loaded:
    """The loaded keys of this process as a `MemoryTable`. All count as the longest, so that no sum needs a lock."""

    name = "loaded_keys"

    @property
    def limit(self) -> int:
        return KEPT_KEYS * OCTETS

    @property
    def octets(self) -> int:
        return len(_keys) * OCTETS

    def clear(self) -> None:
        _keys.clear()


loaded = _Loaded()


def _rsa(algorithm: int, key: bytes) -> _Checker:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    # RFC 3110 section 2: the exponent length is one byte, or a zero and two bytes.
    if key[0]:
        length, start = key[0], 1
    else:
        length, start = int.from_bytes(key[1:3], "big"), 3
    exponent, modulus = key[start : start + length], key[start + length :]
    least, most = limits.RSA_MODULUS_MIN, limits.RSA_MODULUS_MAX
    if not least <= len(modulus) <= most or not 0 < len(exponent) <= 8:
        raise ValueError("RSA key of an unsupported size")
    public = rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")).public_key()
    digest: hashes.HashAlgorithm
    if algorithm == RSASHA256:
        digest = hashes.SHA256()
    else:
        digest = hashes.SHA512() if algorithm == RSASHA512 else hashes.SHA1()
    scheme = padding.PKCS1v15()
    return lambda signature, data: public.verify(signature, data, scheme, digest)


def _ecdsa(algorithm: int, key: bytes) -> _Checker:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    curve: ec.EllipticCurve = ec.SECP256R1() if algorithm == ECDSAP256 else ec.SECP384R1()
    digest = ec.ECDSA(hashes.SHA256() if algorithm == ECDSAP256 else hashes.SHA384())
    half = 32 if algorithm == ECDSAP256 else 48
    if len(key) != 2 * half:
        raise ValueError("ECDSA key of a wrong length")
    verify = ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + key).verify
    encode, from_bytes = utils.encode_dss_signature, int.from_bytes

    def checker(signature: bytes, data: bytes) -> None:
        if len(signature) != 2 * half:
            raise ValueError("ECDSA signature of a wrong length")
        verify(encode(from_bytes(signature[:half], "big"), from_bytes(signature[half:], "big")), data, digest)

    return checker


def _edwards(algorithm: int, key: bytes) -> _Checker:
    from cryptography.hazmat.primitives.asymmetric import ed448, ed25519

    public: Any = (ed25519.Ed25519PublicKey if algorithm == ED25519 else ed448.Ed448PublicKey).from_public_bytes(key)
    return lambda signature, data: public.verify(signature, data)


def _load(algorithm: int, key: bytes) -> _Checker:
    if algorithm in (RSASHA1, RSASHA1_NSEC3, RSASHA256, RSASHA512):
        return _rsa(algorithm, key)
    if algorithm in (ECDSAP256, ECDSAP384):
        return _ecdsa(algorithm, key)
    if algorithm in (ED25519, ED448):
        return _edwards(algorithm, key)
    raise ValueError(f"algorithm {algorithm} is not supported")


def check(job: SignatureJob) -> bool:
    """Whether the signature is valid. May be called from any thread; takes 20 to 300 microseconds."""
    slot = (job.algorithm, job.key)
    try:
        checker = _keys[slot]
    except KeyError:
        checker = _keep(slot)
    if checker is None:
        return False
    try:
        checker(job.signature, job.data)
    except _refusals:
        return False
    return True


def _keep(slot: tuple[int, bytes]) -> _Checker | None:
    """Load a key and store the result; None for a key that cannot be used."""
    global _refusals
    if len(slot[1]) > LONGEST_KEY:
        return None  # longer than any usable key; it is not stored, to save memory
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    _refusals = (InvalidSignature, ValueError, UnsupportedAlgorithm)
    try:
        checker: _Checker | None = _load(*slot)
    except (ValueError, IndexError, UnsupportedAlgorithm):
        checker = None  # stored too, so that a malformed key is not loaded again for each signature
    _keys[slot] = checker
    while len(_keys) > KEPT_KEYS:
        try:
            _keys.popitem(last=False)
        except KeyError:  # another thread has cleared it meanwhile
            break
    return checker
