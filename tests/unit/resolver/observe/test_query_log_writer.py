"""The thread that writes the query log: files, pipes, a full disk, and a file that was renamed."""

import logging
import os
import select
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from support.late_requests import LateRequests
from support.open_files import opened_below
from support.servers import wait_until

from resolver import limits
from resolver.observe.pieces import Pieces
from resolver.observe.query_log import QueryLogWriter
from resolver.settings.observe import QueryLogSettings


@contextmanager
def writing(file: object, **options: Any) -> Iterator[tuple[Pieces, QueryLogWriter]]:
    pieces = Pieces(limits.OBSERVE_BUFFER.minimum)
    writer = QueryLogWriter(QueryLogSettings(file=str(file), **options), pieces)
    writer.start()
    try:
        yield pieces, writer
    finally:
        pieces.flush()
        writer.stop(10)
        writer.join()


def put(pieces: Pieces, *lines: bytes) -> None:
    for line in lines:
        assert pieces.add(line)
    pieces.flush()


def test_lines_are_appended_and_the_rest_is_written_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "queries"
    path.write_bytes(b"before\n")
    with writing(path) as (pieces, writer):
        put(pieces, b"one\n", b"two\n")
        wait_until(lambda: path.read_bytes() == b"before\none\ntwo\n", "the lines in the file")
        pieces.add(b"three\n")
    assert path.read_bytes() == b"before\none\ntwo\nthree\n"
    assert writer.statistics() == {
        "records": 3, "written": 3, "bytes": 14, "dropped_buffer_full": 0, "dropped_write_failed": 0,
        "dropped_stopped": 0,
    }


def test_a_reader_that_stops_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pieces = Pieces(limits.OBSERVE_BUFFER.minimum)
    writer = QueryLogWriter(QueryLogSettings(file=str(tmp_path / "log")), pieces)  # its thread is not started
    late = limits.OBSERVE_STALL / 1000
    writer.check_room(0.0)
    assert (writer.stalled, caplog.messages) == ("", [])
    for second in range(3):
        while pieces.overrun <= second:
            pieces.add(b"x" * 1000)
        writer.check_room(100.0 + second)
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("query log: records are dropped: the buffer is")
    assert writer.stalled
    writer.check_room(101.0 + late)
    assert writer.stalled
    writer.check_room(102.0 + late)
    assert not writer.stalled
    assert caplog.messages[1:] == ["query log: records are written again; 3 were dropped so far"]
    writer.close()


def test_a_writer_that_fails_reports_only_that(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pieces = Pieces(limits.OBSERVE_BUFFER.minimum)
    writer = QueryLogWriter(QueryLogSettings(file=str(tmp_path / "log")), pieces)
    writer.note_failure("lines are lost: a fault")
    while not pieces.overrun:
        pieces.add(b"x" * 1000)
    writer.check_room(1.0)
    assert len(caplog.messages) == 1 and not writer.stalled
    writer.close()


def test_lines_for_a_thread_that_has_ended_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: QueryLogWriter, octets: memoryview) -> None:
        raise KeyError("a fault")

    with writing(tmp_path / "queries") as (pieces, writer):
        monkeypatch.setattr(QueryLogWriter, "_write", broken)
        put(pieces, b"one\n", b"two\n")
        wait_until(lambda: not writer.alive, "the end of the thread")
        assert writer.statistics()["dropped_stopped"] == 2
        put(pieces, b"three\n")
        assert writer.statistics()["dropped_stopped"] == writer.unwritten == 3


@pytest.mark.parametrize("mode", ["0600", "0640", "644"])
def test_permissions_of_a_new_file(tmp_path: Path, mode: str) -> None:
    before = os.umask(0o022)
    try:
        with writing(tmp_path / "queries", mode=mode):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "queries").stat().st_mode) == int(mode, 8) & ~0o022


def test_a_file_that_cannot_be_opened_is_an_error_of_the_setting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "socket"))
        for name, why in (
            ("no/such", "No such file"), ("", "it is a directory"), ("socket", "it is a socket"),
            ("fifo", "No such device or address"),  # nothing reads it
        ):
            with (pytest.raises(ValueError, match=rf"query_log\.file: cannot open .*: {why}"),
                  writing(tmp_path / name)):
                pass


def test_a_pipe_with_a_reader_takes_the_lines() -> None:
    """In a container, /dev/stdout is one."""
    reading, ends = os.pipe()
    try:
        with writing(f"/proc/self/fd/{ends}") as (pieces, writer):
            put(pieces, b"one\n")
            wait_until(lambda: writer.written == 1, "the line")
        assert os.read(reading, 100) == b"one\n"
    finally:
        os.close(reading)
        os.close(ends)


def test_a_character_device_takes_the_lines() -> None:
    with writing("/dev/null") as (pieces, writer):
        put(pieces, b"one\n")
        wait_until(lambda: writer.written == 1, "the line")


