"""The order of callbacks: a descriptor registered in one iteration is polled in the next one.

That holds however many callbacks are ready; programs that replace one descriptor by another rely on it. Each test
counts iterations by a chain of callbacks, and the numbers are checked on asyncio's loop first.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
from support.twin import loop_factory

__all__ = ["loop_factory"]

Factory = Callable[[], asyncio.AbstractEventLoop]
TURNS = 60


def turns_until(factory: Factory, begin: Callable[[Any, Callable[[], None]], Callable[[], None]], after: int) -> int:
    """Iterations from a registration, made after `after` callbacks, to its callback; `begin` returns the clean-up."""
    loop = factory()
    seen: list[int] = []
    turn = 0
    ends: list[Callable[[], None]] = []

    def link() -> None:
        nonlocal turn
        turn += 1
        if turn == after:
            ends.append(begin(loop, lambda: seen.append(turn)))
        if turn == after + TURNS:
            loop.stop()
        else:
            loop.call_soon(link)

    loop.call_soon(link)
    loop.run_forever()
    for end in ends:
        end()
    loop.close()
    assert seen
    return seen[0] - after


@pytest.mark.parametrize("after", range(1, 40, 3))
@pytest.mark.parametrize("writing", [False, True])
def test_a_new_reader_or_writer_is_polled_in_the_next_iteration(
    loop_factory: Factory, after: int, writing: bool
) -> None:
    def begin(loop: Any, called: Callable[[], None]) -> Callable[[], None]:
        reading, sending = os.pipe()
        os.write(sending, b"x")
        if writing:
            loop.add_writer(sending, called)
        else:
            loop.add_reader(reading, called)

        def end() -> None:
            loop.remove_writer(sending)
            loop.remove_reader(reading)
            os.close(reading)
            os.close(sending)

        return end

    assert turns_until(loop_factory, begin, after) == 1


@pytest.mark.parametrize("after", range(1, 40, 3))
@pytest.mark.parametrize("by", ["dup2", "again"])
def test_replacing_one_pipe_by_another(loop_factory: Factory, after: int, by: str) -> None:
    def begin(loop: Any, called: Callable[[], None]) -> Callable[[], None]:
        reading, sending = os.pipe()
        quiet, silent = os.pipe()
        os.write(sending, b"x")
        loop.add_reader(quiet, called)
        loop.remove_reader(quiet)
        if by == "dup2":
            os.dup2(reading, quiet)
            loop.add_reader(quiet, called)
        else:
            loop.add_reader(quiet, called)
            loop.add_reader(reading, called)

        def end() -> None:
            loop.remove_reader(quiet)
            loop.remove_reader(reading)
            for number in (reading, sending, quiet, silent):
                os.close(number)

        return end

    assert turns_until(loop_factory, begin, after) == 1


@pytest.mark.parametrize("after", range(1, 40, 3))
@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_wait_for_a_socket_is_polled_in_the_next_iteration(loop_factory: Factory, after: int, before: int) -> None:
    """Data that arrives in the iteration of the wait ends it in the next one, however many waits came before."""
    left, right = socket.socketpair()
    left.setblocking(False)

    async def receive(loop: Any) -> None:
        await loop.sock_recv(left, 1)

    def factory() -> asyncio.AbstractEventLoop:
        loop = loop_factory()
        for _ in range(before):
            task = loop.create_task(receive(loop))
            loop.call_soon(right.send, b"x")
            loop.run_until_complete(task)
        return loop

    def begin(loop: Any, called: Callable[[], None]) -> Callable[[], None]:
        task = loop.create_task(receive(loop))
        task.add_done_callback(lambda _task: called())
        # In the iteration of the task's first step, after it.
        loop.call_soon(right.send, b"x")
        return lambda: task.result()

    # The wait starts in the first iteration and ends in the second; the task's step and its callback are one each.
    assert turns_until(factory, begin, after) == 4
    left.close()
    right.close()


@pytest.mark.parametrize("after", range(1, 40, 3))
def test_resumed_reading_is_polled_in_the_next_iteration(loop_factory: Factory, after: int) -> None:
    left, right = socket.socketpair()
    left.setblocking(False)
    made: list[Any] = []

    class Telling(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            self.called()

        def called(self) -> None:
            """Replaced."""

    def factory() -> asyncio.AbstractEventLoop:
        loop = loop_factory()
        made.extend(loop.run_until_complete(loop.create_connection(Telling, sock=left)))
        made[0].pause_reading()
        right.send(b"x")
        loop.run_until_complete(asyncio.sleep(0))
        return loop

    def begin(loop: Any, called: Callable[[], None]) -> Callable[[], None]:
        made[1].called = called
        made[0].resume_reading()

        def end() -> None:
            made[0].abort()
            loop.run_until_complete(asyncio.sleep(0))

        return end

    assert turns_until(factory, begin, after) == 1
    right.close()
