"""The thread that sends dnstap: collectors that are late, slow, dead, restarted, or speak something else.

The collectors here are sockets whose octets a test writes itself; real ones are in tests/integration.
"""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from support.dnstap import frames
from support.late_requests import LateRequests
from support.servers import wait_until

from resolver import limits
from resolver.observe.collector import TapSender
from resolver.observe.frame_streams import ACCEPT, CONTENT_TYPE, FINISH, READY, START, STOP, control_frame
from resolver.observe.pieces import Pieces
from resolver.settings.observe import DnstapSettings

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DNSTAP_RETRY_FIRST", 1)
    monkeypatch.setattr(limits, "DNSTAP_RETRY_LAST", 20)


class Collector:
    """Listens at a path or on loopback; `accept` performs the handshake."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self.listener.bind(str(path) if path else ("127.0.0.1", 0))
        self.listener.listen()
        self.listener.settimeout(30)
        self.made: list[socket.socket] = []

    @property
    def settings(self) -> DnstapSettings:
        if self.path:
            return DnstapSettings(socket=str(self.path))
        return DnstapSettings(address=f"127.0.0.1:{self.listener.getsockname()[1]}")

    def connection(self) -> socket.socket:
        made, _ = self.listener.accept()
        self.made.append(made)
        made.settimeout(30)
        assert exactly(made, len(control_frame(READY, CONTENT_TYPE))) == control_frame(READY, CONTENT_TYPE)
        return made

    def accept(self) -> socket.socket:
        made = self.connection()
        made.sendall(control_frame(ACCEPT, CONTENT_TYPE))
        assert exactly(made, len(control_frame(START, CONTENT_TYPE))) == control_frame(START, CONTENT_TYPE)
        return made

    def close(self) -> None:
        for made in (self.listener, *self.made):
            made.close()


def exactly(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        data = connection.recv(size - len(found))
        assert data, f"closed after {found!r}"
        found += data
    return found


def payloads(connection: socket.socket, count: int) -> list[bytes]:
    """The next `count` data frames."""
    found = []
    for _ in range(count):
        found.append(exactly(connection, int.from_bytes(exactly(connection, 4), "big")))
    return found


def framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def put(pieces: Pieces, *given: bytes) -> None:
    for payload in given:
        assert pieces.add(framed(payload))
    pieces.flush()


@contextmanager
def sending(
    settings: DnstapSettings, octets: int = limits.OBSERVE_BUFFER.minimum
) -> Iterator[tuple[Pieces, TapSender]]:
    pieces = Pieces(octets)
    sender = TapSender(settings, pieces)
    sender.start()
    try:
        yield pieces, sender
    finally:
        pieces.flush()
        sender.stop(0.05)
        sender.join()


@pytest.fixture(params=["unix", "tcp"])
def collector(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Collector]:
    made = Collector(tmp_path / "tap" if request.param == "unix" else None)
    yield made
    made.close()


def test_the_whole_stream(collector: Collector) -> None:
    with sending(collector.settings) as (pieces, sender):
        put(pieces, b"early")
        connection = collector.accept()
        assert payloads(connection, 1) == [b"early"]
        put(pieces, b"one", b"two")
        assert payloads(connection, 2) == [b"one", b"two"]
        assert sender.connected
        pieces.add(framed(b"last"))
        pieces.flush()
        sender.stop(20)
        assert payloads(connection, 1) == [b"last"]
        assert exactly(connection, len(control_frame(STOP))) == control_frame(STOP)
        connection.sendall(control_frame(FINISH))
        sender.join()
        assert connection.recv(1) == b""
    counted = sender.statistics()
    assert counted["written"] == counted["records"] == 4 and counted["connections"] == 1 and counted["failures"] == 0
    assert counted["bytes"] == sum(len(framed(p)) for p in (b"early", b"one", b"two", b"last"))
    assert not sender.connected


def test_what_comes_while_the_thread_looks_for_pieces_is_sent(collector: Collector) -> None:
    """A piece and `stop` arrive after the thread has seen that there is no piece."""
    sender: TapSender

    def requests(pieces: Pieces) -> None:
        put(pieces, b"late")
        sender.stop(20)

    sender = TapSender(collector.settings, cast("Pieces", LateRequests(requests)))
    sender.start()
    connection = collector.accept()
    assert payloads(connection, 1) == [b"late"]
    assert exactly(connection, len(control_frame(STOP))) == control_frame(STOP)
    connection.sendall(control_frame(FINISH))
    sender.join()
    assert sender.written == 1


def test_stop_before_the_first_attempt(collector: Collector) -> None:
    """What was recorded is sent all the same."""
    pieces = Pieces(limits.OBSERVE_BUFFER.minimum)
    sender = TapSender(collector.settings, pieces)
    put(pieces, b"only")
    sender.stop(20)
    sender.start()
    connection = collector.accept()
    assert payloads(connection, 1) == [b"only"]
    connection.sendall(control_frame(FINISH))
    sender.join()
    assert sender.written == 1


def test_a_collector_that_comes_late(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "tap"
    with sending(DnstapSettings(socket=str(path))) as (pieces, sender):
        put(pieces, b"kept")
        wait_until(lambda: sender.failures > 3, "several attempts")
        collector = Collector(path)
        connection = collector.accept()
        assert payloads(connection, 1) == [b"kept"]
        wait_until(lambda: sender.connected, "the counter")
    assert [record.getMessage() for record in caplog.records] == [
        f"dnstap: nothing is sent: collector {path}: No such file or directory",
        f"dnstap: collector {path} is connected again",
    ]
    collector.close()


def test_a_collector_that_restarts(collector: Collector) -> None:
    """Whole frames only, and none twice that was sent completely."""
    with sending(collector.settings) as (pieces, sender):
        for number in range(5):
            connection = collector.accept()
            put(pieces, b"%d" % number)
            assert payloads(connection, 1) == [b"%d" % number]
            connection.close()
            wait_until(lambda number=number: sender.failures == number + 1, "the loss")  # type: ignore[misc]
    assert sender.connections == 5


def test_a_connection_that_is_lost_within_a_piece(tmp_path: Path) -> None:
    """The next connection begins with a whole frame, and no frame that the lost one took is sent again."""
    collector = Collector(tmp_path / "tap")
    given = [b"%06d" % number + bytes(1000) for number in range(2000)]
    with sending(collector.settings, 4 << 20) as (pieces, sender):
        connection = collector.accept()
        put(pieces, *given)
        first = payloads(connection, 3)
        wait_until(lambda: sender.octets > 100_000, "a full socket")
        connection.close()
        connection = collector.accept()
        second = payloads(connection, 1)[0]
        assert given.index(second) > 3
        rest = given[given.index(second) + 1 :]
        assert payloads(connection, len(rest)) == rest
        wait_until(lambda: sender.written == len(given), "the counter")
    assert first == given[:3]
    collector.close()


def test_a_slow_collector_costs_records_and_nothing_else(tmp_path: Path) -> None:
    collector = Collector(tmp_path / "tap")
    with sending(collector.settings) as (pieces, sender):
        connection = collector.accept()
        while pieces.overrun < 10:
            pieces.add(framed(bytes(1000)))
        pieces.flush()
        assert len(payloads(connection, pieces.records)) == pieces.records
        wait_until(lambda: sender.written == pieces.records, "the counter")
        put(pieces, b"again")
        assert payloads(connection, 1) == [b"again"]
    assert sender.statistics()["dropped_buffer_full"] == 10 and sender.failures == 0
    collector.close()


@pytest.mark.parametrize("garbage", [
    b"HTTP/1.1 400 Bad Request\r\n\r\n", control_frame(FINISH), control_frame(ACCEPT, b"other"), bytes(4) + b"\xff" * 4,
])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_collector_that_sends_garbage(collector: Collector, garbage: bytes, streaming: bool) -> None:
    with sending(collector.settings) as (pieces, sender):
        connection = collector.accept() if streaming else collector.connection()
        connection.sendall(garbage)
        assert connection.recv(1) == b""
        connection = collector.accept()
        put(pieces, b"one")
        assert payloads(connection, 1) == [b"one"]
    assert sender.failures == 1


def test_a_collector_that_never_accepts(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DNSTAP_HANDSHAKE", 50)
    with sending(collector.settings) as (_, sender):
        silent = collector.connection()
        assert silent.recv(1) == b""
        wait_until(lambda: sender.failures == 1, "the failure")
        collector.accept()


@pytest.mark.parametrize("state", ["absent", "silent", "full", "streaming"])
def test_stop_does_not_wait_for_a_collector(tmp_path: Path, state: str) -> None:
    path = tmp_path / "tap"
    collector: Any = None if state == "absent" else Collector(path)
    with sending(DnstapSettings(socket=str(path))) as (pieces, sender):
        if state == "silent":
            collector.connection()
        elif collector is not None:
            collector.accept()
            while state == "full" and not pieces.overrun:
                pieces.add(framed(bytes(1000)))
        sender.stop(0.05)
        sender.join()
        wait_until(lambda: sender._thread is not None and not sender._thread.is_alive(), "the end of the thread")
        pieces.add(framed(b"too late"))
    found = sender.statistics()
    assert found["records"] == found["written"] + found["dropped_stopped"] and found["dropped_stopped"]
    assert (found["written"] > 0) is (state == "full"), "the frames that the kernel has taken"
    if collector is not None:
        collector.close()


def test_the_pause_doubles_up_to_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DNSTAP_RETRY_FIRST", 100)
    monkeypatch.setattr(limits, "DNSTAP_RETRY_LAST", 500)
    sender = TapSender(DnstapSettings(socket=str(tmp_path / "none")), Pieces(limits.OBSERVE_BUFFER.minimum))
    pauses: list[float] = []
    monkeypatch.setattr("resolver.observe.collector.time.monotonic", lambda: 0.0)

    def wait_until_then_stop(moment: float) -> None:
        pauses.append(moment)
        sender.stopping = len(pauses) == 5

    monkeypatch.setattr(sender, "wait_until", wait_until_then_stop)
    sender.work()
    assert pauses == [0.1, 0.2, 0.4, 0.5, 0.5]


def test_frames_of_the_helper() -> None:
    assert frames(control_frame(STOP) + framed(b"x")) == [b"x"]
