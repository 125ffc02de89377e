"""Places towards name servers, shared by network and within a network by zone; and the line of those without a place.

Anybody can make us ask servers that say nothing. Counted by zone alone, many zones on one host would have many shares;
counted by network alone, an honest zone would suffer from a silent one at the same provider. So an end for somebody
else's sake (`UpstreamSlots.choose_victim`) makes the networks more equal, or the zones of one network, and never the
reverse: two of them cannot end each other in turns. Sans-IO, as `FairSlots`, whose rules hold at both levels.

Glue may name any address, so silent asks can be each in a network of its own, and each would have a network's share. So
a network counts for itself only when a reply came from it lately (`RepliedNetworks`); all others are one
(`NEVER_REPLIED`).
"""

from collections import OrderedDict
from collections.abc import Hashable
from itertools import islice
from typing import Generic, TypeVar

from resolver import limits
from resolver.net.fair_slots import FairSlots, network_of

__all__ = ["NEVER_REPLIED", "RepliedNetworks", "UpstreamSlots", "WaitQueue", "server_network"]

Member = TypeVar("Member", bound=Hashable)

LOOKS = limits.SLOT_SCAN
NOBODY = object()
NEVER_REPLIED = object()


def server_network(address: str) -> Hashable:
    """What the places of a server are counted for; what is no address is a network of its own and fails later."""
    try:
        return network_of(address)
    except OSError:
        return address


class RepliedNetworks:
    """The networks of servers from which a reply came, as many as `limits.UPSTREAM_NETWORKS`: the last ones."""

    def __init__(self) -> None:
        self._last: OrderedDict[Hashable, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._last)

    def network(self, address: str) -> Hashable:
        """What an ask to `address` counts for from now on: its network, or `NEVER_REPLIED`."""
        network = server_network(address)
        return network if network in self._last else NEVER_REPLIED

    def add_reply(self, address: str) -> None:
        """A reply came from `address` that matched its query."""
        try:
            network = server_network(address)
            self._last[network] = None
            self._last.move_to_end(network)
            if len(self._last) > limits.UPSTREAM_NETWORKS:
                self._last.popitem(last=False)
        except MemoryError:
            pass  # the reply counts more than this; the next one tries again


class UpstreamSlots(Generic[Member]):
    """The members of a bounded set; the bound itself is the owner's."""

    def __init__(self) -> None:
        self._all: FairSlots[Member] = FairSlots()
        self._networks: dict[Hashable, FairSlots[Member]] = {}
        self._homes: dict[Member, Hashable] = {}

    def __len__(self) -> int:
        return len(self._all)

    def count(self, network: Hashable) -> int:
        """Members of `network`."""
        return self._all.count(network)

    def count_of_zone(self, network: Hashable, zone: Hashable) -> int:
        """Members of `zone` on `network`."""
        within = self._networks.get(network)
        return 0 if within is None else within.count(zone)

    def add(self, member: Member, network: Hashable, zone: Hashable) -> None:
        """Let `member` be a busy one, the last to make room in its zone.

        Raises:
            MemoryError: nothing has changed.
        """
        within = self._networks.get(network)
        if within is None:
            within = FairSlots()
        try:
            self._networks[network] = within
            self._homes[member] = network
            within.add(member, zone)
            self._all.add(member, network)
            within.note_progress(member, busy=True)
            self._all.note_progress(member, busy=True)
        except MemoryError:
            self._homes.pop(member, None)
            self._all.remove(member)
            within.remove(member)
            if not len(within):
                self._networks.pop(network, None)
            raise

    def remove(self, member: Member) -> bool:
        """Give the place of `member` back; False when it had none."""
        network = self._homes.pop(member, NOBODY)
        if network is NOBODY:
            return False
        self._all.remove(member)
        within = self._networks[network]
        within.remove(member)
        if not len(within):
            del self._networks[network]
        return True

    def note_progress(self, member: Member) -> None:
        """`member` has made progress; nothing happens to one without a place."""
        network = self._homes.get(member, NOBODY)
        if network is not NOBODY:
            self._all.note_progress(member, busy=True)
            self._networks[network].note_progress(member, busy=True)

    def choose_victim(self, network: Hashable, zone: Hashable) -> Member | None:
        """Whose end makes room for one more of `zone` on `network`; None when the newcomer has to wait instead."""
        found = self._all.choose_victim(network)
        if found is not None:
            # Of that network, one of the zone that has the most.
            fairer = self._networks[self._homes[found]].choose_victim(NOBODY)
            return found if fairer is None else fairer
        within = self._networks.get(network)
        return None if within is None else within.choose_victim(zone)

    def may_take_slot_of(self, member: Member, network: Hashable, zone: Hashable) -> bool:
        """Whether one more of `zone` on `network` may have the place of `member`: its own zone's, or that of a network,
        or of a zone on the same network, that has more than its own."""
        home = self._homes[member]
        if home != network:
            return self._all.count(home) > self._all.count(network)
        within = self._networks[home]
        group = within.group_of(member)
        return group == zone or within.count(group) > within.count(zone)


class WaitQueue(Generic[Member]):
    """Who waits for a place: networks that have equally many have their turns, and in them zones; there, first come
    first."""

    def __init__(self) -> None:
        self._networks: OrderedDict[Hashable, OrderedDict[Hashable, OrderedDict[Member, None]]] = OrderedDict()
        self._counts: dict[Hashable, int] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def admits(self, network: Hashable, limit: int, percent: int) -> bool:
        """Whether one more of `network` may wait: it has `percent` at most of what it has and what `limit` leaves."""
        count, free = self._counts.get(network, 0), limit - self._length
        return free > 0 and count * (100 - percent) < percent * free

    def add(self, member: Member, network: Hashable, zone: Hashable) -> None:
        """Let `member` wait.

        Raises:
            MemoryError: it does not wait.
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
            members.pop(member, None)
            if not members:
                zones.pop(zone, None)
            if not zones:
                self._networks.pop(network, None)
            raise
        self._length += 1

    def remove(self, member: Member, network: Hashable, zone: Hashable) -> bool:
        """Let `member` wait no longer; False when it did not."""
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
        """Whose turn it is, taken out of the line; None when nobody waits.

        Of the first few networks, and zones in it, that has the turn which has the fewest places by `shares`.
        """
        if not self._networks:
            return None
        network = next(iter(self._networks))
        if shares is not None:
            network = min(islice(self._networks, LOOKS), key=shares.count)
        zones = self._networks[network]
        zone = next(iter(zones))
        if shares is not None:
            within = shares.count_of_zone
            zone = min(islice(zones, LOOKS), key=lambda one: within(network, one))
        member = next(iter(zones[zone]))
        zones.move_to_end(zone)
        self._networks.move_to_end(network)
        self.remove(member, network, zone)
        return member

    def members(self) -> list[Member]:
        """All who wait."""
        return [member for zones in self._networks.values() for members in zones.values() for member in members]
