"""The timer heap against a sorted list, under any order of adding, cancelling and firing."""

from hypothesis import given
from hypothesis import strategies as st

from corenet.core.handles import TimerHandle
from corenet.core.timers import TimerHeap

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 20)),
        st.tuples(st.just("cancel"), st.integers(0, 200)),
        st.tuples(st.just("fire"), st.integers(0, 20)),
    ),
    max_size=200,
)


@given(STEPS)
def test_heap_is_a_sorted_list(steps: list[tuple[str, int]]) -> None:
    heap = TimerHeap()
    model: list[tuple[int, int, TimerHandle]] = []
    for order, (action, value) in enumerate(steps):
        if action == "add":
            model.append((value, order, TimerHandle(float(value), print, (), None, None, heap)))
        elif action == "cancel" and model:
            model.pop(value % len(model))[2].cancel()
        elif action == "fire":
            due = sorted(item[:2] for item in model if item[0] <= value)
            handles = {item[1]: item[2] for item in model}
            model = [item for item in model if item[0] > value]
            found = heap.pop_due(value * 10**9)
            assert [id(one) for one in found] == [id(handles[order]) for _, order in due]
        assert len(heap) == len(model)
        expected = min((item[0] for item in model), default=None)
        assert heap.next_deadline() == (None if expected is None else expected * 10**9)


@given(st.floats(0, 1e9, allow_nan=False))
def test_deadline_in_nanoseconds_is_never_early(when: float) -> None:
    heap = TimerHeap()
    handle = TimerHandle(when, print, (), None, None, heap)
    deadline = heap.next_deadline()
    assert deadline is not None
    shown = deadline // 10**9 + deadline % 10**9 / 1e9
    assert shown >= when
    assert shown - when < 1e-6
    handle.cancel()
