"""``make simulate-holes``: shows that the simulation finds past bugs, by reinserting them.

For each entry of holes.toml the sources are copied, a check is removed, the module is built into a copy of the debug
build, and the simulation must fail within the entry's seeds. `--only TEXT` selects entries whose name contains TEXT,
`--every N` each Nth of them.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
PLACE = ROOT / "build" / "holes"
SECONDS = 600


def prepare() -> None:
    """Copy the sources, without build products."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    for name in ("corenet", "resolver"):
        shutil.copytree(ROOT / name, PLACE / "source" / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "MANIFEST.in"):
        shutil.copy(ROOT / name, PLACE / "source" / name)


def load() -> list[dict[str, Any]]:
    """Load the list."""
    found: list[dict[str, Any]] = tomllib.loads(Path(__file__).with_name("holes.toml").read_text())["hole"]
    return found


def edits_of(hole: dict[str, Any]) -> list[dict[str, str]]:
    """The edits: the entry itself, or each of its `edit`."""
    return hole.get("edit") or [hole]


def problem(hole: dict[str, Any], root: Path = ROOT) -> str:
    """Return why the bug cannot be inserted into the sources in `root`, "" when it can."""
    for edit in edits_of(hole):
        count = (root / edit["file"]).read_text().count(edit["old"])
        if count != 1:
            return f"{hole['name']}: the text stands {count} times in {edit['file']}: {edit['old']!r}"
    return ""


def edit(hole: dict[str, Any]) -> None:
    """Remove the check in the copy."""
    for one in edits_of(hole):
        file = PLACE / "source" / one["file"]
        file.write_text(file.read_text().replace(one["old"], one["new"]))


def restore(hole: dict[str, Any]) -> None:
    """Undo the edit."""
    for one in edits_of(hole):
        shutil.copy(ROOT / one["file"], PLACE / "source" / one["file"])


def build(hole: dict[str, Any]) -> Path:
    """A debug build with the bug; all other modules are those of build/debug."""
    library = PLACE / "lib"
    shutil.rmtree(library, ignore_errors=True)
    shutil.copytree(ROOT / "build/debug/lib", library, copy_function=os.link)
    for name in sorted({one["file"] for one in edits_of(hole)}):
        file = Path(name)
        (library / file).unlink(missing_ok=True)
        shutil.copy(PLACE / "source" / file, library / file)
        if file.suffix == ".pyx":
            module = ".".join(file.with_suffix("").parts)
            # The files are hard links to build/debug, which must not be overwritten.
            for old in (library / file.parent).glob(f"{file.stem}.*.so"):
                old.unlink()
            subprocess.run(
                [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(library), "--force"],
                cwd=PLACE / "source", env={**os.environ, "CORENET_DEBUG": "1", "CORENET_MODULES": module}, check=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
    return library


def failing(hole: dict[str, Any], library: Path) -> str:
    """Return the simulation's report of the first failing seed, "" when none fails."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("run.py")), "--kinds", hole["kinds"],
         "--seeds", str(hole["seeds"]), "--first"],
        # Freed memory is overwritten, so that its use is noticed.
        cwd=library, env={**os.environ, "PYTHONPATH": str(library), "PYTHONMALLOC": "debug"}, capture_output=True,
        text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    found = re.search(r"^seed \d+: .*$", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stderr)
    return found[0] if found else ""


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="text that the names of the entries contain")
    parser.add_argument("--every", type=int, default=1, help="each nth of them (default: all)")
    options = parser.parse_args()
    holes = [hole for hole in load() if options.only in hole["name"]][:: options.every]
    problems = [text for hole in holes if (text := problem(hole))]
    if problems:
        print(*problems, sep="\n")
        return 1
    missed = 0
    prepare()
    for hole in holes:
        edit(hole)
        try:
            found = failing(hole, build(hole))
        finally:
            restore(hole)
        missed += not found
        print(f"{hole['name']}\n    {found or 'NOT FOUND'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
