"""Where skips are not allowed, a skipped test or benchmark is an error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SKIPS = {
    "mark": "@pytest.mark.skip(reason='why')\ndef test_it(): pass",
    "condition": "@pytest.mark.skipif(True, reason='why')\ndef test_it(): pass",
    "call": "def test_it(): pytest.skip('why')",
    "fixture": "@pytest.fixture\ndef part(): pytest.skip('why')\ndef test_it(part): pass",
    "import": "def test_it(): pytest.importorskip('no_such_module_anywhere', reason='why')",
    "file": "pytest.skip('why', allow_module_level=True)",
    "import of a file": "pytest.importorskip('no_such_module_anywhere', reason='why')\ndef test_it(): pass",
}


@pytest.mark.parametrize("place", ["tests", "benchmarks"])
def test_a_skip_fails_where_nothing_may_be_skipped(place: str, tmp_path: Path) -> None:
    """Each kind of skip under the conftest.py of tests and of benchmarks."""
    for number, source in enumerate(SKIPS.values()):
        (tmp_path / f"test_{number}.py").write_text(f"import pytest\npytestmark = pytest.mark.short\n{source}\n")
    (tmp_path / "test_expected.py").write_text(
        "import pytest\npytestmark = pytest.mark.short\ndef test_it(): pytest.xfail('known')\n"
    )

    def run(no_skips: str) -> tuple[int, str]:
        # The selection and the options of `make bench-check`.
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "short", "-p", "no:cacheprovider", "-p", "conftest",
             "--continue-on-collection-errors",
             "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), str(tmp_path)],
            cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
            env={
                **os.environ, "CORENET_NO_SKIPS": no_skips,
                "PYTHONPATH": os.pathsep.join([str(ROOT / place), str(ROOT / "tests"), *filter(None, sys.path)]),
            },
        )
        return done.returncode, done.stdout

    status, output = run("1")
    assert status != 0 and "skipped, " not in output, output
    assert output.count("skipped where nothing may be skipped") >= len(SKIPS), output
    if place == "tests":
        status, output = run("")
        assert f"{len(SKIPS)} skipped" in output and "1 xfailed" in output and status == 0, output
