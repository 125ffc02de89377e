"""The memory reserve: a failed allocation succeeds with its memory, and memory is short until it is allocated again.

Each test runs in a process of its own, because limits and allocator hooks apply to the whole process.
"""

import subprocess
import sys

import pytest
from support.subject import daemon_environment

TIMEOUT = 60
BEGIN = """
import resource, sys, time
from resolver import limits
from resolver.net import reserve

def used(word):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(word))

LIMITS = {"RLIMIT_AS": "VmSize:", "RLIMIT_DATA": "VmData:"}
NAME, SIZE = sys.argv[1], int(sys.argv[2])
KIND = getattr(resource, NAME)

def until(condition, what):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, what

def narrow():
    hard = resource.getrlimit(KIND)[1]
    resource.setrlimit(KIND, (used(LIMITS[NAME]) + (1 << 20), hard))

def widen():
    hard = resource.getrlimit(KIND)[1]
    resource.setrlimit(KIND, (hard, hard))
"""


def run(body: str, limit: str = "RLIMIT_DATA", size: int = 1000, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BEGIN + body, limit, str(size)],
        capture_output=True, text=True, timeout=TIMEOUT, check=False, env={**daemon_environment(), **env},
    )


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
@pytest.mark.parametrize("size", [100, 1000, 20_000])
@pytest.mark.parametrize("kind", ["bytes", "bytearray"], ids=["calloc", "malloc"])
def test_a_shortage_is_known_before_any_allocation_fails(limit: str, size: int, kind: str) -> None:
    done = run("""
reserve.keep(limits.MEMORY_RESERVE)
assert not reserve.is_short()
narrow()
kept = []
until(lambda: kept.append(KIND(SIZE)) or reserve.is_short(), "a shortage")
kept.extend(KIND(SIZE) for _ in range((1 << 20) // SIZE))  # the reserve is what this comes from
print("short")
""".replace("KIND", kind), limit, size)
    assert (done.returncode, done.stdout, done.stderr) == (0, "short\n", "")


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_shortage_ends_when_memory_is_available_again(limit: str) -> None:
    done = run("""
reserve.keep(limits.MEMORY_RESERVE)
narrow()
kept = []
until(lambda: kept.append(bytes(SIZE)) or reserve.is_short(), "a shortage")
for _ in range(3):
    time.sleep(2 * limits.MEMORY_RESERVE_RETRY / 1000)
    kept.extend(bytes(SIZE) for _ in range(300))  # whatever an attempt has got is given up again
    kept.extend(bytearray(SIZE * 40) for _ in range(20))
assert reserve.is_short(), "the system gives nothing"
widen()
until(lambda: not reserve.is_short(), "the end of the shortage")
narrow()
until(lambda: kept.append(bytes(SIZE)) or reserve.is_short(), "another shortage")
kept.clear()
until(lambda: not reserve.is_short(), "the end of one in what the process itself has freed")
print("whole")
""", limit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "whole\n", "")


@pytest.mark.parametrize("size", [100, 1000])
def test_the_reserve_serves_objects_outside_of_arenas(size: int) -> None:
    done = run("""
reserve.keep(limits.MEMORY_RESERVE)
narrow()
kept = []
until(lambda: kept.append(bytes(SIZE)) or reserve.is_short(), "a shortage")
kept.extend(bytes(SIZE) for _ in range((1 << 20) // SIZE))
print("short")
""", size=size, PYTHONMALLOC="malloc")
    assert (done.returncode, done.stdout, done.stderr) == (0, "short\n", "")


