"""Slots for upstream queries, shared between networks and within a network between zones; and the queue for a slot.

Any client can make the resolver query servers that do not reply. If slots were shared by zone alone, many zones on one
host would have many shares. If they were shared by network alone, a zone would suffer from an unresponsive zone at the
same provider. So an eviction (`UpstreamSlots.choose_victim`) makes the counts of the networks, or of the zones of one
network, more equal, never less: two of them cannot evict each other in turns. Sans-IO, like `FairSlots`, whose rules
hold at both levels.

Glue may contain any address, so each unanswered query can go to another network, which would each have a share. So a
network is counted separately only when a reply came from it recently (`RepliedNetworks`). All other networks are
counted as one (`NEVER_REPLIED`).
"""

from collections import OrderedDict
from collections.abc import Hashable
from itertools import islice
from typing import Generic, TypeVar

from resolver import limits
from resolver.net.fair_slots import FairSlots
from resolver.net.sockaddr import network_of

__all__ = ["NEVER_REPLIED", "RepliedNetworks", "UpstreamSlots", "WaitQueue", "server_network"]

Member = TypeVar("Member", bound=Hashable)

SCAN = limits.SLOT_SCAN
NO_GROUP = object()
NEVER_REPLIED = object()


def server_network(address: str) -> Hashable:
    """Return the network of a server's address. An invalid address is returned as it is; sending to it fails later."""
    try:
        return network_of(address)
    except OSError:
        return address


class RepliedNetworks:
    """The `limits.UPSTREAM_NETWORKS` networks from which a reply came most recently."""

    def __init__(self) -> None:
        self.by_last_reply: OrderedDict[Hashable, None] = OrderedDict()
        """The networks, the one of the last reply at the end."""

    def __len__(self) -> int:
        return len(self.by_last_reply)

    def network(self, address: str) -> Hashable:
        """Return the group that a query to `address` counts for: its network, or `NEVER_REPLIED`."""
        network = server_network(address)
        return network if network in self.by_last_reply else NEVER_REPLIED

    def add_reply(self, address: str) -> None:
        """Record a reply from `address` that matched its query."""
        try:
            network = server_network(address)
            self.by_last_reply[network] = None
            self.by_last_reply.move_to_end(network)
            if len(self.by_last_reply) > limits.UPSTREAM_NETWORKS:
                self.by_last_reply.popitem(last=False)
        except MemoryError:
            pass  # the reply must still be processed; the next one is recorded


class UpstreamSlots(Generic[Member]):
    """The members that hold slots, by network and zone. The owner enforces the number of slots."""

    def __init__(self) -> None:
        self._all: FairSlots[Member] = FairSlots()
        self._networks: dict[Hashable, FairSlots[Member]] = {}
        self._network_of: dict[Member, Hashable] = {}

    def __len__(self) -> int:
        return len(self._all)

    def count(self, network: Hashable) -> int:
        """Return the number of members of `network`."""
        return self._all.count(network)

    def count_of_zone(self, network: Hashable, zone: Hashable) -> int:
        """Return the number of members of `zone` on `network`."""
        within = self._networks.get(network)
        return 0 if within is None else within.count(zone)

    def add(self, member: Member, network: Hashable, zone: Hashable) -> None:
        """Add `member` as busy, with the most recent progress.

        Raises:
            MemoryError: nothing has changed.
        """
        within = self._networks.get(network)
        if within is None:
            within = FairSlots()
        try:
            self._networks[network] = within
            self._network_of[member] = network
            within.add(member, zone)
            self._all.add(member, network)
            within.note_progress(member, busy=True)
            self._all.note_progress(member, busy=True)
        except MemoryError:
            # A member in some of the tables only would hold its slot for ever.
            self._network_of.pop(member, None)
            self._drop(member, network, within)
            raise

    def remove(self, member: Member) -> bool:
        """Free the slot of `member`; False when it had none."""
        network = self._network_of.pop(member, NO_GROUP)
        if network is NO_GROUP:
            return False
        self._drop(member, network, self._networks[network])
        return True

    def _drop(self, member: Member, network: Hashable, within: FairSlots[Member]) -> None:
        self._all.remove(member)
        within.remove(member)
        if not len(within):
            self._networks.pop(network, None)

    def note_progress(self, member: Member) -> None:
        """Record progress of `member`. Without a slot nothing happens."""
        network = self._network_of.get(member, NO_GROUP)
        if network is not NO_GROUP:
            self._all.note_progress(member, busy=True)
            self._networks[network].note_progress(member, busy=True)

    def choose_victim(self, network: Hashable, zone: Hashable) -> Member | None:
        """Return the member to evict for a new one of `zone` on `network`; None when the new one must wait."""
        found = self._all.choose_victim(network)
        if found is not None:
            # On that network, prefer a member of the zone that has the most.
            fairer = self._networks[self._network_of[found]].choose_victim(NO_GROUP)
            return found if fairer is None else fairer
        within = self._networks.get(network)
        return None if within is None else within.choose_victim(zone)

    def may_take_slot_of(self, member: Member, network: Hashable, zone: Hashable) -> bool:
        """Whether a new member of `zone` on `network` may evict the unresponsive `member`: when that is of the same
        zone, to another network that has more, or to another zone of the same network that has more."""
        its_network = self._network_of[member]
        if its_network != network:
            return self._all.count(its_network) > self._all.count(network)
        within = self._networks[its_network]
        group = within.group_of(member)
        return group == zone or within.count(group) > within.count(zone)


