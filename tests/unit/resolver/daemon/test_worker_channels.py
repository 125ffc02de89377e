"""Requests between workers: matched by identifier, bounded in time, robust against dead workers."""

import asyncio
import contextlib
import json
import os

import pytest

import corenet
from resolver import limits
from resolver.daemon import worker_ipc
from resolver.daemon.worker_ipc import ReloadChannel, WorkerChannels, WorkerError
from resolver.settings import Settings, replace


def run(coroutine):
    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        return runner.run(coroutine)


async def two(perform, *requests):
    """The replies of worker 1 to `requests`, sent at once."""
    channels = WorkerChannels(2)
    loop = asyncio.get_running_loop()
    try:
        channels.listen(loop)
        channels.serve(loop, 1, perform)
        return await asyncio.gather(*(channels.ask(1, request) for request in requests), return_exceptions=True)
    finally:
        channels.close()


def test_replies_are_matched_to_their_requests():
    found = run(two(lambda request: {"twice": 2 * request["n"]}, *({"n": n} for n in range(8))))
    assert [reply["twice"] for reply in found] == [0, 2, 4, 6, 8, 10, 12, 14]


def test_errors_are_returned_as_sentences():
    def perform(request):
        raise ValueError("no such name")

    found = run(two(perform, {}))
    assert isinstance(found[0], WorkerError) and str(found[0]) == "worker 1: no such name"


def test_others_are_replied_to_while_a_request_takes_time():
    async def test():
        channels, loop, wait = WorkerChannels(2), asyncio.get_running_loop(), asyncio.Event()

        async def slow(request):
            await wait.wait()
            if request["slow"] == "fails":
                raise ValueError("no such file")
            return {"done": True}

        try:
            channels.listen(loop)
            channels.serve(loop, 1, lambda request: slow(request) if "slow" in request else {"now": True})
            slow_ones = [asyncio.ensure_future(channels.ask(1, {"slow": what})) for what in ("works", "fails")]
            assert await channels.ask(1, {}) == {"now": True} and not any(one.done() for one in slow_ones)
            wait.set()
            assert await slow_ones[0] == {"done": True}
            with pytest.raises(WorkerError, match="worker 1: no such file"):
                await slow_ones[1]
        finally:
            channels.close()

    run(test())


def test_a_stop_cancels_what_runs_and_closes_its_file(tmp_path):
    async def test():
        channels, loop = WorkerChannels(2), asyncio.get_running_loop()
        began, ended, files = asyncio.Event(), [], []

        async def slow():
            try:
                began.set()
                await loop.create_future()
            finally:
                ended.append(True)

        def perform(request):
            files.append(request["file"])
            return slow()

        try:
            channels.listen(loop)
            channels.serve(loop, 1, perform)
            with (tmp_path / "x").open("w+b") as file:
                asked = asyncio.ensure_future(channels.ask(1, {}, file=file))
                await began.wait()
            channels.stop()
            while not (ended and files[0].closed):
                await asyncio.sleep(0)
            asked.cancel()
            await asyncio.wait([asked])
        finally:
            channels.close()

    run(test())


def test_a_long_reply_arrives_whole_and_beside_others():
    """The state of 2,048 targets is longer than a datagram may be."""
    content = "x" * (16 * limits.WORKER_MESSAGE)
    long, short, other = run(two(lambda request: {"content": content[:request["n"]]}, *({"n": n} for n in (
        len(content), 3, len(content)))))
    assert long == other == {"content": content} and short == {"content": "xxx"}


def test_a_long_reply_without_a_descriptor_is_lost_alone(monkeypatch, caplog):
    whole = worker_ipc._messages_with_files

    def without(link):
        for data, file in whole(link):
            if file is not None:
                file.close()
            yield data, None

    monkeypatch.setattr(worker_ipc, "_messages_with_files", without)

    async def ask():
        channels = WorkerChannels(2)
        loop = asyncio.get_running_loop()
        try:
            channels.listen(loop)
            channels.serve(loop, 1, lambda request: {"content": "x" * request["n"]})
            long, short = channels.ask(1, {"n": 2 * limits.WORKER_MESSAGE}, 0.1), channels.ask(1, {"n": 3}, 30)
            return await asyncio.gather(long, short, return_exceptions=True)
        finally:
            channels.close()

    long, short = run(ask())
    assert isinstance(long, WorkerError) and short == {"content": "xxx"}
    assert "a long reply is lost, because no descriptor is left" in caplog.text


