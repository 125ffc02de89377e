"""Versions of a small zone, and the differences between them, for tests of transfers and of the file on disk."""

import io

from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.zones.load import read_zone
from resolver.zones.zone import Difference, Record, Zone

__all__ = ["ORIGIN", "difference", "soa", "version"]

ORIGIN = names.from_text("e.test.")


def version(serial: int, *hosts: int) -> Zone:
    lines = [f"h{host} A 192.0.2.{host}\n" for host in hosts]
    text = f"$TTL 300\n@ SOA ns host {serial} 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\n" + "".join(lines)
    return read_zone(io.StringIO(text), "zone", ORIGIN)


def soa(zone: Zone) -> Record:
    return ORIGIN, c.SOA, zone.soa.ttl, zone.soa.rdata(0)


def difference(old: Zone, new: Zone) -> Difference:
    return Difference([soa(old), *sorted(set(old) - set(new) - {soa(old)})],
                      [soa(new), *sorted(set(new) - set(old) - {soa(new)})])
