"""Unit tests run against an installed wheel too (tests/wheel.py), where there is no checkout around them.

A test that reads what no wheel holds - sources of Cython, documents, tests beside the unit tests - carries the mark
`checkout` and is left out there; a file that reads it on import has the mark as its `pytestmark`. One that lacks the
mark fails here, in the checkout: an audit hook (sys.addaudithook) sees what it opens, lists and starts, and what its
import does. What is read by import of packages, for tracebacks (linecache) or by the product itself does not count. Nor
does a shipped file of the packages that is opened by its name: that can be done by the path of the installed package.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WITH_THE_TESTS = ("tests/unit/", "tests/support/", "tests/conftest.py", "pyproject.toml")
MADE_HERE = ("build/", "dist/", ".venv", ".hypothesis/", ".pytest_cache/", ".git/")
PACKAGES = ("corenet/", "resolver/")
SHIPPED = (".py", ".pyi", ".pyc", ".pxd", ".h", ".so", "py.typed", ".html", ".css", ".js")
PATH_TOOLS = ("/pathlib.py", "/pathlib/__init__.py", "/pathlib/_local.py", "/pathlib/_abc.py", "/glob.py", "/os.py")
NOT_THE_TEST = tuple(f"/{name}.py" for name in ("linecache", "tokenize", "pkgutil", "traceback"))

OUTSIDE = not (ROOT / "setup.py").exists()

_seen: list[str] | None = None
"""What the test or the import under way has read of the checkout; None: nobody asks."""


def _beyond_a_wheel(given: object, listed: bool) -> str:
    """The path below the checkout when no wheel, nor the folders copied beside one, holds it; otherwise empty."""
    if not isinstance(given, str | bytes | os.PathLike):
        return ""
    path = os.path.abspath(os.fsdecode(given))
    # What is not there holds nothing: to explain a SyntaxError, CPython 3.13 looks for a file named "<unknown>".
    if not path.startswith(f"{ROOT}/") or not os.path.lexists(path):
        return ""
    name = path[len(str(ROOT)) + 1 :] + ("/" if listed else "")
    if name.startswith((*WITH_THE_TESTS, *MADE_HERE)) or "__pycache__" in name:
        return ""
    return "" if name.startswith(PACKAGES) and name.endswith(SHIPPED) else name


def _by_the_test() -> bool:
    """Whether the nearest caller that is not a tool for paths is a test or its support."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith("<frozen importlib") or "/importlib/" in name or name.endswith(NOT_THE_TEST):
            return False
        if not name.endswith(PATH_TOOLS) and not name.startswith("<frozen "):
            return not name.startswith((f"{ROOT}/corenet/", f"{ROOT}/resolver/", f"{ROOT}/build/"))
        frame = frame.f_back
    return False


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _seen is None or OUTSIDE:
        return
    if event == "open" or event == "os.listdir" or event == "os.scandir":
        found = [_beyond_a_wheel(arguments[0], event != "open")]
    elif event == "subprocess.Popen" and isinstance(arguments[1], list | tuple):
        found = [_beyond_a_wheel(part, False) for part in arguments[1] if os.fsdecode(part).startswith("/")]
        found.append("the checkout as a child's working folder" if arguments[2] in (ROOT, str(ROOT)) else "")
    else:
        return
    if any(found) and _by_the_test():
        _seen.extend(filter(None, found))


sys.addaudithook(_hook)


def _complaint(seen: list[str]) -> str:
    return f"reads {', '.join(sorted(set(seen))[:5])}, which no wheel holds: mark it pytest.mark.checkout"


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Import a file of tests, and fail it when that reads the checkout and the file does not say so."""
    global _seen
    if not isinstance(collector, pytest.Module):
        return (yield)
    _seen = seen = []
    try:
        report = yield
    finally:
        _seen = None
    if seen and report.passed:
        marks = getattr(collector.obj, "pytestmark", [])
        if "checkout" not in [mark.name for mark in (marks if isinstance(marks, list) else [marks])]:
            report.outcome, report.longrepr = "failed", f"{collector.nodeid} {_complaint(seen)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Watch from the first fixture on."""
    global _seen
    _seen = None if item.get_closest_marker("checkout") else []
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that has read the checkout and does not say so."""
    global _seen
    try:
        result = yield
    finally:
        seen, _seen = _seen, None
    if seen:
        pytest.fail(f"{item.nodeid} {_complaint(seen)}", pytrace=False)
    return result
