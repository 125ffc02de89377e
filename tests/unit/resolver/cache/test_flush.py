"""Flushing: what is asked to go is gone in every process, however it is reached, whatever others store meanwhile.

The races are played one step at a time: a flush is an iterator, and whatever shall happen in its midst happens between
two of its steps.
"""

import contextlib
import itertools
import mmap
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import dns.message
import dns.rrset
import pytest

from resolver import limits
from resolver.cache import Store
from resolver.cache.snapshot import dump, load
from resolver.wire import consts as c
from resolver.wire.name import from_text
from resolver.wire.rrset import RRset

NOW = 1_000_000
WWW = from_text("www.example.com.")


def make(size: int = 1 << 20) -> Store:
    return Store.create(size, seed=bytes(16), shared=True)


def put(store: Store, text: str, *, serial: int = 0) -> bool:
    store.rrsets.serial = serial
    try:
        return bool(store.rrsets.put(RRset(from_text(text), c.A, 300, [b"\1\2\3\4"], trust=6), NOW))
    finally:
        store.rrsets.serial = 0


def has(store: Store, text: str) -> bool:
    return store.rrsets.find(from_text(text), c.A, NOW) is not None


def query_for(text: str) -> bytes:
    return dns.message.make_query(text, "A").to_wire()


def put_answer(store: Store, text: str, *alias: str, serial: int = 0) -> bool:
    message = dns.message.make_response(dns.message.make_query(text, "A"))
    for name in alias:
        message.answer.append(dns.rrset.from_text(text, 300, "IN", "CNAME", name))
        text = name
    message.answer.append(dns.rrset.from_text(text, 300, "IN", "A", "192.0.2.1"))
    return bool(store.answers.put(message.to_wire(), do=False, cd=False, now=NOW, ttl=300, serial=serial))


def shows(store: Store, text: str) -> bool:
    return store.answers.render(query_for(text), NOW, 512) is not None


# --- what goes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subtree", [False, True])
def test_an_answer_that_leads_to_the_name_by_an_alias_goes_too(subtree):
    store = make()
    assert put_answer(store, "shop.example.net.", "cdn.example.org.", "www.example.com.")
    assert shows(store, "shop.example.net.")
    store.drop(WWW, subtree=subtree)
    assert not shows(store, "shop.example.net.")
    assert put_answer(store, "shop.example.net.", "cdn.example.org.", "www.example.com.")
    assert shows(store, "shop.example.net.")


def test_what_goes_is_out_of_sight_from_the_first_step_on():
    store = make(4 << 20)
    for number in range(5000):
        put(store, f"n{number}.example.com.")
    put(store, "other.example.net.")
    steps = store.flush(from_text("example.com."), subtree=True)
    next(steps)
    assert not any(has(store, f"n{number}.example.com.") for number in range(5000))
    assert has(store, "other.example.net.")
    sizes = list(steps)
    assert sum(sizes) == 5000
    assert len(sizes) > 1 and max(sizes) <= limits.FLUSH_GROUPS * 64 * 7
    assert store.statistics()["entries_rrset"] == 1


def test_one_type_goes_and_the_others_stay():
    store = make()
    for rtype, rdata in ((c.A, bytes(4)), (c.AAAA, bytes(16))):
        store.rrsets.put(RRset(WWW, rtype, 300, [rdata], trust=6), NOW)
    assert put_answer(store, "alias.example.net.", "www.example.com.")
    assert store.drop(WWW, rtype=c.A) == 1
    assert store.rrsets.find(WWW, c.A, NOW) is None and store.rrsets.find(WWW, c.AAAA, NOW) is not None
    assert not shows(store, "alias.example.net.")


def test_answers_from_before_leave_the_table_and_newer_ones_stay():
    store = make()
    put_answer(store, "a.example.net.")
    store.drop(from_text("x.example.org."))
    put_answer(store, "b.example.net.")
    assert store.statistics()["entries_answer"] == 1
    assert shows(store, "b.example.net.")


