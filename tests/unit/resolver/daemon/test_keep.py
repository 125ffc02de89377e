"""The snapshot file of the cache: written completely or not at all, loaded only when it is valid."""

import os
import threading
import time

import pytest

from resolver.cache import Store
from resolver.daemon import cache_file
from resolver.settings import CacheSettings, DnssecSettings, Settings, replace
from resolver.settings.lists import RpzSettings
from resolver.verdict import Trust
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

WWW = names.from_text("www.example.com.")


def store(filled=False):
    made = Store.create(1 << 20, seed=bytes(range(16)))
    if filled:
        made.rrsets.put(RRset(WWW, c.A, 3600, [b"\xc0\x00\x02\x01"], trust=Trust.ANSWER), int(time.time()))
    return made


def has_it(made):
    return made.rrsets.find(WWW, c.A, int(time.time())) is not None


@pytest.fixture
def settings(tmp_path):
    return Settings(cache=CacheSettings(size=1 << 20, snapshot_file=str(tmp_path / "cache.bin")))


def test_concurrent_saves_are_serialised(monkeypatch, settings):
    """They write to one temporary name: the second would replace the unfinished file of the first."""
    inside = threading.Event()
    second = threading.Thread(target=cache_file.save_at_stop, args=(store(filled=True), settings))
    real = cache_file.dump
    seen = []

    def dump(*arguments, **keywords):
        if seen:
            inside.set()
        else:
            seen.append(second)
            second.start()
            seen.append(inside.wait(0.2))  # it is never loaded; the timeout is for the failing case only
        yield from real(*arguments, **keywords)

    monkeypatch.setattr(cache_file, "dump", dump)
    cache_file.save_at_stop(store(filled=True), settings)
    second.join()
    assert seen == [second, False] and inside.is_set()
    empty = store()
    cache_file.load_at_start(empty, settings)
    assert has_it(empty)


def test_a_saved_cache_is_restored(tmp_path, settings):
    cache_file.save_at_stop(store(filled=True), settings)
    path = tmp_path / "cache.bin"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache.bin"]
    empty = store()
    cache_file.load_at_start(empty, settings)
    assert has_it(empty)


def test_an_impossible_file_name_does_not_prevent_the_start(settings, caplog):
    named = replace(settings, cache=replace(settings.cache, snapshot_file="/" + "x" * 300))
    cache_file.load_at_start(store(), named)
    assert "cannot be written when the daemon stops: File name too long" in caplog.text


def test_without_the_setting_nothing_is_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache_file.save_at_stop(store(filled=True), Settings())
    cache_file.load_at_start(store(), Settings())
    assert list(tmp_path.iterdir()) == []


def test_a_cache_is_not_restored_under_other_validation_rules(settings, caplog):
    cache_file.save_at_stop(store(filled=True), settings)
    empty = store()
    cache_file.load_at_start(empty, replace(settings, dnssec=DnssecSettings(enabled=False)))
    assert not has_it(empty)
    assert "other settings" in caplog.text and "starting with an empty cache" in caplog.text


@pytest.mark.parametrize("changed", ["file", "settings", "nothing"])
def test_a_cache_is_not_restored_with_another_response_policy_zone(tmp_path, settings, changed):
    """It decides which name servers are queried."""
    file = tmp_path / "policy.zone"
    file.write_text("a.example CNAME .\n")
    zone = RpzSettings(name="rpz.example", file=str(file))
    settings = replace(settings, rpz=(zone,))
    cache_file.save_at_stop(store(filled=True), settings)
    if changed == "file":
        file.write_text("32.1.2.0.192.rpz-nsip CNAME .\n")
    if changed == "settings":
        settings = replace(settings, rpz=())
    empty = store()
    cache_file.load_at_start(empty, settings)
    assert has_it(empty) is (changed == "nothing")


@pytest.mark.parametrize("limit", ["min_ttl", "max_ttl", "max_negative_ttl"])
def test_a_cache_is_not_restored_under_other_ttl_limits(settings, limit):
    cache_file.save_at_stop(store(filled=True), settings)
    empty = store()
    cache_file.load_at_start(empty, replace(settings, cache=replace(settings.cache, **{limit: 60})))
    assert not has_it(empty)


def test_unrelated_settings_do_not_prevent_a_restore(settings):
    cache_file.save_at_stop(store(filled=True), settings)
    empty = store()
    cache_file.load_at_start(empty, replace(settings, cache=replace(settings.cache, prefetch=False)))
    assert has_it(empty)


def test_a_damaged_file_does_not_prevent_the_start(tmp_path, settings, caplog):
    cache_file.save_at_stop(store(filled=True), settings)
    path = tmp_path / "cache.bin"
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    empty = store()
    cache_file.load_at_start(empty, settings)
    assert not has_it(empty)
    assert "damaged" in caplog.text and str(path) in caplog.text


def test_a_missing_file_is_the_first_start(settings, caplog):
    caplog.set_level("INFO")
    cache_file.load_at_start(store(), settings)
    assert "does not exist yet" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_named_pipe_does_not_block_the_start(tmp_path, settings, caplog):
    os.mkfifo(tmp_path / "cache.bin")
    cache_file.load_at_start(store(), settings)
    assert "is not a file" in caplog.text


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, settings, monkeypatch):
    cache_file.save_at_stop(store(filled=True), settings)
    before = (tmp_path / "cache.bin").read_bytes()

    def broken(*arguments, **more):
        yield b"the beginning"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_file, "dump", broken)
    with pytest.raises(cache_file.CacheFileError, match="No space left"):
        cache_file.save(tmp_path / "cache.bin", store(filled=True), settings)
    assert (tmp_path / "cache.bin").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache.bin"]


def test_a_missing_directory_is_reported(tmp_path, caplog):
    settings = Settings(cache=CacheSettings(snapshot_file=str(tmp_path / "no" / "cache.bin")))
    cache_file.load_at_start(store(), settings)
    assert "cannot be written when the daemon stops: its directory does not exist (cache.snapshot-file)" in caplog.text
    cache_file.save_at_stop(store(filled=True), settings)
    assert "cannot write" in caplog.text and "No such file" in caplog.text
    with pytest.raises(ValueError, match=r"cache\.snapshot_file: .* its directory does not exist"):
        cache_file.check(settings.cache)


def test_an_unwritable_directory_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_file.os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match=r"user \d+ may not write to its directory"):
        cache_file.check(CacheSettings(snapshot_file=str(tmp_path / "cache.bin")))
