"""The query log and dnstap of a configuration: which outputs a reload keeps, makes and ends."""

import socket
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from support.dnstap import frames, read_frame
from support.open_files import opened_below
from support.servers import wait_until
from support.service_parts import Parts, positive, query

from resolver.daemon.observation import Observation, check
from resolver.observe.output import Output
from resolver.settings import DnstapSettings, QueryLogSettings, Settings, replace
from resolver.zones import ZoneTable


def settings(log: dict[str, Any] | None = None, tap: dict[str, Any] | None = None) -> Settings:
    return Settings(query_log=QueryLogSettings(**(log or {})), dnstap=DnstapSettings(**(tap or {})))


def join(outputs: list[Output]) -> None:
    """Wait for the end of stopped outputs."""
    for output in outputs:
        output.join()


def alive(output: Any) -> bool:
    return bool(output._thread.is_alive())


def test_nothing_is_made_when_both_are_off() -> None:
    made = Observation(Settings(), ZoneTable())
    assert made.observer is None and made.outputs == []
    made.flush()
    made.reopen()
    join(made.close())
    check(Settings())


def test_a_reload_keeps_outputs_whose_settings_are_the_same(tmp_path: Path) -> None:
    path, tap = tmp_path / "queries", {"socket": str(tmp_path / "tap")}
    first = Observation(settings({"file": str(path), "fields": ("name",)}, tap), ZoneTable())
    path.rename(tmp_path / "old")
    second = Observation(settings({"file": str(path), "fields": ("type",)}, {**tap, "sample": 2}), ZoneTable(), first)
    assert second.log is first.log and second.tap is first.tap and second.observer is not first.observer
    for made in (first, second):
        Parts(observer=made.observer).answer(query(), positive())
        made.flush()
    assert first.log is not None
    wait_until(lambda: path.exists() and path.read_text().count("\n") == 2, "the lines in the new file")
    assert path.read_text() == "name=www.example.com.\ntype=A\n"
    first.close(second)
    assert all(map(alive, second.outputs))
    third = Observation(settings({"file": str(path), "mode": "0600"}), ZoneTable(), second)
    join(second.close(third))
    assert third.tap is None and third.log is not second.log and third.outputs == [third.log]
    wait_until(lambda: not any(map(alive, second.outputs)), "the end of the threads")
    join(third.close())


def test_without_a_thread_nothing_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is reached at the first or the second output."""
    wanted = settings({"file": str(tmp_path / "queries")}, {"socket": str(tmp_path / "tap")})
    real, made, left = Thread.start, [], [0]

    def start(thread: Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        made.append(thread)
        real(thread)

    monkeypatch.setattr(Thread, "start", start)
    for name, count in (("query log", 0), ("dnstap", 1)):
        left[0] = count
        with pytest.raises(OSError, match=f"{name}: can't start new thread"):
            Observation(wanted, ZoneTable())
        assert len(made) == count
        for thread in made:
            thread.join()
        assert opened_below(tmp_path) == []
    left[0] = 2
    first = Observation(wanted, ZoneTable())
    left[0] = 0
    other = replace(wanted, dnstap=replace(wanted.dnstap, socket=str(tmp_path / "other")))
    with pytest.raises(OSError, match="dnstap: can't start new thread"):
        Observation(other, ZoneTable(), first)
    assert all(map(alive, first.outputs)), "those of the configuration in force keep running"
    join(first.close())


def test_a_reload_replaces_an_output_whose_thread_has_ended(tmp_path: Path) -> None:
    wanted = settings({"file": str(tmp_path / "queries")}, {"socket": str(tmp_path / "tap")})
    first = Observation(wanted, ZoneTable())
    for output in first.outputs:
        output.stop(10)
        output.join()
    second = Observation(wanted, ZoneTable(), first)
    first.close(second)
    assert all(map(alive, second.outputs)) and not any(map(alive, first.outputs))
    Parts(observer=second.observer).answer(query(), positive())
    join(second.close())
    assert (tmp_path / "queries").read_text().count("\n") == 1


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    wrong = settings({"file": str(tmp_path / "no" / "file")})
    for attempt in (lambda: check(wrong), lambda: Observation(wrong, ZoneTable())):
        with pytest.raises(ValueError, match=r"query_log\.file: cannot open"):
            attempt()
    check(settings({"file": str(tmp_path / "queries")}))
    assert (tmp_path / "queries").read_bytes() == b""


@pytest.mark.parametrize(("given", "identity", "version"), [
    ({}, socket.gethostname(), ""), ({"identity": "a", "version": "b"}, "a", "b"),
    ({"identity": "-"}, "", ""),
])
def test_identity_and_version(tmp_path: Path, given: dict[str, str], identity: str, version: str) -> None:
    made = Observation(settings(None, {"socket": str(tmp_path / "none"), **given}), ZoneTable())
    assert made.tap is not None
    join(made.close())
    Parts(observer=made.observer).answer(query(), positive())
    made.flush()
    taken = made.tap.pieces.take()
    assert taken is not None
    tap = read_frame(frames(bytes(taken[0]))[0])
    assert tap.identity.decode() == identity and tap.version.decode().startswith(version)
    assert bool(version) == bool(tap.version)


@pytest.mark.parametrize(("section", "given", "said"), [
    (QueryLogSettings, {"format": "xml"}, "query_log.format: 'xml' is not one of text, json"),
    (QueryLogSettings, {"fields": ("name", "id")}, "query_log.fields: 'id' is not one of time, "),
    (QueryLogSettings, {"fields": ()}, "query_log.fields: the list is empty"),
    (QueryLogSettings, {"mode": "rw"}, "query_log.mode: 'rw' is not three octal digits"),
    (QueryLogSettings, {"client_prefix_v4": 33}, "query_log.client_prefix_v4: 33 is outside 0..32 bits"),
    (QueryLogSettings, {"sample": 0}, "query_log.sample: 0 is outside"),
    (DnstapSettings, {"socket": "/a", "address": "::1"}, "dnstap.address: '::1' and dnstap.socket are set"),
    (DnstapSettings, {"address": "collector"}, "dnstap.address: 'collector' is not an IP address"),
    (DnstapSettings, {"messages": ("update-query",)}, "dnstap.messages: 'update-query' is not one of"),
    (DnstapSettings, {"client_prefix_v6": -1}, "dnstap.client_prefix_v6: -1 is outside 0..128 bits"),
    (DnstapSettings, {"identity": "x" * 256}, "dnstap.identity: longer than 255 octets"),
])
def test_wrong_settings(section: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as error:
        section(**given)
    assert said in str(error.value)


def test_views_of_the_log_must_exist() -> None:
    with pytest.raises(ValueError, match=r"query_log\.views: 'kids' is not the name of a \[\[view\]\]"):
        settings({"views": ("kids",)})
