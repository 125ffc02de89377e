"""`LoopStatistics`: counters and current queue lengths of a loop, as one immutable value.

Every counter is an addition where the work happens, so the cost is too small to measure, and nothing needs to be
switched on. The clock is read once at the start of each iteration. The difference of two readings finds slow callbacks;
see `SlowCallback.exact`.
"""

from dataclasses import dataclass
from typing import Any

__all__ = ["LoopStatistics", "SlowCallback", "statistics_of"]


@dataclass(frozen=True, slots=True)
class SlowCallback:
    """A callback that took at least ``loop.slow_callback_duration`` seconds."""

    #: The function and where it is defined, or the task with its coroutine, or the transport.
    source: str
    #: Seconds that it took; with `exact` False, seconds that the whole iteration took.
    seconds: float
    #: False: several callbacks ran in that iteration, any of them may have been slow, and `source` is the last one. For
    #: ten seconds after that (limit SLOW_WATCH_SECONDS) each callback is timed separately.
    exact: bool


@dataclass(frozen=True, slots=True)
class LoopStatistics:
    """Counters of one loop since its creation. `ready`, `timers` and `descriptors` are current numbers."""

    #: Iterations of the loop.
    iterations: int
    #: Calls of epoll_wait(2). Fewer than iterations, because the call is skipped while callbacks are ready.
    polls: int
    #: Seconds spent in epoll_wait.
    poll_seconds: float
    #: Seconds spent running, from the start to the end of ``run_forever``, less `poll_seconds`.
    run_seconds: float
    #: Callbacks run by call_soon, timers, readers and writers. Calls by transports count in `events`.
    callbacks: int
    #: Callbacks that are ready to run now.
    ready: int
    #: Timers that are pending, without cancelled ones.
    timers: int
    #: Timers that have fired.
    timers_fired: int
    #: Descriptors registered with epoll now.
    descriptors: int
    #: Events delivered.
    events: int
    #: Events dropped because they belonged to an earlier registration of the descriptor.
    stale_events: int
    #: Wake-ups of the sleeping loop by other threads.
    wakeups: int
    #: Bytes received by transports and by the ``sock_*`` methods.
    bytes_received: int
    #: Bytes that the kernel accepted from transports and ``sock_*`` methods, sendfile included.
    bytes_sent: int
    #: Number of slow callbacks.
    slow_count: int
    #: The latest slow callbacks, oldest first, at most SLOW_LOG_SIZE.
    slow_callbacks: tuple[SlowCallback, ...]


def statistics_of(raw_statistics: dict[str, Any]) -> LoopStatistics:
    """Convert the engine's counters into the public value."""
    found = dict(raw_statistics)
    slow = found.pop("slow")
    return LoopStatistics(
        **found,
        slow_callbacks=tuple(SlowCallback(source, took / 1e9, bool(exact)) for source, took, exact in slow),
    )
