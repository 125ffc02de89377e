"""The store of the cache: bounds, variants, and a file that processes share and may be killed while writing."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from corenet import limits
from corenet.http import Cache, Headers, cache_store
from corenet.http.cache_rules import Stored, variant_of
from corenet.http.cache_store import CacheStore

SIZE = 1 << 20


def response(body: bytes = b"body", *, vary: str = "", variant: bytes | None = None, at: float = 0.0) -> Stored:
    fields = Headers([(b"ETag", b'"1"'), (b"X-Latin", b"\xe9")])
    return Stored(200, "OK", "HTTP/2", fields, body, at, at, vary, variant_of(vary, []) if variant is None else variant)


def test_a_stored_response_is_found() -> None:
    store = CacheStore(None, SIZE)
    assert store.find("http://a/", [], 0.0) is None
    put = response(at=5.0)
    assert store.put("http://a/", put, public=False, now=0.0)
    found = store.find("http://a/", [], 0.0)
    assert found == put and found is not put
    assert store.find("http://a/x", [], 0.0) is None
    store.remove(["http://b/", "http://a/"])
    assert store.find("http://a/", [], 0.0) is None and store.size() == (0, 0)
    store.close()


def test_variants_of_one_url_are_found_by_their_fields() -> None:
    store = CacheStore(None, SIZE)
    for language in (b"en", b"de"):
        asked = [(b"Accept-Language", language)]
        kept = response(language, vary="accept-language", variant=variant_of("accept-language", asked))
        store.put("http://a/", kept, public=False, now=0.0)
    for language in (b"en", b"de"):
        found = store.find("http://a/", [(b"accept-language", language)], 0.0)
        assert found is not None and found.body == language
    assert store.find("http://a/", [], 0.0) is None
    # The newest of those that match.
    store.put("http://a/", response(b"for all", at=9.0), public=False, now=0.0)
    found = store.find("http://a/", [(b"Accept-Language", b"en")], 0.0)
    assert found is not None and found.body == b"for all"
    store.close()


def test_the_number_of_variants_is_bounded() -> None:
    store = CacheStore(None, SIZE)
    for number in range(3 * limits.HTTP_CACHE_VARIANTS):
        store.put("http://a/", response(variant=b"%d" % number, at=float(number)), public=False, now=0.0)
    assert store.size()[1] == limits.HTTP_CACHE_VARIANTS
    store.close()


def test_the_size_is_bounded_and_recently_used_responses_stay() -> None:
    store = CacheStore(None, SIZE)
    store.put("http://kept/", response(), public=False, now=0.0)
    for number in range(200):
        now = 100.0 * number
        assert store.put(f"http://a/{number}", response(bytes(20_000)), public=False, now=now)
        assert store.find("http://kept/", [], now + 90) is not None
        assert 0 < store.size()[0] <= SIZE
    assert store.find("http://a/0", [], now) is None and store.find("http://a/199", [], now) is not None
    store.clear()
    assert store.size() == (0, 0)
    store.close()


def test_empty_responses_count_against_the_size() -> None:
    store = CacheStore(None, 65_536)
    for number in range(500):
        store.put(f"http://a/{number}", response(b""), public=False, now=float(number))
    assert store.size()[1] <= 65_536 // limits.HTTP_CACHE_ENTRY_BYTES
    store.close()


def test_a_response_that_is_too_large_evicts_nothing() -> None:
    store = CacheStore(None, SIZE)
    store.put("http://a/", response(), public=False, now=0.0)
    assert not store.put("http://a/", response(bytes(SIZE // 8)), public=False, now=0.0)
    assert store.find("http://a/", [], 0.0) is None and store.size() == (0, 0)
    store.close()


def test_a_file_is_shared_and_persistent(tmp_path: Path) -> None:
    path = str(tmp_path / "cache")
    one, two = CacheStore(path, SIZE), CacheStore(path, SIZE)
    one.put("http://a/", response(), public=False, now=0.0)
    assert two.find("http://a/", [], 0.0) == response() and two.size() == one.size()
    two.remove(["http://a/"])
    assert one.find("http://a/", [], 0.0) is None
    one.put("http://b/", response(), public=False, now=0.0)
    one.close()
    two.close()
    three = CacheStore(path, SIZE)
    assert three.find("http://b/", [], 0.0) is not None
    three.close()


def test_a_file_is_accessible_to_its_user_only(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    store = CacheStore(str(path), SIZE)
    store.put("http://a/", response(), public=False, now=0.0)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    store.close()


def test_files_that_others_may_change_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    target = tmp_path / "target"
    CacheStore(str(target), SIZE).close()
    for file in (path, tmp_path / "cache-wal", tmp_path / "cache-shm", tmp_path / "cache-journal"):
        file.symlink_to(target)
        with pytest.raises(ValueError, match=rf"{file}: it is a symbolic link"):
            Cache(path)
        file.unlink()
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    with pytest.raises(ValueError, match="symbolic link"):
        Cache(tmp_path / "dangling")
    assert not (tmp_path / "absent").exists()
    for mode in (0o620, 0o602):
        target.chmod(mode)
        with pytest.raises(ValueError, match="other users may write to it"):
            Cache(target)
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ValueError, match="not a regular file"):
            Cache(other)


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cache"
    CacheStore(str(path), SIZE).close()
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(ValueError, match="belongs to another user"):
        Cache(path)


def test_a_folder_that_is_writable_for_all_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ValueError, match="a folder of your own"):
        Cache(tmp_path / "cache")
    assert not list(tmp_path.iterdir())
    # As /tmp is: files can be replaced by their owners only.
    tmp_path.chmod(0o1777)
    Cache(tmp_path / "cache").close()


def test_files_that_are_not_caches_are_not_changed(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("a file of the user's, long enough to be read as a header of some other format" * 50)
    with pytest.raises(ValueError, match="not a cache"):
        Cache(text)
    assert text.read_text().startswith("a file of")
    other = tmp_path / "other"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE t (x)")
    database.close()
    other.chmod(0o600)
    before = other.read_bytes()
    with pytest.raises(ValueError, match="not a cache"):
        Cache(other)
    assert other.read_bytes() == before
    with pytest.raises(FileNotFoundError, match="absent"):
        Cache(tmp_path / "absent" / "cache")
    with pytest.raises(ValueError, match="max_bytes"):
        Cache(max_bytes=1)


def test_a_file_of_another_version_is_emptied(tmp_path: Path) -> None:
    path = str(tmp_path / "cache")
    store = CacheStore(path, SIZE)
    store.put("http://a/", response(), public=False, now=0.0)
    store._database.execute("PRAGMA user_version = 99")
    store.close()
    store = CacheStore(path, SIZE)
    assert store.size() == (0, 0) and store.put("http://a/", response(), public=False, now=0.0)
    store.close()


def test_a_file_without_its_tables_gets_them(tmp_path: Path) -> None:
    path = str(tmp_path / "cache")
    store = CacheStore(path, SIZE)
    store._database.execute("DROP TABLE total")
    store.close()
    store = CacheStore(path, SIZE)
    assert store.size() == (0, 0) and store.put("http://a/", response(), public=False, now=0.0)
    store.close()


def test_one_wait_for_a_locked_file_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operations after it fail at once, for as long as the wait was."""
    path = str(tmp_path / "cache")
    now = 100.0
    monkeypatch.setattr(cache_store, "HTTP_CACHE_BUSY_SECONDS", 0.01)
    monkeypatch.setattr(cache_store.time, "monotonic", lambda: now)
    store = CacheStore(path, SIZE)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
        store.put("http://a/", response(), public=False, now=0.0)
    other.close()
    with pytest.raises(sqlite3.OperationalError, match="failed just before"):
        store.put("http://a/", response(), public=False, now=0.0)
    assert store.size() == (0, 0), "what the user calls is tried"
    now += 0.01
    assert store.put("http://a/", response(), public=False, now=0.0)
    store.close()


