"""Forward and stub zones as delegation points, so that `iterate` handles them like delegations.

The servers of a forward zone are recursive: they are queried with RD, and their answers are accepted for names in the
zone only (in MaginotDNS, 2023, a forwarder's answers were accepted outside of its zone). The servers of a stub zone are
authoritative: they replace a delegation and are queried without RD. An entry without servers ends an enclosing forward
or stub zone at its name. With `first`, names are resolved by iteration when the servers fail. The settings refuse
`first` with encrypted servers, because their failure would send the queries in plain text.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from resolver.iterate.delegation import FOREVER, DelegationPoint
from resolver.nat64 import ServerNat64
from resolver.upstream_address import parse_upstream
from resolver.wire import name as names

if TYPE_CHECKING:
    from resolver.settings import ForwardZone, Settings, StubZone, ViewSettings

__all__ = ["configured_cuts"]


def configured_cuts(settings: "Settings", view: "ViewSettings | None" = None) -> dict[bytes, DelegationPoint | None]:
    """Every forward and stub zone by its lower-case name; None for entries that only end an enclosing one. Those of
    `view` replace the ones of the same name.

    Addresses set by the operator are not filtered: a forwarder is often on loopback.
    """
    port, nat64 = settings.iteration.upstream_port, ServerNat64.create(settings.iteration.nat64_prefix)
    table = _cuts(settings.forward, settings.stub, port, nat64)
    if view is not None:
        table.update(_cuts(view.forward, view.stub, port, nat64))
    return table


def _cuts(
    forwards: "Iterable[ForwardZone]", stubs: "Iterable[StubZone]", port: int, nat64: ServerNat64 | None
) -> dict[bytes, DelegationPoint | None]:
    table: dict[bytes, DelegationPoint | None] = {}
    for stub in stubs:
        cut = _cut(stub.zone, stub.addresses, port, nat64, f"stub {stub.zone}")
        cut.first = stub.stub_first
        for text in stub.names:
            name = names.lower(names.from_text(text))
            cut.names.append(name)
            cut.missing.append(name)
        table[cut.zone] = cut if cut.servers or cut.missing else None
    for forward in forwards:
        cut = _cut(forward.zone, forward.addresses, port, nat64, f"forward {forward.zone}")
        cut.first = forward.forward_first
        cut.recursive = True
        table[cut.zone] = cut if cut.servers else None
    return table


def _cut(
    zone: str, addresses: tuple[str, ...], port: int, nat64: ServerNat64 | None, where: str
) -> DelegationPoint:
    cut = DelegationPoint(names.lower(names.from_text(zone)), FOREVER)
    cut.configured = True
    for text in addresses:
        address, number, encryption = parse_upstream(text, port, where)
        cut.add_address(None, address if nat64 is None else nat64.reach(address), number, encryption)
    return cut
