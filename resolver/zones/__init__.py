"""Local zones: content, answers, transfers, digests and the journal on disk. All of it is sans-IO.

`zone` has the content of one zone, `answer` answers from it, `load` reads a zone file, `transfer` and `outgoing` are
the two sides of AXFR and IXFR, `schedule` computes the timers of a secondary, `journal` is the form on disk, `zonemd`
the digest, and `table` has the zones that are served. Sockets and files are in `resolver.net` and `resolver.daemon`.
"""

from resolver.zones.table import Mode, ServedZone, ZoneTable
from resolver.zones.zone import Zone, ZoneError

__all__ = ["Mode", "ServedZone", "Zone", "ZoneError", "ZoneTable"]
