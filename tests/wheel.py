"""Builds the sdist, the wheel from nothing but that, installs it outside the checkout, and uses it there.

An editable install hides the file that packaging forgot; this does not: the wheel is made as pip makes one of an sdist,
in an environment that has only what pyproject.toml asks for, and the unit tests that came with the checkout run against
the installed package from another folder, when the commands have been called by name.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_WHEEL_BYTES = 6_000_000
WHOLE_FILE = re.compile(r"^pytestmark = .*\bmark\.checkout\b", re.MULTILINE)


def run(*command: str | Path, cwd: Path, **kwargs: object) -> subprocess.CompletedProcess[str]:
    """Run a command, show it, and stop at the first failure."""
    print("+", *command, flush=True)
    return subprocess.run([str(c) for c in command], cwd=cwd, check=True, text=True, **kwargs)  # type: ignore[call-overload]


def clean_environment() -> dict[str, str]:
    """The caller's environment without what could lead Python back into the checkout."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}


def try_installed(wheel: Path, work: Path) -> None:
    """Install the wheel into a new environment and use it as a stranger would."""
    venv = work / "venv"
    run(sys.executable, "-m", "venv", venv, cwd=work)
    python = venv / "bin" / "python"
    env = clean_environment()
    run(python, "-m", "pip", "install", "-q", f"{wheel}[test]", cwd=work, env=env)
    run(python, "-c", "import corenet, resolver; print(corenet.__version__, corenet.__file__)", cwd=work, env=env)
    config = work / "resolverd.toml"
    config.write_text('[server]\nlisten = ["127.0.0.1:5399"]\n')
    run(venv / "bin" / "resolverd", "--check", "--config", config, cwd=work, env=env)
    run(venv / "bin" / "rdig", "--help", cwd=work, env=env, stdout=subprocess.DEVNULL)
    run(venv / "bin" / "corenet", "--help", cwd=work, env=env, stdout=subprocess.DEVNULL)
    outside = work / "tests"
    shutil.copytree(ROOT / "tests" / "unit", outside / "unit", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests" / "support", outside / "support", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests" / "conftest.py", outside)
    shutil.copy(ROOT / "pyproject.toml", work)
    # Those that say that they need the checkout (tests/unit/conftest.py): files, which may read it on import, or tests.
    for path in outside.rglob("test_*.py"):
        if WHOLE_FILE.search(path.read_text(encoding="utf-8")):
            path.unlink()
    run(venv / "bin" / "pytest", "-q", "tests/unit", "-m", "not checkout", "-p", "no:cacheprovider", cwd=work, env=env)


def main() -> int:
    """Build, measure, install and try."""
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
        try_installed(wheel, Path(folder))
    print("the sdist makes a wheel, and the wheel works outside the checkout")
    return 0


if __name__ == "__main__":
    sys.exit(main())
