"""Runs modules of CPython's own ``test.test_asyncio`` on one kind of loop and writes what became of each test.

Started by test_stdlib.py, once with asyncio's loop and once with ours, always as a process of its own: the tests
change policies, signal handlers and child watchers. For ours the default policy and the names ``SelectorEventLoop``,
``EventLoop`` of asyncio give our class, so every test that makes a loop by public means gets one; how many a test made
is noted, because many tests of tasks and locks run on a simulated loop and so say nothing about ours.
"""

import argparse
import asyncio
import faulthandler
import importlib
import json
import re
import sys
import time
import traceback
import types
import unittest
import warnings
from asyncio import unix_events
from pathlib import Path
from typing import Any

#: The same tests again on other selectors of the standard loop.
REPEATED = re.compile(r"(^|\.)(Poll|Select)EventLoop(Tests|SendfileTests)$")

made = 0


def install() -> None:
    """Put our loop wherever asyncio makes one."""
    import corenet

    class SelectorEventLoop(corenet.Loop):
        """Our loop under the standard one's name; a selector given to it has nothing to do."""

        def __init__(self, _selector: object = None) -> None:
            global made
            made += 1
            super().__init__()

    SelectorEventLoop.__module__ = "corenet"
    policy: Any = getattr(unix_events, "_DefaultEventLoopPolicy", None) or unix_events.DefaultEventLoopPolicy
    policy._loop_factory = SelectorEventLoop
    modules: list[types.ModuleType] = [asyncio, unix_events]
    for module in modules:
        for name in ("SelectorEventLoop", "EventLoop"):
            if hasattr(module, name):
                setattr(module, name, SelectorEventLoop)


class Result(unittest.TestResult):
    """Keeps the outcome of each test, with warnings of forgotten resources and exceptions that nobody could catch."""

    def __init__(self) -> None:
        super().__init__()
        self.began = 0.0
        self.made_before = 0
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.now: dict[str, Any] = {}

    def note(self, outcome: str, text: str = "") -> None:
        """A worse outcome replaces a better one; of several failures the first text is kept."""
        if self.now["outcome"] == "ok" or (outcome == "failed" and self.now["outcome"] != "failed"):
            self.now["outcome"] = outcome
            self.now["text"] = text

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.made_before = made
        self.began = time.perf_counter()
        self.open(test)

    def open(self, test: object) -> None:
        """Begin the record of a test."""
        self.now = {"outcome": "ok", "text": "", "loops": 0, "resources": [], "seconds": 0.0}
        name = test.id() if isinstance(test, unittest.TestCase) else str(test)
        self.outcomes[name.removeprefix("test.test_asyncio.")] = self.now

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self.now["loops"] = made - self.made_before
        self.now["seconds"] = round(time.perf_counter() - self.began, 3)

    def addFailure(self, test: Any, err: Any) -> None:
        if not isinstance(test, unittest.TestCase):
            # The set-up of a module or a class.
            self.open(test)
        self.note("failed", "".join(traceback.format_exception(*err)))

    addError = addFailure

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        if err is not None:
            self.addFailure(test, err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        if test.id().removeprefix("test.test_asyncio.") not in self.outcomes:
            # From Python 3.12 on, what is skipped as a whole is never started.
            self.open(test)
        self.note("skipped", reason)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self.note("failed", "unexpected success")

    def on_unraisable(self, unraisable: Any) -> None:
        """`sys.unraisablehook`: counted against the test that runs."""
        if self.now:
            self.note(
                "failed", f"unraisable: {unraisable.err_msg} {unraisable.object!r} {unraisable.exc_value!r}"
            )

    def on_warning(self, message: Any, category: type[Warning], *_rest: Any, **_more: Any) -> None:
        """`warnings.showwarning`: remembers what was left open, but for asyncio's own loops.

        Those are made by the tests' own set-up; when they are collected, and so whom it is put down to, is chance.
        """
        if self.now and issubclass(category, ResourceWarning) and "SelectorEventLoop" not in str(message):
            self.now["resources"].append(str(message))


def flatten(suite: unittest.TestSuite | unittest.TestCase) -> list[unittest.TestCase]:
    """Every test of a suite, those repeated on other selectors left out."""
    if isinstance(suite, unittest.TestCase):
        return [] if REPEATED.search(type(suite).__qualname__) else [suite]
    return [test for part in suite for test in flatten(part)]


def is_in(names: set[str], test: unittest.TestCase) -> bool:
    """Tell whether a test is named: by its name, its class, or both."""
    parts = test.id().split(".")
    return bool(names & {parts[-1], parts[-2], ".".join(parts[-2:])})


def main() -> int:
    """Run modules and write a JSON object of outcomes by test."""
    parser = argparse.ArgumentParser(description="run CPython's asyncio tests on one kind of loop")
    parser.add_argument("--loop", choices=["asyncio", "corenet"], required=True)
    parser.add_argument("--out", type=Path, help="file for the outcomes; without it failures are printed")
    parser.add_argument("--only", default="", help="regular expression that a test's name must match")
    parser.add_argument("--timeout", type=float, default=240.0, help="seconds, then the stacks are printed")
    parser.add_argument("--skip", default="", help="names, separated by commas, of tests that are left out")
    parser.add_argument("--keep", default="", help="names of tests that are run although --skip names their class")
    parser.add_argument("modules", nargs="+")
    options = parser.parse_args()
    if options.loop == "corenet":
        install()
    faulthandler.dump_traceback_later(options.timeout, exit=True)
    result = Result()
    sys.unraisablehook = result.on_unraisable
    warnings.showwarning = result.on_warning
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", ResourceWarning)
    skip, keep = set(options.skip.split(",")), set(options.keep.split(","))
    for name in options.modules:
        module = importlib.import_module(f"test.test_asyncio.{name}")
        tests = flatten(unittest.defaultTestLoader.loadTestsFromModule(module))
        wanted = (t for t in tests if re.search(options.only, t.id()) and (is_in(keep, t) or not is_in(skip, t)))
        unittest.TestSuite(wanted).run(result)
    if options.out is not None:
        options.out.write_text(json.dumps(result.outcomes))
    else:
        for test, outcome in result.outcomes.items():
            if outcome["outcome"] == "failed" or outcome["resources"]:
                print(f"-- {test}: {outcome['outcome']}\n{outcome['text']}", *outcome["resources"], sep="\n")
        count = [o["outcome"] for o in result.outcomes.values()]
        print({kind: count.count(kind) for kind in sorted(set(count))})
    return 0


if __name__ == "__main__":
    sys.exit(main())
