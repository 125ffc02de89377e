"""Shortage of memory is one plain sentence; any other fault keeps its traceback."""

import asyncio
import logging

import pytest

import corenet
from resolver.daemon.shortage import watch_for_shortage


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, corenet.new_event_loop])
def test_one_sentence_for_many_shortages_and_a_traceback_for_a_fault(factory, caplog) -> None:
    def short() -> None:
        raise MemoryError

    def broken() -> None:
        raise KeyError("broken")

    async def body() -> None:
        loop = asyncio.get_running_loop()
        watch_for_shortage(loop, 60.0)
        for _ in range(50):
            loop.call_soon(short)
        loop.call_soon(broken)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    with caplog.at_level(logging.WARNING), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(body())
    plain = [record for record in caplog.records if record.name == "resolver.daemon.shortage"]
    others = [record for record in caplog.records if record not in plain]
    assert len(plain) == 1
    assert plain[0].exc_info is None
    assert plain[0].getMessage().startswith("out of memory: ")
    assert [record.exc_info[0] for record in others if record.exc_info] == [KeyError]