def test_logrotate(tmp_path: Path) -> None:
    """The renamed file gets nothing after `reopen`; without it, it gets everything."""
    path, old = tmp_path / "queries", tmp_path / "queries.1"
    with writing(path) as (pieces, writer):
        put(pieces, b"one\n")
        wait_until(lambda: path.read_bytes() == b"one\n", "the first line")
        path.rename(old)
        put(pieces, b"two\n")
        wait_until(lambda: old.read_bytes() == b"one\ntwo\n", "the second line")
        writer.reopen()
        writer.reopen()
        put(pieces, b"three\n")
        wait_until(lambda: path.read_bytes() == b"three\n", "the third line")
        path.unlink()
        path.mkdir()
        with pytest.raises(ValueError, match="it is a directory"):
            writer.reopen()
    assert old.read_bytes() == b"one\ntwo\n" and writer.written == 3


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    with writing(tmp_path / "queries") as (pieces, writer):
        for _ in range(10):
            writer.reopen()
        assert opened_below(tmp_path)
        put(pieces, b"x\n")
    assert opened_below(tmp_path) == []


def test_what_comes_while_the_thread_looks_for_pieces_is_written(tmp_path: Path) -> None:
    """A piece, another file and `stop` arrive after the thread has seen that there is no piece."""
    writer: QueryLogWriter

    def requests(pieces: Pieces) -> None:
        put(pieces, b"late\n")
        (tmp_path / "queries").rename(tmp_path / "queries.1")
        writer.reopen()
        writer.reopen()
        writer.stop(10)

    writer = QueryLogWriter(QueryLogSettings(file=str(tmp_path / "queries")), cast("Pieces", LateRequests(requests)))
    writer.work()
    assert (tmp_path / "queries").read_bytes() == b"late\n"
    assert opened_below(tmp_path) == []
    writer.reopen()
    assert opened_below(tmp_path) == []


def test_a_bug_in_the_thread_leaves_no_descriptor(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def requests(pieces: Pieces) -> None:
        writer.reopen()
        raise ZeroDivisionError

    writer = QueryLogWriter(QueryLogSettings(file=str(tmp_path / "queries")), cast("Pieces", LateRequests(requests)))
    writer.start()
    writer.stop(10)
    writer.join()
    assert "this is a bug" in caplog.text
    assert opened_below(tmp_path) == []


def test_a_full_disk_is_reported_once_and_costs_lines_only(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """/dev/full fails each write with ENOSPC."""
    caplog.set_level(logging.INFO)
    link = tmp_path / "queries"
    link.symlink_to("/dev/full")
    with writing(link) as (pieces, writer):
        for number in range(3):
            put(pieces, b"lost\n", b"lost\n")
            wait_until(lambda number=number: writer.lost == 2 * number + 2, "the failure")  # type: ignore[misc]
        link.unlink()
        writer.reopen()
        put(pieces, b"kept\n")
        wait_until(lambda: writer.written == 1, "the line that is written again")
    assert link.read_bytes() == b"kept\n"
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"query log: lines are lost: cannot write to {link}: No space left on device",
        "query log: lines are written again; 6 were lost so far",
    ]


def test_a_torn_line_is_ended_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes a part of a piece and then no more."""
    path = tmp_path / "queries"
    real, left = os.write, [6]

    def write(fd: int, data: Any) -> int:
        if len(data) > left[0]:
            if not left[0]:
                raise OSError(28, "No space left on device")
            data = data[: left[0]]
        done = real(fd, data)
        left[0] -= done
        return done

    with writing(path) as (pieces, writer):
        monkeypatch.setattr("resolver.observe.query_log.os.write", write)
        put(pieces, b"first\n")
        wait_until(lambda: writer.written == 1, "the first line")
        left[0] = 3
        put(pieces, b"second\n")
        wait_until(lambda: writer.lost == 1, "the failure")
        left[0] = 1000
        put(pieces, b"third\n")
        wait_until(lambda: writer.written == 2, "the third line")
    assert path.read_bytes() == b"first\nsec\nthird\n"


def test_to_a_pipe_whole_lines_are_written_at_once() -> None:
    """Writers of several workers share it, as standard output: no line may be divided."""
    reader, pipe = os.pipe()
    kept = os.dup(1)
    lines = [b"%d %s\n" % (number, b"x" * (number * 7 % 900)) for number in range(200)]
    sizes = []
    real = os.write
    received = b""
    try:
        os.dup2(pipe, 1)
        with writing("-") as (pieces, _), pytest.MonkeyPatch.context() as patch:
            patch.setattr("resolver.observe.query_log.os.write",
                          lambda fd, data: sizes.append(bytes(data)) or real(fd, data))
            put(pieces, *lines)
            while len(received) < sum(map(len, lines)):
                assert select.select([reader], [], [], 30)[0]
                received += os.read(reader, 1 << 16)
    finally:
        os.dup2(kept, 1)
        for one in (reader, pipe, kept):
            os.close(one)
    assert received == b"".join(lines)
    assert all(len(data) <= select.PIPE_BUF and data.endswith(b"\n") for data in sizes)


def test_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    with writing("-") as (pieces, writer):
        writer.reopen()
        put(pieces, b"a line\n")
    assert capfd.readouterr().out == "a line\n"
