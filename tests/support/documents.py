"""Code blocks of the README and of the pages under docs, and an environment in which they run."""

import os
import re
import sys
import tomllib
from pathlib import Path

__all__ = ["DOCS", "FENCE", "PROJECT", "ROOT", "SECONDS", "blocks", "environment"]

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# Pages under docs/api repeat docs/examples.
PAGES = [ROOT / "README.md", *(page for page in sorted(DOCS.rglob("*.md")) if page.parent.name != "api")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS = 60


def blocks(language: str) -> list[tuple[str, str]]:
    """(page and line, source) of every block in this language."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[1] == language:
                line = text.count("\n", 0, match.start()) + 1
                found.append((f"{page.relative_to(ROOT)}:{line}", match[2]))
    return found


def environment(folder: Path) -> dict[str, str]:
    """Ours, with the packages in reach, and the project's commands in `folder` first in the path."""
    for name, target in PROJECT["scripts"].items():
        module, function = target.split(":")
        command = folder / name
        command.write_text(
            f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n",
            encoding="utf-8",
        )
        command.chmod(0o755)
    here = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), str(ROOT)) if p)
    path = os.pathsep.join((str(folder), str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    # argparse breaks lines of help between the words of an option's name otherwise.
    return {**os.environ, "PYTHONPATH": here, "PATH": path, "COLUMNS": "200"}
