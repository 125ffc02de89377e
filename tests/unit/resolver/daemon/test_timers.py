"""The timers of a worker: one for each name, none after `close`."""

import asyncio

import corenet
from resolver.daemon.timers import Timers


def test_one_timer_for_each_name() -> None:
    called: list[str] = []

    async def main() -> None:
        timers, done = Timers(), asyncio.get_running_loop().create_future()
        timers.start("first", 0.001, lambda: called.append("replaced"))
        timers.start("first", 0.002, lambda: called.append("first"))
        timers.start("second", 0.001, lambda: called.append("cancelled"))
        timers.cancel("second")
        timers.cancel("second")
        timers.start("last", 0.003, lambda: done.set_result(None))
        await done

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(main())
    assert called == ["first"]


def test_a_timer_starts_itself_again() -> None:
    async def main() -> int:
        timers, done = Timers(), asyncio.get_running_loop().create_future()
        calls = 0

        def again() -> None:
            nonlocal calls
            calls += 1
            assert not timers.running("one")
            if calls == 3:
                done.set_result(None)
            timers.start("one", 0, again)
            assert timers.running("one")

        timers.start("one", 0, again)
        await done
        timers.close()
        return calls

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        assert runner.run(main()) == 3


def test_close_cancels_all_and_none_starts_after_it() -> None:
    async def main() -> None:
        timers, done = Timers(), asyncio.get_running_loop().create_future()
        for number in range(5):
            timers.start(str(number), 0, done.cancel)
        timers.close()
        timers.start("late", 0, done.cancel)
        assert timers.closed
        asyncio.get_running_loop().call_later(0.001, done.set_result, None)
        await done

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(main())
