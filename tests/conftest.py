"""Rules every test of this project runs under.

Warnings and unraisable exceptions are errors (pyproject.toml). Where CORENET_NO_SKIPS=1 stands, as in CI, a skipped
test is a failed one, so that a missing package can never look like success. Randomness is seeded per test.
"""

import os
import random
import signal
import sys

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")

# A shell without job control starts what runs in the background with SIGINT ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Under the sanitizers (tests/sanitized.py) children in Python are started by this, all others without the runtime.
if os.environ.get("CORENET_TEST_PYTHON"):
    sys.executable = os.environ["CORENET_TEST_PYTHON"]
    os.environ.pop("LD_PRELOAD", None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Turn a skip into a failure where nothing may be skipped."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CORENET_NO_SKIPS") == "1":
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be skipped: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(20260101)
