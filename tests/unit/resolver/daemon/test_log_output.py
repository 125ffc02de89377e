"""Log lines to a pipe, a terminal or a socket whose reader has stopped: the process never waits for it."""

import fcntl
import io
import logging
import os
import select
import socket
import termios
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TextIO

import pytest

from resolver.daemon import log, log_output
from resolver.daemon.log_output import LogOutput
from resolver.settings import LogSettings

LINE = b"x" * 99 + b"\n"


@contextmanager
def pipe() -> Iterator[tuple[int, TextIO]]:
    """The reading end of a pipe of one page, and a stream of its other end, which blocks."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with open(writing, "w") as stream:
        try:
            yield reading, stream
        finally:
            os.close(reading)


@contextmanager
def output_of(stream: TextIO) -> Iterator[LogOutput]:
    made = LogOutput.of(stream)
    assert made is not None
    with closing(made):
        yield made


@pytest.fixture(params=["opened again", "of another user"])
def refused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without a descriptor of our own: then only poll says whether a write would wait."""
    if request.param == "of another user":
        def refuse(*_: object) -> int:
            raise PermissionError

        monkeypatch.setattr(log_output.os, "open", refuse)


@pytest.mark.usefixtures("refused")
def test_lines_that_a_full_pipe_does_not_accept_are_lost_and_counted() -> None:
    with pipe() as (reading, stream), output_of(stream) as output:
        count = 0
        while output.write(LINE):
            count += 1
        assert 0 < count <= 41 and output.lost == 1
        assert not output.write(LINE) and output.lost == 2
        found = os.read(reading, 65536)
        while len(found) < count * len(LINE):  # a line that was accepted in part is completed
            assert output.write(LINE)
            count += 1
            found += os.read(reading, 65536)
        assert found == LINE * count and output.lost == 2


@pytest.mark.usefixtures("refused")
def test_a_line_longer_than_the_pipe_is_completed_when_there_is_space() -> None:
    with pipe() as (reading, stream), output_of(stream) as output:
        long = b"y" * 6000 + b"\n"
        assert output.write(long)
        assert not output.write(LINE)  # the other line comes first
        found = os.read(reading, 65536)
        while not output.write(LINE):
            found += os.read(reading, 65536)
        found += os.read(reading, 65536)
        assert found == long + LINE


def test_the_open_file_that_others_share_stays_blocking() -> None:
    with pipe() as (_, stream), output_of(stream) as output:
        output.write(LINE)
        assert os.get_blocking(stream.fileno())


def test_a_socket_whose_reader_has_stopped() -> None:
    ours, theirs = socket.socketpair()
    with theirs, open(ours.detach(), "w") as stream, output_of(stream) as output:
        sent = b""
        while output.write(LINE):
            sent += LINE
        received = theirs.recv(1 << 20)
        while len(received) < len(sent):
            received += theirs.recv(1 << 20)
        assert output.lost == 1 and output.write(LINE) and theirs.recv(1 << 20).endswith(LINE)
        assert os.get_blocking(stream.fileno())


def test_a_terminal_that_was_stopped() -> None:
    controlling, terminal = os.openpty()
    with open(terminal, "w") as stream, output_of(stream) as output:
        termios.tcflow(terminal, termios.TCOOFF)
        assert not output.write(LINE) and output.lost == 1
        termios.tcflow(terminal, termios.TCOON)
        assert output.write(LINE)
        assert select.select([controlling], [], [], 30)[0]
        assert os.read(controlling, 4096).startswith(b"xxx")
    os.close(controlling)


def test_a_reader_that_has_ended_is_no_error() -> None:
    with pipe() as (reading, stream), output_of(stream) as output:
        spare = os.dup(reading)
        os.close(reading)
        assert output.write(LINE)
        os.dup2(os.open(os.devnull, os.O_RDONLY), reading)  # the context closes it
        os.close(spare)
        assert not output.write(LINE) and output.lost == 1


def test_files_and_closed_streams_are_written_as_usual(tmp_path) -> None:
    with open(tmp_path / "log", "w") as file:
        assert LogOutput.of(file) is None
    assert LogOutput.of(file) is None and LogOutput.of(None) is None


def test_the_log_says_how_many_lines_were_lost() -> None:
    root = logging.getLogger()
    handlers, level, factory = list(root.handlers), root.level, logging.getLogRecordFactory()
    try:
        with pipe() as (reading, stream):
            log.set_up(LogSettings(), stream)
            logger = logging.getLogger("resolver.daemon.worker")
            for number in range(1000):
                logger.warning("line %d %s", number, "z" * 100)
            log.set_up(LogSettings(), stream)  # a reload keeps the descriptor and the number
            first = os.read(reading, 65536).decode()
            for _ in range(2):
                logger.warning("at last")
            second = os.read(reading, 65536).decode()
            log.set_up(LogSettings(), io.StringIO())
        kept = (first + second).count(" line ") + (first + second).count('"line ')
        assert f"{1000 - kept} log lines were lost" in second and second.count("were lost") == 1
        assert second.count('"at last"') == 2 and "from=daemon.log " in second
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.setLogRecordFactory(factory)
