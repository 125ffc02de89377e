"""Which addresses may send requests for own zones, although the access list of clients may not serve them.

Name servers are not clients: primaries and secondaries need not be in `policy.allow`. The tables here tell the fast
path and the listeners which messages they must leave to `ZoneServer`, which then decides for the zone in question. So
messages of other addresses are still handled in C. A `ZonePeers` is immutable; a new one is made when settings are
loaded.
"""

from resolver.policy.access import ALLOW, AccessTable
from resolver.settings import Settings, ZoneSettings

__all__ = ["ZonePeers"]


class ZonePeers:
    """`notify` allows the addresses that may send NOTIFY for a zone, `transfer` those that may transfer one."""

    def __init__(self, zones: tuple[ZoneSettings, ...]) -> None:
        addresses = [found.address for zone in zones for found in zone.primary_addresses]
        self.notify = AccessTable([*addresses, *(text for zone in zones for text in zone.allow_notify)])
        self.transfer = AccessTable([text for zone in zones for text in zone.allow_transfer])

    @classmethod
    def create(cls, settings: Settings) -> "ZonePeers | None":
        """Those of `settings`; None when there are no own zones."""
        return cls(settings.own_zones) if settings.own_zones else None

    def knows(self, host: str) -> bool:
        """Whether the address `host` may make any request for a zone."""
        return ALLOW in (self.notify.lookup(host), self.transfer.lookup(host))
