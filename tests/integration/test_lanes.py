"""Lanes on real sockets: hits are answered while the loop's thread is busy, and everything else reaches the loop."""

import asyncio
import fcntl
import os
import re
import select
import socket
import subprocess
import sys
import termios
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from support.native import producing
from support.observed import Observed
from support.service_parts import CLIENT, Parts, positive, query
from support.waiting import until

import corenet
from corenet.transports.lane import Lane
from resolver import limits
from resolver.daemon.sockets import close_all, open_endpoints
from resolver.net.clock_random import Clock
from resolver.net.cookies import ServerCookies
from resolver.net.fastpath import FastPath
from resolver.net.udp_listener import UdpListener, open_udp_socket
from resolver.wire import consts as c
from resolver.wire.message import MessageView

LIMIT = 30.0
ASK = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(float(sys.argv[2]))
sock.connect(("127.0.0.1", int(sys.argv[1])))
sock.send(bytes.fromhex(sys.argv[3]))
try:
    print(sock.recv(4096).hex())
except TimeoutError:
    print("nothing")
"""


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT):
            await body()

    corenet.run(limited())


async def serve(parts: Parts, *, host: str = "127.0.0.1", lane: bool = True) -> UdpListener:
    parts.clock.real = Clock().time()
    listener = UdpListener(parts.service, parts.fast, lane=lane)
    await listener.start(open_udp_socket(host, 0))
    return listener


def connected(listener: UdpListener, address: str = "127.0.0.1") -> socket.socket:
    client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    client.connect((address, listener.address[1]))
    client.setblocking(False)
    return client


async def reply(client: socket.socket) -> MessageView:
    return MessageView.parse(await asyncio.get_running_loop().sock_recv(client, 4096))


@pytest.mark.parametrize("lane", [True, False])
def test_a_hit_is_answered_while_the_loop_is_blocked(lane: bool) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts, lane=lane)
        parts.answer(query(), positive())
        # The loop's thread waits for the client, which waits for an answer.
        arguments = (str(listener.address[1]), str(LIMIT if lane else 0.5), query(identity=77).hex())
        seen = subprocess.run(
            [sys.executable, "-c", ASK, *arguments],
            capture_output=True, text=True, check=True, timeout=2 * LIMIT,
        ).stdout.strip()
        listener.close()
        if not lane:
            assert seen == "nothing"
            return
        view = MessageView.parse(bytes.fromhex(seen))
        assert (view.id, view.rcode, len(view.answer)) == (77, c.NOERROR, 1)
        assert parts.fast.statistics()["hits"] == 1

    run(body)


@pytest.mark.parametrize(
    ("host", "asked"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("0.0.0.0", "127.0.0.9"), ("::", "::1")]
)
def test_a_miss_is_answered_by_the_loop_from_the_address_that_was_asked(host: str, asked: str) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        listener = await serve(parts, host=host)
        assert listener.native
        with connected(listener, asked) as client:
            for identity in (1, 2):
                client.send(query(identity=identity))
                view = await reply(client)
                assert (view.id, len(view.answer)) == (identity, 1)
        statistics = parts.fast.statistics()
        assert (statistics["received"], statistics["hits"], statistics["misses"]) == (2, 1, 1)
        assert listener.statistics()["lane_declined"] == 1
        listener.close()

    run(body)


def test_without_memory_one_datagram_is_lost_and_the_rest_is_taken() -> None:
    """The allocation that fails is each of those that `take` makes."""
    _testcapi = pytest.importorskip("_testcapi")
    lost = []

    async def body() -> None:
        parts = Parts()
        listener = await serve(parts)
        lane, loop = lane_of(listener), asyncio.get_running_loop()
        loop.remove_reader(lane.fileno())
        with connected(listener) as client:
            declined = 0
            for failing in range(40):
                end = loop.time() + LIMIT
                for number in range(4):
                    client.send(query(number + 256, identity=number))
                declined += 4
                while lane.counters()["declined"] < declined:
                    assert loop.time() < end
                found = []
                _testcapi.set_nomemory(failing, failing + 1)
                try:
                    found = lane.take(10)
                except MemoryError:
                    pass
                finally:
                    _testcapi.remove_mem_hooks()
                while select.select([lane.fileno()], [], [], 0)[0]:
                    found += lane.take(10)
                left = [data[1] for data, _ in found]
                assert left in ([0, 1, 2, 3], [1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2])
                lost.append(4 - len(left))
        listener.close()

    run(body)
    assert 1 in lost and lost[-1] == 0, "some allocations belong to `take`, and all of them were tried"


def test_a_lane_without_memory_is_none(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    async def body() -> None:
        monkeypatch.setattr("resolver.net.udp_listener.open_lane", fail)
        parts = Parts()
        parts.mesh.instant = positive()
        listener = await serve(parts)
        with connected(listener) as client:
            client.send(query(identity=5))
            assert (await reply(client)).id == 5
        listener.close()

    run(body)
    assert "out of memory; the loop answers its queries" in caplog.text


def test_many_misses_arrive_in_order_and_other_work_has_its_turn() -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts)
        lane, loop = lane_of(listener), asyncio.get_running_loop()
        counts = [0]

        def look() -> None:
            counts.append(len(parts.mesh.tickets))
            if counts[-1] < total:
                loop.call_soon(look)

        total = 5 * limits.LANE_TURN
        with connected(listener) as client:
            end = loop.time() + LIMIT
            for number in range(total):
                # One client has few waiting queries, so each is another question.
                client.send(query(number + 256, identity=number))
                # The loop does not run here: all queries wait in the lane's buffer.
                while lane.counters()["declined"] <= number:
                    assert loop.time() < end
            loop.call_soon(look)
            await until(lambda: counts[-1] >= total, "all queries are submitted")
        assert [ticket.question.qtype for ticket in parts.mesh.tickets] == list(range(256, 256 + total))
        assert max(after - before for before, after in pairwise(counts)) == limits.LANE_TURN
        listener.close()

    run(body)


def lane_of(listener: UdpListener) -> Lane:
    lane = listener._lane
    assert lane is not None
    return lane


def test_what_a_lane_has_declined_is_handled_when_it_reads_no_more() -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts)
        lane, loop = lane_of(listener), asyncio.get_running_loop()
        total = limits.LANE_TURN + 5
        with connected(listener) as client:
            end = loop.time() + LIMIT
            for number in range(total):
                client.send(query(number + 256, identity=number))
                while lane.counters()["declined"] <= number:  # the loop does not run, so all wait in the buffer
                    assert loop.time() < end
            listener.stop_reading()
            assert [ticket.question.qtype for ticket in parts.mesh.tickets] == list(range(256, 256 + total))
            assert lane.take(1) == []
            client.send(query(9999))
            for _ in range(3):
                await asyncio.sleep(0)
            assert len(parts.mesh.tickets) == total, "it is left to another process"
            assert listener.statistics()["lane_declined"] == total
        listener.close()

    run(body)


def test_what_the_loop_does_not_take_in_time_is_dropped_and_counted() -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts)
        lane = lane_of(listener)
        big = query(options=[(65001, bytes(60_000))])
        with connected(listener) as client:
            client.setblocking(True)
            # Nothing here lets the loop run, so its buffer fills.
            sent = 0
            while lane.counters()["overflowed"] == 0:
                client.send(big)
                sent += 1
                assert sent < 10_000
            found = lane.take(10_000)
        counters = lane.counters()
        assert all(data == big for data, _ in found)
        assert len(found) >= 10
        assert counters["declined"] >= len(found) + counters["overflowed"]
        assert listener.statistics()["lane_overflowed"] == counters["overflowed"]
        listener.close()

    run(body)


def test_a_new_configuration_is_used_by_the_lane_from_the_next_batch_on() -> None:
    async def body() -> None:
        parts, other = Parts(), Parts()
        listener = await serve(parts)
        other.clock.real = parts.clock.real
        parts.answer(query(), positive())
        with connected(listener) as client:
            client.send(query(identity=1))
            assert len((await reply(client)).answer) == 1
            other.mesh.instant = positive()
            listener.switch(other.service, other.fast)
            client.send(query(identity=2))
            assert len((await reply(client)).answer) == 1
        assert (parts.fast.statistics()["hits"], other.fast.statistics()["misses"]) == (1, 1)
        assert listener.native
        listener.switch(other.service, other.fast, proxies=("192.0.2.0/24",))
        assert not listener.native  # datagrams with PROXY headers need Python
        with connected(listener) as client:
            client.send(query(identity=3))
            assert (await reply(client)).id == 3
        listener.switch(other.service, other.fast)
        with connected(listener) as client:
            client.send(query(identity=4))
            assert (await reply(client)).id == 4
        assert listener.statistics()["lane_declined"] == 1
        listener.close()

    run(body)


def test_expired_cookie_secrets_are_renewed_in_the_lane() -> None:
    async def body() -> None:
        parts = Parts()
        now = parts.clock.real = Clock().time()
        cookies = ServerCookies()
        cookies.refresh(now - 3 * limits.COOKIE_PERIOD)
        parts.fast = FastPath(parts.store.answers, cookies=cookies)
        parts.mesh.instant = positive()
        listener = await serve(parts)
        asked = query(options=[(c.OPTION_COOKIE, bytes(8))])
        with connected(listener) as client:
            client.send(asked)
            assert len((await reply(client)).answer) == 1
            misses = parts.fast.statistics()["non_plain"]
            assert misses == 1
            client.send(asked)
            view = await reply(client)
            assert view.edns is not None
            assert len(view.edns.get(c.OPTION_COOKIE) or b"") == 24
        statistics = parts.fast.statistics()
        assert (statistics["non_plain"], statistics["hits"], statistics["cookies_first"]) == (1, 1, 1)
        listener.close()

    run(body)


def test_without_a_thread_the_loop_answers(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            listener = await serve(parts)
        with connected(listener) as client:
            client.send(query())
            assert len((await reply(client)).answer) == 1
        listener.close()

    run(body)
    assert "can't start new thread" in caplog.text


def test_replies_of_lanes_are_recorded_as_those_of_the_loop_are() -> None:
    """Two lanes and the loop write into the same buffers at the same time."""
    batches, size = 40, 64
    line = re.compile(
        r"time=\S+Z client=127\.0\.0\.1 .*name=www\.example\.com\. .*rcode=NOERROR .*cached=(yes|no) .*ms=[0-9.]+"
    )
    observed = Observed({}, {})

    async def body() -> None:
        parts = Parts(observer=observed.observer)
        listeners = [await serve(parts), await serve(parts)]
        parts.answer(query(), positive())
        with ExitStack() as stack:
            clients = [stack.enter_context(connected(listener)) for listener in listeners]
            for _ in range(batches):
                for client in clients:
                    for number in range(size):
                        client.send(query(identity=number))
                for _ in range(size):
                    assert parts.fast.answer(query(), CLIENT, parts.clock.real)
                for client in clients:
                    answered = [(await reply(client)).id for _ in range(size)]
                    assert sorted(answered) == list(range(size))
        for listener in listeners:
            listener.close()
        assert parts.fast.statistics()["hits"] == 3 * batches * size

    run(body)
    lines, taps = observed.lines(), observed.taps()
    assert len(lines) == 1 + 3 * batches * size
    assert all(line.fullmatch(text) for text in lines)
    assert Counter(tap.type for tap in taps) == {"CLIENT_QUERY": len(lines), "CLIENT_RESPONSE": len(lines)}
    assert all(len(one.fields.get("query") or one.fields["response"]) > c.HEADER_SIZE for one in taps)


@pytest.mark.checkout
def test_a_lane_waits_while_the_loop_writes_a_record() -> None:
    observed = Observed({}, None)

    async def body() -> None:
        parts = Parts(observer=observed.observer)
        listener = await serve(parts)
        parts.answer(query(), positive())
        [thread] = [one for one in threading.enumerate() if one.name == "corenet-lane"]
        with connected(listener) as client:
            with producing(observed.log_pieces):
                client.send(query())
                await until(lambda: not unread(listener) and is_sleeping(thread), "the lane has the query, and waits")
                assert not select.select([client], [], [], 0)[0]
            assert (await reply(client)).id == 77
        listener.close()

    run(body)
    assert len(observed.lines()) == 2


def unread(listener: UdpListener) -> int:
    """The size of the next datagram that nobody has received yet; 0: there is none."""
    transport = listener._transport
    assert transport is not None
    sock = transport.get_extra_info("socket")
    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)


def is_sleeping(thread: threading.Thread) -> bool:
    """Whether a thread waits in the kernel."""
    stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "S"


def test_each_lane_chooses_its_own_samples() -> None:
    observed = Observed({"sample": 4}, None)
    count = 400

    async def body() -> None:
        parts = Parts(observer=observed.observer)
        listener = await serve(parts)
        parts.answer(query(), positive())
        with connected(listener) as client:
            for number in range(count):
                client.send(query(identity=number))
                await reply(client)
        listener.close()

    run(body)
    assert count / 8 < len(observed.lines()) < count / 2


def test_a_lane_ends_with_its_listener_and_leaves_no_descriptor() -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts)
        lane = lane_of(listener)
        assert lane.fileno() >= 0
        listener.close()
        listener.close()
        lane.stop()
        assert lane.fileno() == -1
        assert lane.take(1) == []
        with pytest.raises(RuntimeError, match="started once"):
            lane.start()

    before = threading.active_count()
    run(body)
    assert threading.active_count() == before


def test_a_forked_child_that_exits_does_not_end_the_lane() -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        listener = await serve(parts)
        child = os.fork()
        if child == 0:
            try:
                lane_of(listener).stop()  # as at the exit of the interpreter
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        with connected(listener) as client:
            client.send(query(identity=5))
            assert (await reply(client)).id == 5
            assert lane_of(listener).counters()["declined"] == 1
        listener.close()

    run(body)


def test_each_lane_has_a_socket_of_its_own() -> None:
    [[endpoint]] = open_endpoints((("127.0.0.1", 0),), lanes=3)
    try:
        assert endpoint.udp is not None
        sockets = [endpoint.udp, *endpoint.lanes]
        assert {one.getsockname()[1] for one in sockets} == {endpoint.port}
        assert len({one.fileno() for one in sockets}) == 3
        other = endpoint.duplicate()
        assert len(other.lanes) == 2
        other.close()
        assert all(one.fileno() == -1 for one in other.lanes)
    finally:
        close_all([[endpoint]])
    [[plain]] = open_endpoints((("127.0.0.1", 0, "tls"),), lanes=3)
    assert plain.lanes == ()
    plain.close()
