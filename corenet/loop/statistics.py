"""What a loop has done and has to do, as one immutable value: `LoopStatistics`.

Rule: every figure is kept by an addition where the work happens anyway, so that no benchmark can see the price; nothing
is sampled and there is nothing to switch on. A turn begins by reading the clock in any case: the difference of two such
readings finds slow callbacks, see `SlowCallback.exact`.
"""

from dataclasses import dataclass
from typing import Any

__all__ = ["LoopStatistics", "SlowCallback", "statistics_of"]


@dataclass(frozen=True, slots=True)
class SlowCallback:
    """A callback that took at least ``loop.slow_callback_duration`` seconds."""

    #: The function and where it is defined, or the task with its coroutine, or the transport.
    source: str
    #: How long it took; with `exact` False, how long the whole turn took.
    seconds: float
    #: False when others ran in the same turn and it may have been one of them: `source` is the last of these then. For
    #: ten seconds after that (limit SLOW_WATCH_SECONDS) each callback is timed by itself.
    exact: bool


@dataclass(frozen=True, slots=True)
class LoopStatistics:
    """Figures of one loop since it was made; those of depth are of this moment."""

    #: Turns of the loop.
    iterations: int
    #: Calls of epoll_wait(2); fewer than turns, for it is skipped while callbacks are ready.
    polls: int
    #: Seconds asleep, waiting for events.
    poll_seconds: float
    #: Seconds at work, from ``run_forever`` to its end, less `poll_seconds`.
    run_seconds: float
    #: Callbacks run: of call_soon, timers, readers and writers; what transports call is counted by `events`.
    callbacks: int
    #: Callbacks that are ready to run now.
    ready: int
    #: Timers that wait, cancelled ones not counted.
    timers: int
    #: Timers that have fired.
    timers_fired: int
    #: Descriptors registered with epoll now.
    descriptors: int
    #: Events delivered.
    events: int
    #: Events dropped because their descriptor had changed its owner.
    stale_events: int
    #: Times that another thread has woken the sleeping loop.
    wakeups: int
    #: Bytes received by transports and by the ``sock_*`` methods.
    bytes_received: int
    #: Bytes that they have given to the kernel, sendfile included.
    bytes_sent: int
    #: Slow callbacks in all.
    slow_count: int
    #: The latest of them, oldest first, at most as many as the limit SLOW_LOG_SIZE.
    slow_callbacks: tuple[SlowCallback, ...]


def statistics_of(raw_statistics: dict[str, Any]) -> LoopStatistics:
    """The engine's figures as the public value."""
    found = dict(raw_statistics)
    slow = found.pop("slow")
    return LoopStatistics(
        **found,
        slow_callbacks=tuple(SlowCallback(source, took / 1e9, bool(exact)) for source, took, exact in slow),
    )
