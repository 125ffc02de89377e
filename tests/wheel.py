"""Builds the sdist, builds the wheel from it, installs the wheel outside the checkout, and uses it there.

An editable install hides files missing from the package; this does not. The wheel is built as pip builds an sdist, in
an environment with only the build requirements of pyproject.toml, and tests/smoke.py uses it from another folder. With
`full`, the unit tests of the checkout also run against the installed package.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMOKE = ROOT / "tests" / "smoke.py"
MAX_WHEEL_BYTES = 6_000_000
WHOLE_FILE = re.compile(r"^pytestmark = .*\bmark\.checkout\b", re.MULTILINE)


def run(*command: str | Path, cwd: Path, **kwargs: object) -> subprocess.CompletedProcess[str]:
    """Run a command and print it; raises when it fails."""
    print("+", *command, flush=True)
    return subprocess.run([str(c) for c in command], cwd=cwd, check=True, text=True, **kwargs)  # type: ignore[call-overload]


def clean_environment() -> dict[str, str]:
    """The caller's environment without variables that could make Python import from the checkout."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}


def install(wheel: Path, extra: str, work: Path, python: str = sys.executable) -> Path:
    """Install the wheel into a new environment and use it there; returns the folder of its commands."""
    bin_ = work / "venv" / "bin"
    run(python, "-m", "venv", work / "venv", cwd=work)
    run(bin_ / "python", "-m", "pip", "install", "-q", f"{wheel}{extra}", cwd=work, env=clean_environment())
    # -P: the script's folder is not searched for modules.
    run(bin_ / "python", "-P", SMOKE, "--commands", work, cwd=work, env=clean_environment())
    return bin_


def run_unit_tests(bin_: Path, work: Path) -> None:
    """Run all unit tests that do not need the checkout."""
    outside = work / "tests"
    shutil.copytree(ROOT / "tests" / "unit", outside / "unit", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests" / "support", outside / "support", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests" / "conftest.py", outside)
    shutil.copy(ROOT / "pyproject.toml", work)
    # Files and tests that are marked as needing the checkout (tests/unit/conftest.py). Files may read it on import.
    for path in outside.rglob("test_*.py"):
        if WHOLE_FILE.search(path.read_text(encoding="utf-8")):
            path.unlink()
    run(bin_ / "pytest", "-q", "tests/unit", "-m", "not checkout", "-p", "no:cacheprovider", cwd=work,
        env=clean_environment())


def main() -> int:
    """`wheel.py [full]`: build, check the size, install and use."""
    full = sys.argv[1:] == ["full"]
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", dist, cwd=ROOT)
    wheel, = dist.glob("*.whl")
    sdist, = dist.glob("*.tar.gz")
    print(f"wheel: {wheel.stat().st_size / 1e6:.2f} MB, sdist: {sdist.stat().st_size / 1e6:.2f} MB")
    if wheel.stat().st_size > MAX_WHEEL_BYTES:
        print(f"the wheel is larger than {MAX_WHEEL_BYTES} bytes")
        return 1
    with tempfile.TemporaryDirectory(prefix="corenet-wheel-") as folder:
        commands = install(wheel, "[test]" if full else "", Path(folder))
        if full:
            run_unit_tests(commands, Path(folder))
    print("the sdist makes a wheel, and the wheel works outside the checkout")
    return 0


if __name__ == "__main__":
    sys.exit(main())
