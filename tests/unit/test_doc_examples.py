"""Every example in the documents runs: `docs/examples/*.py`, and each ```python block that begins with `# example`.

Each runs in a fresh interpreter with warnings as errors, so that an example cannot lean on what another one set up, nor
leave a transport open. One process an example: a bad one names its page and its line.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```python\n(# example.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS = 60


def blocks() -> list[tuple[str, str]]:
    """(page and line, source) of every block that says it can be run."""
    found = []
    for page in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append((f"{page.relative_to(ROOT)}:{line}", match[1]))
    return found


EXAMPLES = [
    *((path.name, path.read_text(encoding="utf-8")) for path in sorted((DOCS / "examples").glob("*.py"))),
    *blocks(),
]


def test_there_are_examples_to_run() -> None:
    assert len(EXAMPLES) >= 6


@pytest.mark.parametrize(("place", "source"), EXAMPLES, ids=[place for place, _ in EXAMPLES])
def test_example_runs(place: str, source: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), str(ROOT)) if p)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{place}\n{done.stdout}\n{done.stderr}"
    assert "Exception ignored" not in done.stderr, f"{place}\n{done.stderr}"