def test_a_failed_allocation_takes_no_memory_from_native_libraries() -> None:
    """Allocations of native libraries do not pass the hooks, so they cannot make the reserve be given up."""
    done = run("""
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def native(count):
    got = [place for _ in range(count) if (place := libc.malloc(4096))]
    for place in got:
        libc.free(place)
    return len(got)

reserve.keep(limits.MEMORY_RESERVE)
narrow()
kept = []
until(lambda: kept.append(bytes(20_000)) or reserve.is_short(), "a shortage")
try:
    while native(200) == 200:
        kept.append(bytes(20_000))
except MemoryError:
    pass
before = native(200)
time.sleep(2 * limits.MEMORY_RESERVE_RETRY / 1000)
assert reserve.is_short(), "there is not enough for it"
print("as before" if native(200) >= before - 20 else "less")
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "as before\n", "")


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_recovered_memory_is_shared_with_new_work(limit: str) -> None:
    """A reserve that takes all free memory would be given up by the next allocation, again and again."""
    done = run("""
reserve.keep(limits.MEMORY_RESERVE)
narrow()
kept = []
until(lambda: kept.append(bytearray(SIZE)) or reserve.is_short(), "a shortage")
for _ in range(20):
    until(lambda: not reserve.is_short(), "its end: what was given up is still there")
    work = [bytearray(SIZE) for _ in range(400_000 // SIZE)]
    assert not reserve.is_given_up(), "new work had no memory"
    del work
print("went on")
""", limit, 20_000)
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")


def test_small_objects_without_an_arena_are_no_shortage_while_the_heap_has_space() -> None:
    done = run("""
room = [bytearray(20_000) for _ in range(200)]
reserve.keep(limits.MEMORY_RESERVE)
narrow()
del room
small = [(number, number) for number in range(300_000, 320_000)]
print(reserve.is_given_up())
""", "RLIMIT_DATA")
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


@pytest.mark.parametrize("first", [True, False], ids=["tracing began before", "tracing began after"])
@pytest.mark.parametrize("allocator", ["pymalloc", "malloc"])
def test_the_reserve_survives_the_end_of_tracemalloc(first: bool, allocator: str) -> None:
    done = run("""
import tracemalloc
steps = [tracemalloc.start, lambda: reserve.keep(limits.MEMORY_RESERVE)]
for step in steps if FIRST else reversed(steps):
    step()
assert not reserve.is_short()
for _ in range(2):
    tracemalloc.stop()
    assert not reserve.is_short()
    tracemalloc.start()
    assert not reserve.is_short()
tracemalloc.stop()
assert not reserve.is_short()
narrow()
kept = []
until(lambda: kept.append(bytes(SIZE)) or reserve.is_given_up(), "a shortage")
print("short")
""".replace("FIRST", str(first)), PYTHONMALLOC=allocator)
    assert (done.returncode, done.stdout, done.stderr) == (0, "short\n", "")


def test_a_child_of_a_fork_has_a_reserve_whatever_another_thread_did() -> None:
    """A thread frees the reserve without the GIL; a fork must not copy it half freed and locked."""
    done = run("""
import ctypes, os, threading
allocate, free = ctypes.CDLL(None).PyMem_RawMalloc, ctypes.CDLL(None).PyMem_RawFree  # called without the GIL
allocate.restype, allocate.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
ended, narrowed = threading.Event(), threading.Event()

def give_up():
    narrowed.wait(20)
    while not ended.is_set():
        free(allocate(SIZE))

thread = threading.Thread(target=give_up)
thread.start()
reserve.keep(SIZE)
narrow()
narrowed.set()
try:
    for _ in range(30):
        until(lambda: reserve.is_given_up(), "a shortage")
        try:
            reserve.keep(SIZE)
        except MemoryError:
            pass
        pid = os.fork()
        if not pid:
            code = 1
            try:
                widen()
                reserve.keep(SIZE)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0, "the child has none"
finally:
    ended.set()
    thread.join()
print("whole")
""", "RLIMIT_DATA", 64 << 20, PYTHONWARNINGS="ignore:This process:DeprecationWarning")
    assert (done.returncode, done.stdout, done.stderr) == (0, "whole\n", "")


def test_an_impossible_allocation_fails_and_keeps_the_reserve() -> None:
    done = run("""
reserve.keep(limits.MEMORY_RESERVE)
narrow()
for _ in range(2):  # a reserve given up twice in a row would not be whole at once again
    try:
        bytearray(limits.MEMORY_RESERVE * 8)
    except MemoryError:
        print("refused", reserve.is_short())
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "refused False\n" * 2, "")


def test_the_size_of_the_reserve_is_bounded() -> None:
    done = run("""
for size in (-1 << 20, 1 << 30):
    try:
        reserve.keep(size)
    except ValueError as error:
        print("refused")
print(reserve.is_short())
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "refused\nrefused\nFalse\n", "")
