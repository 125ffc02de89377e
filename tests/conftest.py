"""Rules for every test of this project.

Warnings and unraisable exceptions are errors (pyproject.toml). With CORENET_NO_SKIPS=1, as in CI, a skipped test fails,
so that a missing package cannot pass as success. Randomness is seeded for each test. Each phase of a test has a time
limit (support/overdue.py) and reports what it waited for; `pytest.mark.limit(seconds)` extends the limit.
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
# ``make properties``: uses the seed of --hypothesis-seed, which a fixed profile ignores, and multiplies the number of
# examples of each test that does not set one.
FACTOR = int(os.environ.get("CORENET_HYPOTHESIS_FACTOR") or 0)
settings.register_profile("random", derandomize=False, max_examples=100 * max(1, FACTOR), print_blob=True, **COMMON)
settings.load_profile("random" if FACTOR else "default")

# A shell without job control starts background commands with both ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# Under the sanitizers (tests/sanitized.py) Python children are started by this program, others without the runtime.
if os.environ.get("CORENET_TEST_PYTHON"):
    sys.executable = os.environ["CORENET_TEST_PYTHON"]
    os.environ.pop("LD_PRELOAD", None)


@given(strategies.none())
def _warm_up(_value: None) -> None:
    """Make Hypothesis create its source of randomness now.

    It uses gc.get_referrers on it, which from Python 3.14 on finds nothing once the objects are frozen.
    """


def pytest_collection_finish() -> None:
    """Freeze the objects that exist before the first test, so that collections between tests do not visit them.

    Over a thousand tests end with a collection to find what their loops leave behind. The loop's tests took 59 s when
    each collection visited the objects of pytest and the libraries; they take 17 s.
    """
    _warm_up()
    freeze()


def freeze() -> None:
    """Let later collections leave out the objects that exist now."""
    gc.collect()
    gc.freeze()


TESTS_BETWEEN_FREEZES = 100


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish(nodeid: str, location: tuple[str, int | None, str]) -> None:
    """Freeze again from time to time: reports, imported modules and caches grow with the number of tests."""
    global finished
    finished += 1
    if finished % TESTS_BETWEEN_FREEZES == 0:
        freeze()


finished = 0
"""The number of tests that have ended."""


def in_time(item: pytest.Item, phase: str) -> AbstractContextManager[None]:
    """Ends `phase` of a test after its limit, which is longer when Hypothesis runs more examples."""
    marker = item.get_closest_marker("limit")
    seconds = marker.args[0] if marker is not None else overdue.SECONDS
    return overdue.limited(f"{phase} of {item.nodeid}", seconds * overdue.slowness() * max(1, FACTOR))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Limit the set-up of fixtures."""
    with in_time(item, "set-up"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Limit the test itself."""
    with in_time(item, "call"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Limit the tear-down of fixtures."""
    with in_time(item, "clean-up"):
        return (yield)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(20260101)
