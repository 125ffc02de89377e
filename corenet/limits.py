"""Every limit of corenet: its default, its range and the reason for it (RFC, peer's value or named attack).

Rule: no other module carries a bare number that bounds work, memory or time; it imports the `Limit` from here and
uses ``LIMIT.default`` or a value that went through ``LIMIT.check``. `docs/limits.md` is generated from this file.
"""

from dataclasses import dataclass

__all__ = ["Limit", "all_limits"]


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit. `unit` is a word for people: seconds, bytes, packets, names."""

    default: int
    minimum: int
    maximum: int
    unit: str
    reason: str

    def check(self, value: int, where: str) -> int:
        """Return `value` when it lies in the range.

        Raises:
            ValueError: naming `where`, the value and the permitted range.
        """
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{where}: {value} is outside {self.minimum}..{self.maximum} {self.unit} ({self.reason})")
        return value


# --- core: engine -------------------------------------------------------------------------------------------------

# --- core: buffers and framers ------------------------------------------------------------------------------------

BUFFER_SLAB = Limit(65536, 4096, 1 << 24, "bytes", "one slab holds the largest TLS record with room to spare")
BUFFER_SLABS = Limit(64, 1, 65536, "slabs", "a peer that makes us hold data must not make us hold all memory")
FRAME_SIZE = Limit(1 << 20, 1, 1 << 40, "bytes", "a length prefix is a claim of a stranger; it must not reserve memory")
FRAME_VIEW = Limit(8192, 1, 1 << 30, "bytes", "below this a copy is cheaper than a memoryview and its bookkeeping")
FRAME_RESERVE = Limit(65536, 256, 1 << 24, "bytes", "reserved at once for an announced frame; more only as data arrives")
FRAME_DELIMITER = Limit(16, 1, 16, "bytes", "a delimiter that straddles two reads is searched in a fixed buffer")

# --- transports ---------------------------------------------------------------------------------------------------

# --- loop ---------------------------------------------------------------------------------------------------------

# --- http ---------------------------------------------------------------------------------------------------------


def all_limits() -> dict[str, Limit]:
    """Every limit of this module by its name, in the order of the file."""
    return {name: value for name, value in globals().items() if isinstance(value, Limit)}
