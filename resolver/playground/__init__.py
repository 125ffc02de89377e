"""A complete small DNS tree in one process: root, top-level domains and 150 zones, sound and broken, signed and
unsigned.

`World` provides it as pure functions from packet to packet, for tests in virtual time. `start` serves it on loopback
addresses for `resolverd --playground`, `rdig --playground` and integration tests. The special names are listed in
world_tables.py and, for DNSSEC, in signed.py (`signed.signed_world` creates what `start` serves by default). A TXT
record below about.playground explains each.
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