def test_a_file_goes_with_a_request():
    def perform(request):
        with request["file"] as file:
            return {"content": os.pread(file.fileno(), 99, 0).decode(), "kept": os.get_inheritable(file.fileno())}

    async def ask():
        channels = WorkerChannels(2)
        loop = asyncio.get_running_loop()
        try:
            channels.listen(loop)
            channels.serve(loop, 1, perform)
            with open(os.memfd_create("content", os.MFD_CLOEXEC), "w+b") as file:
                file.write(b"of a zone")
                file.flush()
                return [await channels.ask(1, {}, file=file) for _ in range(2)]
        finally:
            channels.close()

    before = len(os.listdir("/proc/self/fd"))
    assert run(ask()) == [{"content": "of a zone", "kept": False}] * 2
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_silent_worker_costs_a_bounded_time(monkeypatch):
    monkeypatch.setattr(worker_ipc, "REPLY_TIMEOUT", 0.01)

    async def ask():
        channels = WorkerChannels(3)
        try:
            channels.listen(asyncio.get_running_loop())
            assert channels.others == [1, 2]
            with pytest.raises(WorkerError, match="worker 2 does not answer"):
                await channels.ask(2, {})
            assert channels._awaited == {}
        finally:
            channels.close()

    run(ask())


def test_a_late_reply_is_ignored(monkeypatch):
    monkeypatch.setattr(worker_ipc, "REPLY_TIMEOUT", 0.01)

    async def ask():
        channels = WorkerChannels(2)
        loop = asyncio.get_running_loop()
        try:
            channels.listen(loop)
            with pytest.raises(WorkerError):
                await channels.ask(1, {"n": 1})
            channels.serve(loop, 1, lambda request: request)
            monkeypatch.setattr(worker_ipc, "REPLY_TIMEOUT", 5.0)
            assert await channels.ask(1, {"n": 2}) == {"n": 2}
        finally:
            channels.close()

    run(ask())


def test_a_full_queue_counts_as_no_reply():
    async def ask():
        channels = WorkerChannels(2)
        try:
            channels.listen(asyncio.get_running_loop())
            with contextlib.suppress(BlockingIOError):
                while True:
                    channels._pairs[1][0].send(json.dumps([0, {}]).encode())
            with pytest.raises(WorkerError, match="does not answer"):
                await channels.ask(1, {})
        finally:
            channels.close()

    run(ask())


def test_a_reply_to_a_previous_worker_is_ignored():
    async def ask():
        channels = WorkerChannels(2)
        loop = asyncio.get_running_loop()
        try:
            channels.listen(loop)
            before = asyncio.ensure_future(channels.ask(1, {"n": 1}))
            await asyncio.sleep(0)
            before.cancel()  # it dies; the reply to its request reaches its successor
            channels.stop()
            channels._last_id = 0
            channels.listen(loop)
            channels.serve(loop, 1, lambda request: request)
            assert await channels.ask(1, {"n": 2}) == {"n": 2}
        finally:
            channels.close()

    run(ask())


def test_reloads_have_numbers_and_report_settings():
    link = ReloadChannel()
    try:
        assert link.last_request() == 0 and link.results() == []
        for number in range(1, 2 * limits.WORKER_MESSAGE_BATCH):
            link.request(number)
        assert link.last_request() == 2 * limits.WORKER_MESSAGE_BATCH - 1 and link.last_request() == 0
        large = Settings(policy=replace(Settings().policy, drop=tuple(f"192.0.2.{n % 256}" for n in range(100_000))))
        before = len(os.listdir("/proc/self/fd"))
        link.report(1, None)
        link.report(2, (large, large))
        assert link.results() == [(1, None), (2, (large, large))]
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        link.close()


def test_one_worker_needs_no_links():
    channels = WorkerChannels(1)
    assert channels.others == []
    channels.close()
