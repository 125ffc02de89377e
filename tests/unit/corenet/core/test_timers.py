"""The timer heap through its handles: order, equal deadlines, immediate removal on cancel, never early."""

import contextvars
import random

from corenet.core.engine import Engine
from corenet.core.handles import TimerHandle
from corenet.core.timers import TimerHeap


def add(heap: TimerHeap, when: float) -> TimerHandle:
    return TimerHandle(when, print, (), None, contextvars.copy_context(), heap)


def test_order_of_deadlines() -> None:
    heap = TimerHeap()
    handles = {when: add(heap, when) for when in (5.0, 1.0, 4.0, 2.0, 3.0)}
    assert heap.next_deadline() == 1_000_000_000
    assert heap.pop_due(3_000_000_000) == [handles[1.0], handles[2.0], handles[3.0]]
    assert len(heap) == 2


def test_equal_deadlines_keep_their_order() -> None:
    heap = TimerHeap()
    handles = [add(heap, 1.0) for _ in range(100)]
    due = heap.pop_due(10**9)
    assert all(one is two for one, two in zip(due, handles, strict=True))


def test_cancel_removes_the_timer_at_once_and_releases_the_callback() -> None:
    class Held:
        pass

    import weakref

    heap = TimerHeap()
    held = Held()
    gone = weakref.ref(held)
    handle = TimerHandle(1.0, print, (held,), None, None, heap)
    del held
    assert gone() is not None
    handle.cancel()
    assert gone() is None
    assert len(heap) == 0
    assert handle.cancelled()
    handle.cancel()


def test_timers_fire_in_the_order_of_a_sorted_list() -> None:
    rng = random.Random(7)
    heap = TimerHeap()
    model: list[tuple[float, int, TimerHandle]] = []
    for number in range(3000):
        choice = rng.random()
        if choice < 0.6:
            when = rng.randrange(50) / 10
            model.append((when, number, add(heap, when)))
        elif choice < 0.85 and model:
            model.pop(rng.randrange(len(model)))[2].cancel()
        elif model:
            model.sort(key=lambda item: item[:2])
            now = model[rng.randrange(len(model))][0]
            due = [item[2] for item in model if item[0] <= now]
            model = [item for item in model if item[0] > now]
            found = heap.pop_due(round(now * 1e9))
            assert [id(handle) for handle in found] == [id(handle) for handle in due]
        assert len(heap) == len(model)


def test_engine_fires_in_order_and_never_early() -> None:
    engine = Engine()
    fired: list[tuple[int, bool]] = []
    for number in range(20):
        when = engine.time() + (number % 5) * 0.002
        engine.call_at(when, lambda n, w: fired.append((n, engine.time() >= w)), number, when)
    engine.call_later(0.02, engine.stop)
    engine.run()
    assert all(in_time for _, in_time in fired)
    assert [number % 5 for number, _ in fired] == sorted(number % 5 for number, _ in fired)
    assert [number for number, _ in fired if number % 5 == 0] == [0, 5, 10, 15]


def test_past_and_infinite_deadlines() -> None:
    engine = Engine()
    seen: list[str] = []
    engine.call_at(-1.0, seen.append, "past")
    engine.call_later(-5, seen.append, "negative")
    engine.call_later(0, seen.append, "now")
    engine.call_later(1e12, seen.append, "never")
    engine.call_soon(engine.stop)
    engine.run()
    assert seen == ["past", "negative", "now"]


def test_comparison_and_hash() -> None:
    heap = TimerHeap()
    early, late = add(heap, 1.0), add(heap, 2.0)
    assert early < late
    assert late > early
    assert early <= early
    assert late >= late
    assert early != late
    assert hash(early) == hash(1.0)
    assert early.when() == 1.0
    assert (early == 1.0) is False
