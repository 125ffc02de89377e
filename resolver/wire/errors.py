"""The exception of this package, and the messages for the error codes of its C functions.

Bytes from the network can raise `WireError` and nothing else. Misuse by the caller (a number out of range, a section
out of order) raises ValueError or TypeError. The codes are in `consts.pxd`, because C functions cannot raise.
"""

from collections.abc import Mapping
from typing import Final

__all__ = ["WireError", "reason_of"]


class WireError(ValueError):
    """Bytes that violate the protocol. `reason` is a short sentence for logs and extended errors."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


_REASONS: Final[Mapping[int, str]] = {
    -1: "shorter than a header",
    -2: "message ends in the middle of a field",
    -3: "label type is neither a plain label nor a pointer",
    -4: "name is longer than 255 bytes",
    -5: "compression pointer does not point backwards",
    -6: "too many compression pointers in one name",
    -7: "compressed name where none is allowed",
    -8: "rdata is shorter than its type requires",
    -9: "rdata is longer than its type permits",
    -10: "name runs past the end of its rdata",
    -11: "type bitmap is malformed",
    -12: "character string runs past the end of its rdata",
    -13: "bytes follow the last record",
    -14: "more records than are accepted in one message",
    -15: "more records than are accepted in one set",
    -16: "a set is larger than accepted once its names are written out",
    -17: "more than one OPT record",
    -18: "OPT record outside the additional section or not at the root",
    -19: "EDNS options are malformed",
    -20: "rdata is larger than 65535 bytes once its names are written out",
    -21: "cookie option has a forbidden length",
    -22: "service parameters are malformed",
    -23: "address prefix list is malformed",
}


def reason_of(code: int) -> str:
    """The message for a negative code of this package's C functions."""
    return _REASONS[code]
