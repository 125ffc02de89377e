"""Removes one check at a time and shows that a test fails: `python tests/mutants/run.py [PATTERN ...]`.

Each `*.toml` beside this file lists mutants of one area: `file`, the exact text `old`, which must occur once, the text
`new` that replaces it, and the `tests` of which one must fail then. `worlds` is the number of simulated worlds that the
tests play. The tree is copied, so the checkout is not touched. For a mutant of Cython the module is built in the copy.
A mutant of compiled Python runs as Python, because the code is the same and nothing has to be compiled. A mutant is
*killed* when its tests fail, crash or hang; it *survives* when they pass; it is *broken* when its text does not occur
exactly once, when it does not build, or when its tests do not start. The test that killed it is run without the mutant
too, once, or each time if it hung. If it fails then, it proves nothing, and the mutant is broken too.

Exit status 0: all were killed; 2: another run is in progress in this checkout. `--check` only checks that each text
occurs once and that Python stays Python, as a unit test does too.
"""

import argparse
import ast
import fcntl
import fnmatch
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COPIES = ROOT / "build" / "mutants"
LEFT_OUT = {".git", ".venv", "build", "dist", ".pytest_cache", ".ruff_cache", ".mypy_cache",
            ".hypothesis", "__pycache__"}
TEST_SECONDS = 300.0
"""A mutant whose tests take longer counts as hanging, which kills it. Without mutants they take a fraction of this."""
ASIDE = ".aside"
LATE = "NOT IN TIME"
QUICK = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "300"}
"""Plugins of other packages take as long to load as most mutants' tests take to run. The summary of pytest shortens
lines."""
PASSED, FAILED = 0, 1
CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL}
"""The interpreter may crash when a memory check was removed."""
DEFAULTS = {"file": None, "tests": [], "worlds": 0, "built": ""}
"""Keys that may be at the head of a list and then apply to all its entries."""


@dataclass(frozen=True)
class Mutant:
    """One check, and how it is removed."""

    area: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    worlds: int = 0
    built: str = ""
    """The source file into which `file` is compiled, when that is a header of several."""

    @property
    def name(self) -> str:
        return f"{self.area}: {self.what}"

    def problem(self, root: Path = ROOT) -> str | None:
        """The reason why it cannot be run in `root`, or None."""
        try:
            text = (root / self.file).read_text(encoding="utf-8")
        except OSError as error:
            return str(error)
        if text.count(self.old) != 1:
            return f"{self.file}: the text occurs {text.count(self.old)} times instead of once"
        if self.file.endswith(".py"):
            try:
                ast.parse(text.replace(self.old, self.new))
            except SyntaxError as error:
                return f"{self.file}: no Python any more: {error}"
        missing = [test for test in self.tests if not (root / test.split("::", 1)[0]).exists()]
        return f"no {missing[0]}" if missing else None


def load() -> list[Mutant]:
    """All mutants, in the order of the files and of the entries in them.

    Raises:
        ValueError: an entry lacks a key, has an unknown one, or changes nothing.
    """
    found = []
    for path in sorted(HERE.glob("*.toml")):
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        for entry in content["mutant"]:
            defaults = {key: content.get(key, default) for key, default in DEFAULTS.items()}
            merged = defaults | entry
            if merged.keys() != defaults.keys() | {"what", "old", "new"} or merged["file"] is None:
                raise ValueError(f"{path.name}: {entry.get('what')}: needs the keys what, file, old, new, tests")
            if merged["old"] == merged["new"] or not merged["tests"]:
                raise ValueError(f"{path.name}: {merged['what']}: changes nothing, or has no tests")
            header = Path(merged["file"])
            if header.suffix == ".pxd" and not merged["built"] and not (ROOT / header).with_suffix(".pyx").exists():
                raise ValueError(f"{path.name}: {merged['what']}: needs the key built, or it would not be compiled")
            merged["tests"] = tuple(merged["tests"])
            found.append(Mutant(path.stem, **merged))
    return found


