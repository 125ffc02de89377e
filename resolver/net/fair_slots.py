"""Who holds the places of a bounded set, by group, and who makes room when none is free.

Groups are the networks of clients, or the servers and zones that are asked. Each member is resting or busy, and in
either state the members of a group stand in the order of their progress: whoever has made none for the longest comes
first. Sans-IO: the owner decides what progress is, ends the members and removes them.

The choice (`choose_victim`), so that no group can hold all places however its members behave:

* A newcomer may end resting members of its own group and of every group that is not smaller than its own; the largest
  group that has any comes first.
* When nobody rests there, it may end a busy member of a group that is larger than its own will be: the shares become
  more equal by it, and never less.

Every operation but `choose_victim` takes constant time; `choose_victim` looks at group sizes, of which n members have
at most about the square root of 2n, and at no more than `limits.SLOT_SCAN` groups.
"""

import socket
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from resolver import limits

__all__ = ["FairSlots", "network_of"]

Member = TypeVar("Member", bound=Hashable)

IPV4_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291 section 2.5.5.2


def network_of(host: str) -> str | bytes:
    """What `host` counts for beside itself: the /24 of an IPv4 address, the /56 of an IPv6 one.

    One customer is given a whole /56 or more (RFC 6177), so addresses alone would bound nobody who has IPv6.
    """
    if ":" not in host:
        return host.rpartition(".")[0]
    octets = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    if octets.startswith(IPV4_MAPPED):
        return ".".join(map(str, octets[12:15]))
    return octets[:7]


class _Group(Generic[Member]):
    __slots__ = ("busy", "idle", "key")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.idle: OrderedDict[Member, None] = OrderedDict()
        self.busy: OrderedDict[Member, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.idle) + len(self.busy)


class FairSlots(Generic[Member]):
    """The members of a bounded set; the bound itself is the owner's."""

    def __init__(self) -> None:
        self._groups: dict[Hashable, _Group[Member]] = {}
        self._members: dict[Member, _Group[Member]] = {}
        self._sizes: dict[int, dict[_Group[Member], None]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members)

    def __contains__(self, member: object) -> bool:
        return member in self._members

    def count(self, group: Hashable) -> int:
        """Members of `group`."""
        found = self._groups.get(group)
        return 0 if found is None else len(found)

    def group_of(self, member: Member) -> Hashable:
        """The group of `member`, which has a place."""
        return self._members[member].key

    def add(self, member: Member, group: Hashable) -> None:
        """Let `member` be a resting one of `group`, the last to make room there.

        Raises:
            MemoryError: nothing has changed.
        """
        found = self._groups.get(group)
        if found is None:
            found = _Group(group)
        before = len(found)
        try:
            self._groups[group] = found
            self._members[member] = found
            found.idle[member] = None
            self._sizes.setdefault(before + 1, {})[found] = None
        except MemoryError:
            self._drop(member, found, before + 1)
            raise
        self._leave_size(found, before)

    def remove(self, member: Member) -> bool:
        """Give the place of `member` back; False when it had none."""
        group = self._members.get(member)
        if group is None:
            return False
        before = len(group)
        self._drop(member, group, before)
        if len(group):
            try:
                self._sizes.setdefault(len(group), {})[group] = None
            except MemoryError:
                pass  # the slot is free all the same; `choose_victim` finds this group when its size changes again
        return True

    def note_progress(self, member: Member, *, busy: bool) -> None:
        """`member` has made progress and is `busy` or resting from now on; nothing happens to one without a place."""
        group = self._members.get(member)
        if group is None:
            return
        to, away = (group.busy, group.idle) if busy else (group.idle, group.busy)
        to[member] = None
        to.move_to_end(member)
        away.pop(member, None)

    def oldest_idle(self, group: Hashable) -> Member | None:
        """The member of `group` that rests for the longest time."""
        found = self._groups.get(group)
        return next(iter(found.idle), None) if found is not None else None

    def choose_victim(self, group: Hashable) -> Member | None:
        """Whose end makes room for one more of `group`; None when the newcomer has to go instead."""
        own = self.count(group)
        looks = limits.SLOT_SCAN
        sizes = sorted(self._sizes, reverse=True)
        for size in sizes:
            if size < own:
                break
            for found in self._sizes[size]:
                if found.idle:
                    return next(iter(found.idle))
                looks -= 1
                if not looks:
                    break
            if not looks:
                break
        idle = self.oldest_idle(group)
        if idle is not None:
            return idle
        if sizes and sizes[0] > own + 1:
            largest = next(iter(self._sizes[sizes[0]]))
            return next(iter(largest.busy), None)
        return None

    def _drop(self, member: Member, group: _Group[Member], size: int) -> None:
        """Forget `member` everywhere, and that `group` has `size` members; this takes no memory."""
        self._members.pop(member, None)
        group.idle.pop(member, None)
        group.busy.pop(member, None)
        self._leave_size(group, size)
        if not group and self._groups.get(group.key) is group:
            del self._groups[group.key]

    def _leave_size(self, group: _Group[Member], size: int) -> None:
        same = self._sizes.get(size)
        if same is not None:
            same.pop(group, None)
            if not same:
                del self._sizes[size]
