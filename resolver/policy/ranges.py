"""Conversion of nested address prefixes into sorted, disjoint ranges for a binary search.

It is Python and not Cython, because it runs only when settings are loaded. Decisions are ordered: the smaller number is
the stricter one and precedes for equal prefixes.
"""

import ipaddress
from collections.abc import Iterable

__all__ = ["flatten", "read_prefixes"]


def read_prefixes(texts: Iterable[str], decision: int) -> dict[int, list[tuple[int, int, int]]]:
    """Sort prefixes by IP version into (first address, prefix length, decision); ``::ffff:0:0/96`` counts as IPv4.

    Raises:
        ValueError: a text is not a prefix.
    """
    found: dict[int, list[tuple[int, int, int]]] = {4: [], 6: []}
    for text in texts:
        network = ipaddress.ip_network(text, strict=False)
        first, length, version = int(network.network_address), network.prefixlen, network.version
        if version == 6 and length >= 96 and first >> 32 == 0xFFFF:
            first, length, version = first & 0xFFFFFFFF, length - 96, 4
        found[version].append((first, length, decision))
    return found


def flatten(prefixes: Iterable[tuple[int, int, int]], bits: int, otherwise: int) -> list[tuple[int, int]]:
    """Turn prefixes of one family into (first address, decision), each range ending where the next begins.

    The longest prefix decides; of equal prefixes, the smaller decision. Addresses in no prefix get `otherwise`. The
    first range begins at 0, and adjacent ranges have different decisions.
    """
    chosen: dict[tuple[int, int], int] = {}
    for first, length, decision in prefixes:
        chosen[first, length] = min(chosen.get((first, length), decision), decision)
    starts = {0: otherwise}
    around = [(1 << bits, otherwise)]  # end and decision of the prefixes around the current one
    for (first, length), decision in sorted(chosen.items()):
        while around[-1][0] <= first:
            end, _ = around.pop()
            starts[end] = around[-1][1]
        starts[first] = decision
        around.append((first + (1 << (bits - length)), decision))
    while len(around) > 1:
        end, _ = around.pop()
        if end < 1 << bits:
            starts[end] = around[-1][1]
    merged: list[tuple[int, int]] = []
    for start, decision in sorted(starts.items()):
        if not merged or merged[-1][1] != decision:
            merged.append((start, decision))
    return merged