KILLED = """
import os, sys
from corenet.http import Headers
from corenet.http.cache_rules import Stored, variant_of
from corenet.http.cache_store import CacheStore

store = CacheStore(sys.argv[1], 1 << 20)
def put(number):
    fields = Headers([(b"ETag", b'"1"')])
    body = bytes(50_000)
    stored = Stored(200, "OK", "HTTP/1.1", fields, body, 0.0, 0.0, "", variant_of("", []))
    store.put(f"http://a/{number}", stored, public=False, now=float(number))
for number in range(5):
    put(number)
# In the middle of a transaction: the deletion and the insertion are done, the commit is not.
store._database.set_trace_callback(lambda statement: os._exit(9) if statement == "COMMIT" else None)
put(3)
"""


def test_a_process_killed_in_a_transaction_leaves_a_consistent_cache(tmp_path: Path) -> None:
    path = str(tmp_path / "cache")
    done = subprocess.run([sys.executable, "-c", KILLED, path], timeout=60, check=False)
    assert done.returncode == 9
    store = CacheStore(path, SIZE)
    size, count = store.size()
    assert count == 5 and size > 5 * 50_000
    found = store.find("http://a/3", [], 0.0)
    assert found is not None and found.body == bytes(50_000)
    assert store._database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert store._database.execute("SELECT sum(size) FROM responses").fetchone() == (size,)
    store.close()