class Tree:
    """One built copy of the checkout, in which mutants are run one after the other."""

    def __init__(self, number: int) -> None:
        self.root = COPIES / str(number)
        self.interpreted = False
        self.build_seconds = 0.0
        self.good: set[tuple[str, bool, int]] = set()
        """Runs that passed without a mutant: the tests, whether as Python, and in how many worlds."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(ROOT, self.root, ignore=lambda _folder, names: [n for n in names if n in LEFT_OUT])
        shutil.copytree(ROOT / "build" / "cython-release", self.root / "build" / "cython-release")

    def play(self, mutant: Mutant) -> tuple[str, str]:
        """Return killed, survives or broken, and why: the last lines of the output, or the failure that killed it."""
        problem = mutant.problem(self.root)
        if problem is not None:
            return "broken", problem
        path = self.root / mutant.file
        source = Path(mutant.built or mutant.file)
        module = ".".join(source.with_suffix("").parts)
        # With many worlds, compiled code saves more time than the compiler takes.
        self.interpret(path.suffix == ".py" and not mutant.worlds)
        library = next((self.root / source.parent).glob(f"{source.stem}.*.so"), None)
        self.build_seconds = 0.0
        original, built = path.read_bytes(), library.read_bytes() if library else b""
        write(path, original.replace(mutant.old.encode(), mutant.new.encode()))
        try:
            if library is not None:
                build = ["setup.py", "-q", "build_ext", "--inplace"]
                began = time.monotonic()
                status, said = self.call(build, CORENET_MODULES=module, CORENET_QUICK="1")
                self.build_seconds = time.monotonic() - began
                if status != 0:
                    return "broken", said
            status, said = self.test(mutant.tests, mutant.worlds)
        finally:
            write(path, original)
            if library is not None:
                library.write_bytes(built)
        if status in (FAILED, None) or status in CRASHES:
            why = reason(status, said)
            return ("killed", why) if self.is_proof(mutant, why) else ("broken", f"fails without it too: {why}")
        return "survives" if status == PASSED else "broken", said

    def test(self, tests: tuple[str, ...], worlds: int) -> tuple[int | None, str]:
        """Run tests in the copy as it is, up to the first that fails."""
        environment = QUICK | ({"CORENET_WORLDS": str(worlds)} if worlds else {})
        return self.call(["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests], **environment)

    def is_proof(self, mutant: Mutant, why: str) -> bool:
        """Return whether the test that killed `mutant` passes without it."""
        named = re.match(r"(?:FAILED|ERROR) ([^\s\[]+)", why)
        tests = (named[1],) if named else mutant.tests
        world = re.search(r"world (\d+) fails", why)  # they are played from 0 on, and those behind it prove nothing
        worlds = int(world[1]) + 1 if world else mutant.worlds
        key = (" ".join(tests), self.interpreted, worlds)
        if key in self.good and "TimeoutError" not in why and not why.startswith(LATE):
            return True
        passes = self.test(tests, worlds)[0] == PASSED
        if passes:
            self.good.add(key)
        return passes

    def interpret(self, wanted: bool) -> None:
        """Set aside all libraries compiled from Python (they share types, so it is all or none), or put them back."""
        if wanted is self.interpreted:
            return
        self.interpreted = wanted
        for source in self.root.glob("resolver/**/*.py"):
            for library in source.parent.glob(f"{source.stem}.*.so" + ("" if wanted else ASIDE)):
                library.rename(f"{library}{ASIDE}" if wanted else str(library).removesuffix(ASIDE))

    def call(self, arguments: list[str], **environment: str) -> tuple[int | None, str]:
        """Run Python in the copy; the status is None after a time-out."""
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=self.root, env=os.environ | {"PYTHONPATH": str(self.root)} | environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=TEST_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            said, _ = process.communicate()
            return None, said
        return process.returncode, said


def write(path: Path, text: bytes) -> None:
    """Write a source, and remove its compiled form: that is taken for the new one when the source has the same size and
    is written within the same second."""
    path.write_bytes(text)
    Path(cache_from_source(str(path))).unlink(missing_ok=True)


def reason(status: int | None, said: str) -> str:
    """What killed a mutant, in one line: the failed test, a signal, or the time-out."""
    if status is None:
        return f"{LATE}: no end within {TEST_SECONDS:.0f} s"
    if status in CRASHES:
        return f"CRASH: {signal.Signals(-status).name}"
    return next((line for line in reversed(said.splitlines()) if line.startswith(("FAILED ", "ERROR "))), "FAILED")


def play_all(mutants: list[Mutant], jobs: int, *, why: bool = False) -> dict[str, list[Mutant]]:
    """Run `mutants` in `jobs` copies and print each result; with `why` also what killed each."""
    waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    for mutant in mutants:
        waiting.put(mutant)
    results: dict[str, list[Mutant]] = {"killed": [], "survives": [], "broken": []}
    lock = threading.Lock()

    def work(number: int) -> None:
        tree = Tree(number)
        while True:
            try:
                mutant = waiting.get_nowait()
            except queue.Empty:
                return
            began = time.monotonic()
            result, said = tree.play(mutant)
            with lock:
                results[result].append(mutant)
                seconds = time.monotonic() - began
                print(f"{result:8} {seconds:5.1f} s ({tree.build_seconds:4.1f} to build)  {mutant.name}", flush=True)
                if result == "broken" or (result == "killed" and why):
                    print(said[-2000:], flush=True)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description="Remove one check at a time; some test must fail each time.")
    parser.add_argument("patterns", nargs="*", help="run only mutants whose 'area: what' matches one of these")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="copies of the tree")
    parser.add_argument("--every", type=int, default=1, help="run each nth of them (default: all)")
    parser.add_argument("--why", action="store_true", help="print what killed each mutant")
    parser.add_argument("--check", action="store_true", help="run nothing, check that each can be run")
    options = parser.parse_args()
    mutants = [m for m in load() if not options.patterns or any(fnmatch.fnmatch(m.name, p) for p in options.patterns)]
    mutants = mutants[:: options.every]
    if options.check:
        problems = [f"{m.name}: {problem}" for m in mutants if (problem := m.problem()) is not None]
        print("\n".join([*problems, f"{len(mutants)} mutants, {len(problems)} out of place"]))
        return bool(problems)
    COPIES.mkdir(parents=True, exist_ok=True)
    with open(COPIES / "lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            parser.exit(2, f"another run uses the copies in {COPIES}\n")
        results = play_all(mutants, min(options.jobs, max(1, len(mutants))), why=options.why)
    for result in ("survives", "broken"):
        for mutant in results[result]:
            print(f"{result}: {mutant.name} ({mutant.file})")
    print(", ".join(f"{len(found)} {result}" for result, found in results.items()))
    return not mutants or bool(results["survives"] or results["broken"])


if __name__ == "__main__":
    raise SystemExit(main())
