"""Computations with networks of clients: which views they are in, and which addresses a list leaves."""

import re
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

__all__ = ["Network", "allowed", "decision", "inside", "view_groups", "view_name", "wider"]

Network: TypeAlias = IPv4Network | IPv6Network


def wider(network: Network) -> Iterator[Network]:
    """`network` and all networks that contain it, the smallest first."""
    for length in range(network.prefixlen, -1, -1):
        yield network.supernet(new_prefix=length)


def inside(inner: Network, outer: Network) -> bool:
    """Whether `outer` contains `inner`; networks of two families never do."""
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def decision(decisions: dict[Network, bool], network: Network) -> bool:
    """Whether a list allows `network`; addresses in none of its elements are not allowed."""
    return next((decisions[found] for found in wider(network) if found in decisions), False)


def allowed(decisions: dict[Network, bool]) -> list[Network]:
    """The addresses that a list allows, as networks without exceptions."""
    found: list[Network] = []
    for network, yes in decisions.items():
        parts = [network] if yes else []
        for denied, other in decisions.items():
            if not other and denied != network and inside(denied, network):
                parts = [piece for part in parts for piece in _without(part, denied)]
        found += parts
    return sorted(set(found), key=lambda one: (one.version, one))


def _without(part: Network, denied: Network) -> list[Network]:
    if inside(part, denied):
        return []
    if not inside(denied, part):
        return [part]
    return list(part.address_exclude(denied))  # type: ignore[arg-type]


def view_groups(members: list[tuple[Network, str]]) -> list[tuple[str, list[Network]]]:
    """Views with their networks, in an order in which the first that fits a client is that of its smallest network.

    A view comes twice when it has networks on both sides of another one, as 10.0.0.0/8 and 10.1.1.0/24 with 10.1.0.0/16
    in another view.
    """
    groups: list[tuple[str, list[Network]]] = []
    for network, name in sorted(members, key=lambda one: -one[0].prefixlen):
        for place, (other, held) in enumerate(groups):
            later = (one for _, rest in groups[place + 1 :] for one in rest)
            if other == name and not any(inside(one, network) for one in later):
                held.append(network)
                break
        else:
            groups.append((name, [network]))
    return groups


def view_name(text: str) -> str:
    """`text` as the name of a view, which is for the log and statistics only."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", text).strip("-_") or "view"
