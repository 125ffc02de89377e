"""Runs unit, property and asyncio conformance tests on every other supported Python of this machine.

An interpreter counts as installed when it starts and has the headers that a build needs. Each gets its own environment
(.venv-3.N). A missing one is reported in a line that says how to install it. Tests that only read sources and
documents give the same result on each interpreter, so they run on the main one alone. SANITIZE_ON=3.N leaves out one on
which `make test-sanitize` runs the same tests.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUPPORTED = [(3, 11), (3, 12), (3, 13), (3, 14), (3, 15)]
REQUIRED_IN_CI = {(3, 11), (3, 12), (3, 13)}


def candidates(version: tuple[int, int]) -> list[str]:
    """Paths that may be this interpreter: first the one on PATH, then those of pyenv."""
    name = f"python{version[0]}.{version[1]}"
    found = [shutil.which(name)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    if pyenv.is_dir():
        found += [str(p / "bin" / name) for p in sorted(pyenv.glob(f"{version[0]}.{version[1]}.*"), reverse=True)]
    return [path for path in found if path]


def working(version: tuple[int, int]) -> str | None:
    """The first candidate that starts, has this version, and has its headers."""
    probe = (
        "import sys, sysconfig, os, venv; print('%d.%d' % sys.version_info[:2], "
        "os.path.exists(os.path.join(sysconfig.get_paths()['include'], 'Python.h')))"
    )
    for path in candidates(version):
        try:
            got = subprocess.run([path, "-c", probe], capture_output=True, text=True, timeout=60, check=False)
        except OSError:
            continue
        if got.returncode == 0 and got.stdout.split() == [f"{version[0]}.{version[1]}", "True"]:
            return path
    return None


def environment(version: tuple[int, int], python: str) -> str:
    """Set up the environment of one interpreter with the packages for building and testing; return its Python."""
    venv = ROOT / f".venv-{version[0]}.{version[1]}"
    inside = str(venv / "bin" / "python")
    stamp = venv / ".installed"
    if not stamp.exists() or stamp.stat().st_mtime < (ROOT / "pyproject.toml").stat().st_mtime:
        subprocess.run([python, "-m", "venv", str(venv)], check=True, cwd=ROOT)
        subprocess.run(
            [inside, "-m", "pip", "install", "-q", "--upgrade", "pip", "setuptools>=77", "Cython>=3.1,<3.4"],
            check=True,
            cwd=ROOT,
        )
        subprocess.run(
            [inside, "-m", "pip", "install", "-q", "--no-build-isolation", "-e", ".[test]"],
            check=True,
            cwd=ROOT,
            env={**os.environ, "CORENET_MODULES": "none"},
        )
        stamp.touch()
    return inside


def run_on(version: tuple[int, int], python: str) -> int:
    """Build for one interpreter and test. The build is not optimised, which takes half the time, so it is kept apart
    from the checkout, where another build may be."""
    label = f"{version[0]}.{version[1]}"
    inside = environment(version, python)
    base = ROOT / "build" / f"quick{label}"
    subprocess.run(
        [inside, "setup.py", "-q", "build", "--build-base", str(base), "--build-lib", str(base / "lib")],
        check=True, cwd=ROOT, env={**os.environ, "CORENET_QUICK": "1"},
    )
    print(f"-- Python {label}: unit and property tests, CPython's own tests of asyncio", flush=True)
    return subprocess.run(
        [inside, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT),
         *(str(ROOT / "tests" / place) for place in ("unit", "property", "conformance/asyncio")),
         "-m", "not checkout", "-p", "no:benchmark", "-p", "no:cacheprovider"],
        # From outside the checkout, whose folders would be imported instead.
        cwd=base, env={**os.environ, "PYTHONPATH": str(base / "lib")},
        check=False,
    ).returncode


def main(argv: list[str]) -> int:
    """`run`: test on every other interpreter; `list`: only list them."""
    failed = []
    for version in SUPPORTED:
        label = f"{version[0]}.{version[1]}"
        if version == sys.version_info[:2]:
            print(f"Python {label}: the main environment")
            continue
        python = working(version)
        if python is None:
            print(
                f"Python {label}: not installed here, skipped "
                f"(Debian package python{label}-dev, or pyenv install {label})"
            )
            if os.environ.get("CORENET_NO_SKIPS") == "1" and version in REQUIRED_IN_CI:
                failed.append(label)
            continue
        if label == os.environ.get("SANITIZE_ON"):
            print(f"Python {label}: {python}, tested by make test-sanitize")
            continue
        print(f"Python {label}: {python}", flush=True)
        if argv[1:] == ["run"] and run_on(version, python) != 0:
            failed.append(label)
    if failed:
        print("failed or missing on Python " + ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
