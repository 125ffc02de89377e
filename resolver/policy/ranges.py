"""Conversion of nested address prefixes into sorted, disjoint ranges for a binary search.

It is Python and not Cython, because it runs only when settings are loaded. Decisions are ordered: the smaller number is
the stricter one and precedes for equal prefixes. Views are laid over the decisions, the first one last.
"""

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Codes", "ViewAccess", "flatten", "read_prefixes", "with_views"]


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


class ViewAccess(NamedTuple):
    """Which clients are in a view: `clients` are prefixes, empty for all. `lists` are its own prefixes to allow, refuse
    and drop, None when it has those around it. `uncached`: no cached answer is for it."""

    number: int
    clients: tuple[str, ...]
    lists: tuple[Iterable[str], Iterable[str], Iterable[str]] | None
    uncached: bool


class Codes(NamedTuple):
    """How a value of a range is made: the decisions, the bit of `uncached`, and the shift of the view's number."""

    drop: int
    refuse: int
    allow: int
    uncached: int
    shift: int


def with_views(
    lists: tuple[Iterable[str], Iterable[str], Iterable[str]], views: Iterable[ViewAccess], uncached: bool, codes: Codes
) -> dict[int, list[tuple[int, int]]]:
    """The ranges of access and view by IP version, as `flatten` makes them. The first view with the address is taken.

    `lists` are the prefixes to allow, refuse and drop of clients without other ones; `uncached` is for view 0.
    """
    found: dict[int, list[tuple[int, int]]] = {}
    for version, bits in ((4, 32), (6, 128)):
        plain = _decisions(lists, version, bits, codes)
        ranges = [(start, value | (codes.uncached if uncached else 0)) for start, value in plain]
        for view in reversed(list(views)):
            mark = view.number << codes.shift | (codes.uncached if view.uncached else 0)
            own = plain if view.lists is None else _decisions(view.lists, version, bits, codes)
            inside = [(first, length, 1) for first, length, _ in read_prefixes(view.clients, 1)[version]]
            mask = flatten(inside, bits, 0 if view.clients else 1)
            ranges = _overlay(ranges, mask, [(start, value | mark) for start, value in own])
        found[version] = ranges
    return found


def _decisions(
    lists: tuple[Iterable[str], Iterable[str], Iterable[str]], version: int, bits: int, codes: Codes
) -> list[tuple[int, int]]:
    allow, refuse, drop = lists
    prefixes = [read_prefixes(texts, decision)[version]
                for texts, decision in ((drop, codes.drop), (refuse, codes.refuse), (allow, codes.allow))]
    return flatten([one for found in prefixes for one in found], bits, codes.refuse)


def _overlay(
    under: list[tuple[int, int]], mask: list[tuple[int, int]], over: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """The values of `over` where `mask` is 1, of `under` elsewhere. All three begin at 0."""
    lists = (under, mask, over)
    places = [0, 0, 0]
    merged: list[tuple[int, int]] = []
    for start in sorted({start for ranges in lists for start, _ in ranges}):
        for number, ranges in enumerate(lists):
            while places[number] + 1 < len(ranges) and ranges[places[number] + 1][0] <= start:
                places[number] += 1
        value = over[places[2]][1] if mask[places[1]][1] else under[places[0]][1]
        if not merged or merged[-1][1] != value:
            merged.append((start, value))
    return merged
