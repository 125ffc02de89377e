"""A complete small Internet in one process: root, top-level domains and 150 zones, healthy and broken,
signed and unsigned.

`World` is the whole of it as pure functions from packet to packet, for tests in virtual time; `start` puts it on
loopback addresses for `resolverd --playground`, `rdig --playground` and integration tests. What is special about
which name stands in atlas.py and, for DNSSEC, in signed.py (`signed.signed_world` makes what `start` serves by
default), and every such name is explained by a TXT record below about.playground.
"""

from resolver.playground.authority import Authority, EdnsFault, ServerFaults
from resolver.playground.serve import RunningWorld, start
from resolver.playground.world import Server, World
from resolver.playground.zones import Lookup, LookupResult, Zone, ZoneError

__all__ = [
    "Authority",
    "EdnsFault",
    "Lookup",
    "LookupResult",
    "RunningWorld",
    "Server",
    "ServerFaults",
    "World",
    "Zone",
    "ZoneError",
    "start",
]