def test_everything_goes_in_slices():
    store = make(4 << 20)
    for number in range(5000):
        put(store, f"n{number}.example.com.")
    put_answer(store, "b.example.net.")
    sizes = list(store.flush())
    assert sum(sizes) == 5001 and len(sizes) > 1
    assert store.statistics()["entries_rrset"] == store.statistics()["entries_answer"] == 0


# --- races --------------------------------------------------------------------------------------------------------


def test_what_was_begun_before_a_flush_is_not_stored_after_it():
    store = make()
    before = store.table.serial
    steps = store.flush(WWW)
    next(steps)
    assert not put(store, "www.example.com.", serial=before), "in its midst"
    assert not put_answer(store, "www.example.com.", serial=before)
    list(steps)
    assert not put(store, "www.example.com.", serial=before), "at its end"
    assert not put(store, "www.example.com.", serial=before), "as a renewal in place"
    assert not put_answer(store, "shop.example.net.", "www.example.com.", serial=before)
    store.rrsets.serial = before
    assert not store.rrsets.put_negative(WWW, c.A, soa=None, ttl=60, verdict=0, now=NOW)
    assert not store.rrsets.put_failure(WWW, c.A, kind=7, verdict=None, ede=0, text="", ttl=60, now=NOW)
    store.rrsets.serial = 0
    assert put(store, "www.example.com.", serial=store.table.serial) and has(store, "www.example.com.")
    assert not put(store, "www.example.com.", serial=before), "in place of a newer one"
    assert put_answer(store, "shop.example.net.", "www.example.com.", serial=store.table.serial)


@pytest.mark.parametrize("seed", range(8))
def test_nothing_from_before_survives_whatever_moves_meanwhile(seed):
    """A small cache in which a writer evicts, carries over and divides between the steps; old entries say so."""
    rng = random.Random(seed)
    store = make(1 << 20)
    for number in range(4000):
        put(store, f"old{number}.example.com.")
        has(store, f"old{rng.randrange(number + 1)}.example.com.")  # used ones are carried over, not evicted
    before = store.table.serial
    steps = store.flush(from_text("example.com."), subtree=True)
    for turn, _ in enumerate(steps):
        for number in range(200):
            put(store, f"new{turn}-{number}.example.net.")
            put(store, f"old{rng.randrange(4000)}.example.com.", serial=before)
            has(store, f"new{turn}-{rng.randrange(number + 1)}.example.net.")
    assert not any(has(store, f"old{number}.example.com.") for number in range(4000))
    assert store.table.statistics().groups > 1


def test_two_flushes_at_once_are_both_whole():
    store = make(4 << 20)
    for number in range(3000):
        put(store, f"n{number}.example.com.")
        put(store, f"n{number}.example.net.")
    first = store.flush(from_text("example.com."), subtree=True)
    second = store.flush(from_text("example.net."), subtree=True)
    gone = next(first) + next(second)
    for left, right in itertools.zip_longest(first, second, fillvalue=0):
        gone += left + right
    assert gone == 6000
    assert store.statistics()["entries_rrset"] == 0


def test_more_flushes_than_may_be_are_refused_and_harm_nothing():
    store = make()
    put(store, "www.example.com.")
    under_way = [store.flush(from_text(f"n{number}.example.net.")) for number in range(4)]
    for steps in under_way:
        next(steps)
    with pytest.raises(BlockingIOError):
        store.drop(WWW)
    assert has(store, "www.example.com.")
    under_way[0].close()
    assert store.drop(WWW) == 1
    for steps in under_way:
        steps.close()


def test_a_flush_given_up_shows_what_it_did_not_reach():
    store = make()
    put(store, "www.example.com.")
    steps = store.flush(WWW)
    next(steps)
    assert not has(store, "www.example.com.")
    steps.close()
    assert has(store, "www.example.com.")


