"""Names in wire form for tests: from labels, and with letters in random case."""

from collections.abc import Iterable

__all__ = ["from_labels", "randomise_case"]


def from_labels(parts: Iterable[bytes]) -> bytes:
    """The name with these labels, from left to right."""
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def randomise_case(name: bytes, bits: int) -> bytes:
    """The name with the case of its n-th letter taken from bit n of `bits`: upper when set."""
    made = bytearray(name.lower())
    for number, at in enumerate([at for at, octet in enumerate(made) if 97 <= octet <= 122]):
        made[at] -= 32 * (bits >> number & 1)
    return bytes(made)
