"""Forward and stub zones as ready-made cuts, so that the iterator needs no second way of working.

A forward zone's servers are recursive: they are asked with RD and may answer for anything below the zone, and for
nothing else (MaginotDNS 2023 was a forwarder whose answers were believed outside of its zone). A stub zone's servers
are authoritative: they take the place of a delegation and are asked without RD. An entry without servers switches a
wider one off below its zone. `first` lets the public tree answer when the servers do not.
"""

from typing import TYPE_CHECKING

from resolver.iterate.delegation import FOREVER, DelegationPoint
from resolver.options import parse_endpoint
from resolver.wire import name as names

if TYPE_CHECKING:
    from resolver.settings import Settings

__all__ = ["configured_cuts"]


def configured_cuts(settings: "Settings") -> dict[bytes, DelegationPoint | None]:
    """Every forward and stub zone by its lower-cased name; None for those that only switch off a wider one.

    The addresses are the operator's word and are not filtered: a forwarder on loopback is the usual case.
    """
    table: dict[bytes, DelegationPoint | None] = {}
    port = settings.iteration.upstream_port
    for stub in settings.stub:
        cut = _cut(stub.zone, stub.addresses, port, f"stub {stub.zone}")
        cut.first = stub.stub_first
        for text in stub.names:
            name = names.lower(names.from_text(text))
            cut.names.append(name)
            cut.missing.append(name)
        table[cut.zone] = cut if cut.servers or cut.missing else None
    for forward in settings.forward:
        cut = _cut(forward.zone, forward.addresses, port, f"forward {forward.zone}")
        cut.first = forward.forward_first
        cut.recursive = True
        table[cut.zone] = cut if cut.servers else None
    return table


def _cut(zone: str, addresses: tuple[str, ...], port: int, where: str) -> DelegationPoint:
    cut = DelegationPoint(names.lower(names.from_text(zone)), FOREVER)
    cut.configured = True
    for text in addresses:
        address, number = parse_endpoint(text, port, where)
        cut.add_address(None, address, number)
    return cut