def test_a_flush_whose_process_died_hides_nothing_for_ever():
    store = make()
    put(store, "www.example.com.")
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        steps = store.flush(WWW)
        next(steps)
        os.write(write_end, b"!")
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.read(read_end, 1) == b"!"
    os.waitpid(child, 0)
    assert not has(store, "www.example.com.")
    for number in range(limits.FLUSH_OWNER_CHECK):  # who stores looks after it now and then
        put(store, f"n{number}.example.net.")
    assert has(store, "www.example.com.")
    assert store.drop(WWW) == 1
    os.close(read_end)
    os.close(write_end)


@contextlib.contextmanager
def no_descriptors():
    """Nothing can be opened, /proc neither."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def flushing_child(store: Store, *, blind: bool):
    """A process in the midst of a flush of WWW; `blind`: it cannot read /proc. Ended and waited for at the end."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        with no_descriptors() if blind else contextlib.nullcontext():
            steps = store.flush(WWW)
            next(steps)
        os.write(write_end, b"!")
        signal.pause()
    try:
        assert os.read(read_end, 1) == b"!"
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize("blind", [False, True])
def test_a_flush_whose_process_died_unseen_by_proc_hides_nothing_for_ever(blind):
    store = make()
    put(store, "www.example.com.")
    with flushing_child(store, blind=blind):
        pass
    with no_descriptors():
        for number in range(limits.FLUSH_OWNER_CHECK):
            put(store, f"n{number}.example.net.")
    assert has(store, "www.example.com.")


@pytest.mark.parametrize("blind", [False, True])
def test_a_flush_goes_on_where_nobody_can_see_its_process(blind):
    """Want of a descriptor at a look into /proc is no sign of death: what is to go would be shown before it went."""
    store = make()
    put(store, "www.example.com.")
    with flushing_child(store, blind=blind):
        for look in (contextlib.nullcontext(), no_descriptors()):
            with look:
                for number in range(2 * limits.FLUSH_OWNER_CHECK):
                    put(store, f"n{number}.example.net.")
                store.drop(from_text("other.example."))
            assert not has(store, "www.example.com.")
    assert store.drop(WWW) == 1


def test_a_process_with_the_number_of_a_dead_one_keeps_no_flush(tmp_path):
    """A number lives on when another process has it, which began at another time: here that time is changed instead."""
    path = tmp_path / "cache"
    store = Store.create(1 << 20, seed=bytes(16), path=str(path))
    put(store, "www.example.com.")
    steps = store.flush(WWW)
    next(steps)
    for number in range(2 * limits.FLUSH_OWNER_CHECK):
        put(store, f"n{number}.example.net.")
    assert not has(store, "www.example.com."), "its process is alive"
    began = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    mine, other = ((began + change).to_bytes(8, sys.byteorder) for change in (0, 1))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        at = memory.find(mine)
        assert at >= 0 and memory.find(mine, at + 1) < 0
        memory[at : at + 8] = other
    for number in range(limits.FLUSH_OWNER_CHECK):
        put(store, f"m{number}.example.net.")
    assert has(store, "www.example.com.")
    steps.close()


class Elsewhere:
    """A flush of this process in a kept cache, changed as if its process were in another PID namespace."""

    def __init__(self, path: Path) -> None:
        self.store = Store.create(1 << 20, seed=bytes(16), path=str(path))
        put(self.store, "www.example.com.")
        self.steps = self.store.flush(WWW)
        next(self.steps)
        self._path = path
        began = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]).to_bytes(8, sys.byteorder)
        self._at = path.read_bytes().find(began)
        space = Path("/proc/self/ns/pid").stat().st_ino
        assert self._read(8) == space
        self._write(8, space + 1)

    def _read(self, offset: int) -> int:
        with self._path.open("rb") as file:
            file.seek(self._at + offset)
            return int.from_bytes(file.read(8), sys.byteorder)

    def _write(self, offset: int, value: int) -> None:
        with self._path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            memory[self._at + offset : self._at + offset + 8] = value.to_bytes(8, sys.byteorder)

    def began_at(self, ticks: int) -> None:
        """Its process began then: a number that is another process's here."""
        self._write(0, ticks)

    def worked(self, seconds: int) -> None:
        """So long ago there was progress."""
        self._write(16, int(time.time()) - seconds)

    def is_hidden(self) -> bool:
        """Whether it still hides what it will drop, after looks at whether its process lives."""
        for number in range(2 * limits.FLUSH_OWNER_CHECK):
            put(self.store, f"n{number}.example.net.")
        return not has(self.store, "www.example.com.")


