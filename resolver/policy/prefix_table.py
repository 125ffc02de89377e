"""Address prefixes with a number each; a look-up gives the longest prefix that contains an address.

For the address triggers of response policy zones. The prefixes are flattened to disjoint ranges once, and a look-up
is a binary search. IPv4-mapped addresses and prefixes (``::ffff:0:0/96``) count as IPv4.
"""

from array import array
from bisect import bisect_right
from ipaddress import ip_address
from typing import NamedTuple

from resolver.policy.ranges import flatten
from resolver.wire import consts as c

__all__ = ["Prefix", "PrefixTable", "PrefixTableBuilder"]

_BITS = {4: 32, 16: 128}


class Prefix(NamedTuple):
    """One prefix: its first address, its length in bits of its own family, and its number."""

    packed: bytes
    length: int
    value: int

    @property
    def rank(self) -> tuple[int, bytes]:
        """Orders prefixes by precedence: the longest comes first, then the smallest address.

        IPv4 counts as ``::ffff:0:0/96`` here, so that both families can be compared.
        """
        internal = self.length + (96 if len(self.packed) == 4 else 0)
        return -internal, self.packed if len(self.packed) == 16 else c.IPV4_MAPPED + self.packed

    def __str__(self) -> str:
        return f"{ip_address(self.packed)}/{self.length}"


class PrefixTable:
    """Compiled prefixes; it is immutable. Made by `PrefixTableBuilder.finish`, empty when made directly."""

    def __init__(self, prefixes: tuple[Prefix, ...] = ()) -> None:
        self._prefixes = prefixes
        self._starts: dict[int, list[int]] = {}
        self._numbers: dict[int, array[int]] = {}
        for octets, bits in _BITS.items():
            # Decisions of `flatten` are positions in `prefixes`, one more because 0 is for no prefix.
            found = [(int.from_bytes(one.packed, "big"), one.length, at)
                     for at, one in enumerate(prefixes, 1) if len(one.packed) == octets]
            ranges = flatten(found, bits, 0)
            self._starts[octets] = [start for start, _ in ranges]
            self._numbers[octets] = array("L", [decision for _, decision in ranges])

    def __len__(self) -> int:
        return len(self._prefixes)

    def find(self, packed: bytes) -> Prefix | None:
        """The longest prefix that contains the address `packed` (4 or 16 bytes); None without any.

        Raises:
            ValueError: `packed` has another length.
        """
        if packed.startswith(c.IPV4_MAPPED):
            packed = packed[12:]
        if len(packed) not in _BITS:
            raise ValueError(f"an address has 4 or 16 bytes, not {len(packed)}")
        at = bisect_right(self._starts[len(packed)], int.from_bytes(packed, "big")) - 1
        number = self._numbers[len(packed)][at]
        return self._prefixes[number - 1] if number else None


class PrefixTableBuilder:
    """Collects prefixes for a `PrefixTable`, at most `most`."""

    def __init__(self, most: int) -> None:
        self._held: dict[tuple[bytes, int], int] = {}
        self._most = most

    def add(self, packed: bytes, length: int, value: int) -> bool:
        """Add a prefix; False, and nothing has changed, when it is there already.

        Raises:
            ValueError: bits behind the prefix are set, its length is out of range, or there are too many.
        """
        bits = _BITS[len(packed)]
        if not 0 <= length <= bits:
            raise ValueError(f"the prefix length {length} is outside 0..{bits}")
        if int.from_bytes(packed, "big") & ((1 << (bits - length)) - 1):
            raise ValueError(f"{ip_address(packed)}/{length} has bits behind its prefix")
        if length >= 96 and packed.startswith(c.IPV4_MAPPED):
            packed, length = packed[12:], length - 96
        if (packed, length) in self._held:
            return False
        if len(self._held) >= self._most:
            raise ValueError(f"more than {self._most} address prefixes")
        self._held[packed, length] = value
        return True

    def finish(self) -> PrefixTable:
        """The table of all prefixes that were added."""
        return PrefixTable(tuple(Prefix(packed, length, value) for (packed, length), value in self._held.items()))
