"""The DER parsing that pins and staples need: from a certificate to its public key.

Certificates come from OpenSSL, which has parsed them; lengths are checked anyway.
"""

__all__ = ["public_key_bits", "subject_public_key_info"]

SEQUENCE = 0x30
BIT_STRING = 0x03
VERSION = 0xA0          # [0], which certificates of version 1 do not have
BEFORE_THE_KEY = 5      # serial number, signature, issuer, validity, subject (RFC 5280 section 4.1)


def element(data: bytes, at: int) -> tuple[int, int, int]:
    """(tag, start of the content, its end) of the element at `at`.

    Raises:
        ValueError: the element extends beyond the data.
    """
    if at + 2 > len(data):
        raise ValueError("DER ends within an element")
    length, start = data[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        if not 1 <= count <= 4 or start + count > len(data):
            raise ValueError("DER has an invalid length or one over 4 bytes")
        length = int.from_bytes(data[start : start + count])
        start += count
    if start + length > len(data):
        raise ValueError("DER ends within an element")
    return data[at], start, start + length


def inside(data: bytes, at: int, tag: int) -> int:
    """Where the content of the element at `at` begins.

    Raises:
        ValueError: the element has another tag.
    """
    found, start, _ = element(data, at)
    if found != tag:
        raise ValueError(f"DER has tag {found:#x} where {tag:#x} is expected")
    return start


def subject_public_key_info(certificate: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo of a certificate, still in DER (RFC 5280 section 4.1.2.7).

    Raises:
        ValueError: `certificate` is not a certificate.
    """
    at = inside(certificate, inside(certificate, 0, SEQUENCE), SEQUENCE)
    tag, _, end = element(certificate, at)
    if tag == VERSION:
        at = end
    for _ in range(BEFORE_THE_KEY):
        _, _, at = element(certificate, at)
    inside(certificate, at, SEQUENCE)
    return certificate[at : element(certificate, at)[2]]


def public_key_bits(info: bytes) -> bytes:
    """Return the bits of the key in a SubjectPublicKeyInfo, without the count of unused bits.

    Raises:
        ValueError: `info` is not a SubjectPublicKeyInfo.
    """
    _, _, at = element(info, inside(info, 0, SEQUENCE))
    tag, start, end = element(info, at)
    if tag != BIT_STRING or start == end:
        raise ValueError("the public key is not a bit string")
    return info[start + 1 : end]