class WaitQueue(Generic[Member]):
    """The members that wait for a slot: round robin between networks with equally many slots, within a network between
    zones, and first in, first out within a zone."""

    def __init__(self) -> None:
        self._networks: OrderedDict[Hashable, OrderedDict[Hashable, OrderedDict[Member, None]]] = OrderedDict()
        self._counts: dict[Hashable, int] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def admits(self, network: Hashable, limit: int, percent: int) -> bool:
        """Whether one more of `network` may wait: it may have `percent` of the sum of its own and the free entries."""
        count, free = self._counts.get(network, 0), limit - self._length
        return free > 0 and count * (100 - percent) < percent * free

    def add(self, member: Member, network: Hashable, zone: Hashable) -> None:
        """Append `member`.

        Raises:
            MemoryError: nothing has changed.
        """
        zones = self._networks.get(network)
        if zones is None:
            zones = OrderedDict()
        members = zones.get(zone)
        if members is None:
            members = OrderedDict()
        before = self._counts.get(network, 0)
        try:
            members[member] = None
            zones[zone] = members
            self._networks[network] = zones
            self._counts[network] = before + 1
        except MemoryError:
            # The length must be that of the tables, because it limits them.
            members.pop(member, None)
            if not members:
                zones.pop(zone, None)
            if not zones:
                self._networks.pop(network, None)
            raise
        self._length += 1

    def remove(self, member: Member, network: Hashable, zone: Hashable) -> bool:
        """Remove `member`; False when it did not wait."""
        zones = self._networks.get(network)
        members = None if zones is None else zones.get(zone)
        if zones is None or members is None or member not in members:
            return False
        del members[member]
        if not members:
            del zones[zone]
        if not zones:
            del self._networks[network]
        self._length -= 1
        count = self._counts[network] - 1
        if count:
            self._counts[network] = count
        else:
            del self._counts[network]
        return True

    def next(self, shares: "UpstreamSlots[Member] | None" = None) -> Member | None:
        """Remove and return the next member; None when the queue is empty.

        Of the first `SLOT_SCAN` networks, and of the first zones in it, the one with the fewest slots by `shares`.
        """
        if not self._networks:
            return None
        network = next(iter(self._networks))
        if shares is not None:
            network = min(islice(self._networks, SCAN), key=shares.count)
        zones = self._networks[network]
        zone = next(iter(zones))
        if shares is not None:
            within = shares.count_of_zone
            zone = min(islice(zones, SCAN), key=lambda one: within(network, one))
        member = next(iter(zones[zone]))
        zones.move_to_end(zone)
        self._networks.move_to_end(network)
        self.remove(member, network, zone)
        return member

    def members(self) -> list[Member]:
        """All waiting members."""
        return [member for zones in self._networks.values() for members in zones.values() for member in members]
