"""The cache table against a dictionary: it may forget for room, it may never show a wrong, old or dropped value."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from resolver import limits
from resolver.cache import Arena, Table

KINDS = st.integers(1, 4)
SLACK = limits.CACHE_CLOCK_SLACK
HEAD = 16


class TableMachine(RuleBasedStateMachine):
    """A small arena, so that eviction, wrapping and growth all happen; the model knows what was put last."""

    keys = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        self.table = Table(Arena(64 << 10), bytes(16))
        self.model: dict[tuple[int, bytes], tuple[bytes, int, int, int]] = {}
        self.now = 1_000_000_000
        self.stored = 0

    @rule(target=keys, key=st.binary(min_size=1, max_size=40))
    def name_key(self, key: bytes) -> bytes:
        return key

    def left(self, entry: tuple[bytes, int, int, int]) -> int:
        _, created, ttl, _ = entry
        if created - self.now > SLACK:
            return -1
        return ttl - max(0, self.now - created)

    @rule(kind=KINDS, key=keys, size=st.integers(0, 9000), fill=st.binary(min_size=1, max_size=4),
          ttl=st.integers(0, 5000), rank=st.integers(0, 8), ranked=st.booleans(), not_longer=st.booleans())
    def put(self, kind: int, key: bytes, size: int, fill: bytes, ttl: int, rank: int, ranked: bool,
            not_longer: bool) -> None:
        value = (fill * (size // len(fill) + 1))[:size]
        known = self.model.get((kind, key))
        there = self.table.find(kind, key, self.now) is not None
        kept = self.table.put(kind, key, value, now=self.now, ttl=ttl, meta=rank, ranked=ranked, not_longer=not_longer)
        fresh = there and known is not None and self.left(known) > 0
        if ttl == 0:
            assert not kept
            return
        if fresh and ranked and known[3] > rank:
            # The better one stays, unless making room for its refused rival pushed it out.
            assert not kept or self.table.find(kind, key, self.now) is not None
            if not kept:
                return
        largest = self.table.arena.ring_size // limits.ARENA_ENTRY_SHARE
        needed = (HEAD + len(key) + size + 7) // 8 * 8
        if kept:
            self.stored += 1
            assert needed <= largest + 2048
            if fresh and not_longer:
                found = self.table.find(kind, key, self.now)
                assert found is not None
                assert found.ttl in (ttl, min(ttl, self.left(known)))
                ttl = found.ttl
            self.model[kind, key] = (value, self.now, ttl, rank)
            found = self.table.find(kind, key, self.now)
            assert found is not None and found.value == value
        else:
            assert needed > largest - 2048

    @rule(kind=KINDS, key=keys)
    def find(self, kind: int, key: bytes) -> None:
        self.compare(kind, key)

    def compare(self, kind: int, key: bytes) -> None:
        found = self.table.find(kind, key, self.now)
        if found is None:
            return
        known = self.model[kind, key]
        assert (found.value, found.created, found.ttl, found.meta) == known
        assert max(found.remaining, 0) == max(self.left(known), 0)
        assert found.remaining <= known[2]

    @rule(kind=KINDS, key=keys)
    def drop(self, kind: int, key: bytes) -> None:
        assert self.table.drop(kind, key) <= ((kind, key) in self.model)
        self.model.pop((kind, key), None)
        assert self.table.find(kind, key, self.now) is None

    @rule(kinds=st.integers(0, 15))
    def sweep(self, kinds: int) -> None:
        gone = {place for place in self.model if kinds << 1 >> place[0] & 1}
        assert self.table.sweep(kinds << 1) <= len(gone)
        for place in gone:
            del self.model[place]
            assert self.table.find(*place, self.now) is None

    @rule()
    def clear(self) -> None:
        self.table.clear()
        self.model.clear()

    @rule(seconds=st.integers(-200, 3000) | st.sampled_from([-10 * 31_536_000, 10 * 31_536_000]))
    def let_time_pass(self, seconds: int) -> None:
        self.now = min(max(self.now + seconds, 0), 4_000_000_000)

    @rule(count=st.integers(1, 200), size=st.integers(0, 400))
    def crowd(self, count: int, size: int) -> None:
        """Many other entries, so that eviction and the ring's end come often."""
        for number in range(count):
            key = b"crowd %d" % (number % 97)
            if self.table.put(2, key, bytes([number]) * size, now=self.now, ttl=100):
                self.model[2, key] = (bytes([number]) * size, self.now, 100, 0)

    @invariant()
    def the_limit_holds(self) -> None:
        assert 0 <= self.table.arena.ring_used <= self.table.arena.ring_size

    @invariant()
    def counts_add_up(self) -> None:
        entries = self.table.statistics().entries
        for kind, kind_name in enumerate(("answer", "rrset", "negative", "failure"), 1):
            known = [place for place in self.model if place[0] == kind]
            assert entries[kind_name] <= len(known)

    def teardown(self) -> None:
        for kind, key in list(self.model):
            self.compare(kind, key)


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