KILLS = """
import os, random, signal, sys
from corenet.http import Headers
from corenet.http.cache_rules import Stored, variant_of
from corenet.http.cache_store import CacheStore

path, kills = sys.argv[1], 50
draw = random.Random(7)

def body_of(number):
    return b"%d " % number * (number % 977)

def write(pipe, first):
    store = CacheStore(path, 1 << 20)
    number = first
    while True:
        fields = Headers([(b"X", b"%d" % number)])
        stored = Stored(200, "OK", "HTTP/1.1", fields, body_of(number), 0.0, number, "", variant_of("", []))
        store.put(f"http://a/{number % 300}", stored, public=False, now=float(number))
        os.write(pipe, b".")
        number += 7

for kill in range(kills):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        write(writing, kill * 1000)
    os.close(writing)
    # The child is killed while it is writing, after this many responses.
    for _ in range(draw.randrange(1, 12)):
        assert os.read(reading, 1) == b"."
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    os.close(reading)
    store = CacheStore(path, 1 << 20)
    size, count = store.size()
    assert count > 0
    assert store._database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert store._database.execute("SELECT sum(size) FROM responses").fetchone() == (size,) and size <= 1 << 20
    for number in range(300):
        found = store.find(f"http://a/{number}", [], 0.0)
        if found is not None:
            assert found.body == body_of(int(found.headers["x"])) and int(found.headers["x"]) % 300 == number
    store.close()
print(kills)
"""


def test_processes_killed_while_writing_leave_a_usable_cache(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path / "cache")], timeout=120, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "50\n"), done.stderr


WRITES = """
import sys
from corenet.http import Headers
from corenet.http.cache_rules import Stored, variant_of
from corenet.http.cache_store import CacheStore

path, first = sys.argv[1], int(sys.argv[2])
store = CacheStore(path, 1 << 20)
for number in range(first, first + 40):
    stored = Stored(200, "OK", "HTTP/1.1", Headers([]), bytes(5_000), 0.0, 0.0, "", variant_of("", []))
    store.put(f"http://a/{number}", stored, public=False, now=float(number))
store.close()
"""


def test_processes_write_at_the_same_time(tmp_path: Path) -> None:
    path = str(tmp_path / "cache")
    CacheStore(path, SIZE).close()
    writers = [subprocess.Popen([sys.executable, "-c", WRITES, path, str(100 * number)]) for number in range(2)]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    store = CacheStore(path, SIZE)
    size, count = store.size()
    assert count == 80 and store._database.execute("SELECT sum(size) FROM responses").fetchone() == (size,)
    store.close()


def test_a_child_of_a_fork_has_its_own_connection(tmp_path: Path) -> None:
    store = CacheStore(str(tmp_path / "cache"), SIZE)
    store.put("http://a/", response(), public=False, now=0.0)
    with store._locked():
        child = os.fork()
        if child == 0:
            found = store.find("http://a/", [], 0.0)
            os._exit(0 if found is not None and store._inherited else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.find("http://a/", [], 0.0) is not None
    store.close()
