"""A limited number of slots, shared fairly between groups: which member is evicted when no slot is free.

Groups are the networks of clients, or the networks and zones of servers. Each member is idle or busy. In each of the
two states the members of a group are ordered by their last progress, the oldest first. Sans-IO: the owner decides what
progress is, closes the members and removes them.

`choose_victim` ensures that no group can hold all slots, however its members behave:

* A new member may evict an idle member of its own group, or of a group that is not smaller than its own. The largest
  group with idle members comes first.
* When there is no such idle member, it may evict a busy member of a group that is larger than its own will be. So an
  eviction makes the group sizes more equal, never less.

Every operation except `choose_victim` takes constant time. `choose_victim` sorts the distinct group sizes, of which n
members have at most about the square root of 2n, and examines at most `limits.SLOT_SCAN` groups.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from resolver import limits

__all__ = ["FairSlots"]

Member = TypeVar("Member", bound=Hashable)


class _Group(Generic[Member]):
    __slots__ = ("busy", "idle", "key")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.idle: OrderedDict[Member, None] = OrderedDict()
        self.busy: OrderedDict[Member, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.idle) + len(self.busy)


class FairSlots(Generic[Member]):
    """The members that hold slots, by group. The owner enforces the number of slots."""

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
        """Return the number of members of `group`."""
        found = self._groups.get(group)
        return 0 if found is None else len(found)

    def group_of(self, member: Member) -> Hashable:
        """Return the group of `member`, which must have a slot."""
        return self._members[member].key

    def add(self, member: Member, group: Hashable) -> None:
        """Add `member` to `group` as idle, with the most recent progress.

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
            self._drop(member, found, before + 1)  # a member in some of the tables only would hold its slot for ever
            raise
        self._remove_from_size(found, before)

    def remove(self, member: Member) -> bool:
        """Free the slot of `member`; False when it had none."""
        group = self._members.get(member)
        if group is None:
            return False
        before = len(group)
        self._drop(member, group, before)
        if len(group):
            try:
                self._sizes.setdefault(len(group), {})[group] = None
            except MemoryError:
                pass  # the slot is free anyway; `choose_victim` finds this group when its size changes again
        return True

    def note_progress(self, member: Member, *, busy: bool) -> None:
        """Record progress of `member`, which is `busy` or idle from now on. Without a slot nothing happens."""
        group = self._members.get(member)
        if group is None:
            return
        target, other = (group.busy, group.idle) if busy else (group.idle, group.busy)
        target[member] = None
        target.move_to_end(member)
        other.pop(member, None)

    def oldest_idle(self, group: Hashable) -> Member | None:
        """Return the idle member of `group` whose progress is the oldest; None when none is idle."""
        found = self._groups.get(group)
        return next(iter(found.idle), None) if found is not None else None

    def choose_victim(self, group: Hashable) -> Member | None:
        """Return the member to evict for a new member of `group`; None when the new one must be rejected instead."""
        own = self.count(group)
        scan = limits.SLOT_SCAN
        sizes = sorted(self._sizes, reverse=True)
        for size in sizes:
            if size < own:
                break
            for found in self._sizes[size]:
                if found.idle:
                    return next(iter(found.idle))
                scan -= 1
                if not scan:
                    break
            if not scan:
                break
        idle = self.oldest_idle(group)
        if idle is not None:
            return idle
        if sizes and sizes[0] > own + 1:
            largest = next(iter(self._sizes[sizes[0]]))
            return next(iter(largest.busy), None)
        return None

    def _drop(self, member: Member, group: _Group[Member], size: int) -> None:
        """Remove `member`, and `group` from the groups of `size` members. Allocates no memory."""
        self._members.pop(member, None)
        group.idle.pop(member, None)
        group.busy.pop(member, None)
        self._remove_from_size(group, size)
        if not group and self._groups.get(group.key) is group:
            del self._groups[group.key]

    def _remove_from_size(self, group: _Group[Member], size: int) -> None:
        same = self._sizes.get(size)
        if same is not None:
            same.pop(group, None)
            if not same:
                del self._sizes[size]
