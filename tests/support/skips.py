"""With CORENET_NO_SKIPS=1, as in CI, skipped tests and files that are not collected count as failures.

So a missing package cannot look like success. Tests and benchmarks import these hooks in their conftest.py. An expected
failure (xfail) is not a skip.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest

__all__ = ["pytest_make_collect_report", "pytest_runtest_makereport"]


def checked(report: Any) -> Any:
    """`report`, failed where it says skipped and nothing may be."""
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CORENET_NO_SKIPS") == "1":
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be skipped: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[Any]:
    """A phase of a test."""
    return checked((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[Any]:
    """A file, which may skip itself as a whole."""
    return checked((yield))