def test_a_flush_in_another_pid_namespace_lives_while_it_makes_progress(tmp_path):
    flush = Elsewhere(tmp_path / "cache")
    flush.began_at(1)
    assert flush.is_hidden(), "what is known of that number here says nothing"
    flush.worked(limits.FLUSH_HEARTBEAT_TIMEOUT - 5)
    assert flush.is_hidden()
    next(flush.steps)
    flush.began_at(1)
    assert sum(flush.steps) == 0
    assert not has(flush.store, "www.example.com."), "it is gone"


def test_a_flush_in_another_pid_namespace_that_makes_none_is_dead(tmp_path):
    for seconds in (limits.FLUSH_HEARTBEAT_TIMEOUT + 5, -limits.FLUSH_HEARTBEAT_TIMEOUT - 5):
        flush = Elsewhere(tmp_path / f"cache{seconds}")
        flush.worked(seconds)
        assert not flush.is_hidden(), "also when the clock was set back meanwhile"


def test_a_flush_says_with_each_step_that_it_lives(tmp_path):
    flush = Elsewhere(tmp_path / "cache")
    flush.worked(limits.FLUSH_HEARTBEAT_TIMEOUT + 5)
    next(flush.steps)
    put(flush.store, "www.example.com.")
    assert flush.is_hidden()


def test_a_flush_taken_for_dead_does_not_end_the_next_one(tmp_path):
    flush = Elsewhere(tmp_path / "cache")
    flush.worked(limits.FLUSH_HEARTBEAT_TIMEOUT + 5)
    assert not flush.is_hidden()
    others = flush.store.flush(WWW)
    next(others)
    assert sum(flush.steps) == 1
    put(flush.store, "www.example.com.")
    assert not has(flush.store, "www.example.com."), "the other is under way"
    assert sum(others) == 1
    put(flush.store, "www.example.com.")
    assert has(flush.store, "www.example.com.")


def test_another_process_sees_the_flush_at_once():
    store = make()
    put(store, "www.example.com.")
    put_answer(store, "shop.example.net.", "www.example.com.")
    before = store.table.serial
    child = os.fork()
    if child == 0:
        store.drop(WWW)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert store.table.serial != before
    assert not has(store, "www.example.com.") and not shows(store, "shop.example.net.")
    assert not put(store, "www.example.com.", serial=before)


def test_a_dump_taken_meanwhile_leaves_out_what_goes(tmp_path):
    store = make()
    put(store, "www.example.com.")
    put(store, "www.example.net.")
    steps = store.flush(WWW)
    next(steps)
    path = tmp_path / "dump"
    path.write_bytes(b"".join(dump(store, label=b"x", now=NOW)))
    steps.close()
    other = make()
    with path.open("rb") as file:
        assert load(other, file, label=b"x", now=NOW, largest=1 << 20).entries == 1
    assert has(other, "www.example.net.") and not has(other, "www.example.com.")


def test_a_dump_that_is_being_taken_in_ends_with_a_flush():
    store = make()
    put(store, "www.example.com.")
    [block] = store.table.copy_out(1 << 2, now=NOW)
    serial = store.table.serial
    store.drop(WWW)
    assert store.table.copy_in(block, 1 << 2, now=NOW, serial=serial) == 0
    assert not has(store, "www.example.com.")
