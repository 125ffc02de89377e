"""Runs unit and property tests, the loop's integration tests, its simulation and the fuzz targets on a sanitizer build.

The build also has the debug checks (bounds, None, live-object counters, the table of system calls), so one run covers
both.

The sanitizer's runtime must be loaded before Python, so it is preloaded. Python's allocator is replaced by malloc, so
that the runtime sees every block. Other programs that tests start run without it, because some hang with it (kdig).
Python children get it through a small program that replaces the interpreter (tests/conftest.py). Leaks are checked
elsewhere (leaks.py), because the interpreter itself leaves too many blocks at exit.

SANITIZE_ON=3.N uses another interpreter than the main one, with CPython's own tests of asyncio for that version. It is
then tested without a further build.

Unless everything is wanted (`full`), modules that are Python compiled unchanged (`COMPILED` in setup.py) are left as
Python: their C code is Cython's, with all its checks, and has no pointers of ours. Tests of what is then only Python
are left out; the extension modules that they use have tests of their own. This halves the time.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import interpreters

ROOT = Path(__file__).resolve().parent.parent
VERSION = os.environ.get("SANITIZE_ON") or ""
FUZZ_RUNS = "20000"
SEEDS = os.environ.get("SEEDS") or "2000"
# What the unit tests do not cover: thousands of connections at once, workers that fork, frames from other libraries.
LOOP = [f"integration/test_{name}.py" for name in ("loop_stress", "serve", "websockets", "coming_from_uvloop")]


LIBRARIES = ("uvloop>=0.20", "websockets>=15")
"""What the tests of `LOOP` import, which the environments of other interpreters do not have."""
PYTHON_ONLY = (
    "resolver/cli", "resolver/daemon", "resolver/explain", "resolver/iterate", "resolver/playground",
    "resolver/validate", "resolver/zones",
)
"""Folders of unit tests whose subject has no extension module written in Cython."""


REFERENCE = ("-k", "not reference and not asyncio_passes")
"""Leaves out simulations of asyncio's own loop. From CPython 3.12 on it keeps views of what is written, not copies. The
programs change a bytearray after `write`, and the peer then gets other bytes, which the simulation reports."""


def chosen_python() -> str:
    """The interpreter of the environment with which to build and test."""
    if not VERSION:
        return sys.executable
    version = (3, int(VERSION.removeprefix("3.")))
    python = interpreters.working(version)
    if python is None:
        raise SystemExit(f"SANITIZE_ON: no Python {VERSION} with headers on this machine")
    inside = interpreters.environment(version, python)
    subprocess.run([inside, "-m", "pip", "install", "-q", *LIBRARIES], check=True)
    return inside


def main() -> int:
    """`sanitized.py [unit | rest | full]`: build, and run the unit and property tests, what remains, or everything with
    all integration tests; without an argument the first two."""
    python = chosen_python()
    wanted = sys.argv[1] if sys.argv[1:] else ""
    full = wanted == "full"
    base = ROOT / "build" / f"sanitize{VERSION}{'-full' if full else ''}"
    lib = str(base / "lib")
    subprocess.run(
        [python, "setup.py", "-q", "build", "--build-base", str(base), "--build-lib", lib], cwd=ROOT, check=True,
        env={**os.environ, "CORENET_SANITIZE": "address,undefined", "CORENET_PURE": "0" if full else "1"},
    )
    runtime = []
    for name in ("libasan.so", "libubsan.so", "libstdc++.so"):
        path = subprocess.run(
            ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        runtime.append(path)
    env = {
        **os.environ,
        "LD_PRELOAD": " ".join(runtime),
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": lib,
        # Multiplies the time limits of tests.
        "CORENET_TEST_SLOWNESS": "5",
        "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=16:abort_on_error=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }
    child = Path(lib).parent / "python"
    child.write_text(f'#!/bin/sh\nLD_PRELOAD={shlex.quote(env["LD_PRELOAD"])} exec {shlex.quote(python)} "$@"\n')
    child.chmod(0o755)
    env["CORENET_TEST_PYTHON"] = str(child)
    pytest = [python, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT),
              "-p", "no:benchmark", "-p", "no:cacheprovider"]
    further = ["integration"] if full else LOOP
    # The test of the memory limit runs on other builds: the sanitizer's allocator ends the process at the limit.
    further.append(f"--ignore={ROOT / 'tests' / 'integration' / 'test_memory_limit.py'}")
    # The first two preload a library of their own, but the sanitizer's must be the first one. The third measures memory
    # that malloc_trim(3) returns; the sanitizer's allocator returns none.
    unit = [f"--ignore={ROOT / 'tests' / 'unit' / name}" for name in (
        "resolver/net/test_reserve.py", "resolver/net/test_failing_calls.py", "corenet/tls/test_idle_memory.py",
        *(() if full else PYTHON_ONLY),
    )]
    if VERSION:
        unit.append(str(ROOT / "tests" / "conformance" / "asyncio"))
    commands = [
        # Without tests that only read sources and documents, which are the same for each build.
        [*pytest, "-m", "not checkout", str(ROOT / "tests" / "unit"), str(ROOT / "tests" / "property"), *unit],
        [*pytest, *(place if place.startswith("-") else str(ROOT / "tests" / place) for place in further)],
        # In a process of its own, because the simulated kernel must be loaded before the loop.
        [*pytest, str(ROOT / "tests" / "simulation" / "loop"), *(REFERENCE if VERSION else ())],
        [python, str(ROOT / "tests" / "simulation" / "loop" / "run.py"), "--seeds", SEEDS],
        [python, str(ROOT / "tests" / "fuzz" / "run.py"), "--runs", FUZZ_RUNS],
    ]
    if wanted in ("unit", "rest"):
        commands = commands[:1] if wanted == "unit" else commands[1:]
    for command in commands:
        # From outside the checkout, whose folders would be imported instead of the build under test.
        code = subprocess.run(command, cwd=Path(lib).parent, env=env, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
