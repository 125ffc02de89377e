"""Rules every test of this project runs under.

Warnings and unraisable exceptions are errors (pyproject.toml). Where CORENET_NO_SKIPS=1 stands, as in CI, a skipped
test is a failed one, so that a missing package can never look like success. Randomness is seeded per test. Each phase
of a test ends after seconds (support/overdue.py), with what was awaited; `pytest.mark.limit(seconds)` gives it more.
"""

import gc
import os
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest
from hypothesis import HealthCheck, given, settings, strategies
from support import overdue
from support.skips import pytest_make_collect_report, pytest_runtest_makereport

__all__ = ["pytest_make_collect_report", "pytest_runtest_makereport"]

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("default", derandomize=True, **COMMON)
# ``make properties``: the seed of --hypothesis-seed, which a fixed profile does not heed, and more examples of each
# test that does not say how many it wants.
FACTOR = int(os.environ.get("CORENET_HYPOTHESIS_FACTOR") or 0)
settings.register_profile("random", derandomize=False, max_examples=100 * max(1, FACTOR), print_blob=True, **COMMON)
settings.load_profile("random" if FACTOR else "default")

# A shell without job control starts what runs in the background with SIGINT ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Under the sanitizers (tests/sanitized.py) children in Python are started by this, all others without the runtime.
if os.environ.get("CORENET_TEST_PYTHON"):
    sys.executable = os.environ["CORENET_TEST_PYTHON"]
    os.environ.pop("LD_PRELOAD", None)


@given(strategies.none())
def _warm_up(_value: None) -> None:
    """Have Hypothesis make its own source of randomness now.

    It asks the collector who holds that, which from Python 3.14 on finds nobody once the rest is frozen.
    """


def pytest_collection_finish() -> None:
    """What is there before the first test stays to the end: collections between tests need not look at it.

    Over a thousand tests end with one, to see what their loops leave behind; those of the loop took 59 s with what
    pytest and the libraries hold looked at each time, and take 17.
    """
    _warm_up()
    gc.collect()
    gc.freeze()


def in_time(item: pytest.Item, phase: str) -> AbstractContextManager[None]:
    """Ends `phase` of a test when its limit is over; hypothesis with more examples may take so many times longer."""
    marker = item.get_closest_marker("limit")
    seconds = marker.args[0] if marker is not None else overdue.SECONDS
    return overdue.limited(f"{phase} of {item.nodeid}", seconds * overdue.slowness() * max(1, FACTOR))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Fixtures, in time."""
    with in_time(item, "set-up"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """The test itself, in time."""
    with in_time(item, "call"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """The end of fixtures, in time."""
    with in_time(item, "clean-up"):
        return (yield)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(20260101)
