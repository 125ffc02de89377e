"""``make simulate-holes``: shows that the simulation finds mistakes that were made once, by putting them back.

For each entry of holes.toml the sources are copied, the check is taken out, the module is built into a copy of the
debug build, and the simulation must fail within the entry's seeds. `--only TEXT` takes those whose name holds TEXT.
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
    """A copy of the sources, without what was built from them."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    for name in ("corenet", "resolver"):
        shutil.copytree(ROOT / name, PLACE / "source" / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "MANIFEST.in"):
        shutil.copy(ROOT / name, PLACE / "source" / name)


def edit(hole: dict[str, Any]) -> str:
    """Take the check out; return what the file was.

    Raises:
        ValueError: what is to be taken out does not stand there once.
    """
    file = PLACE / "source" / hole["file"]
    before = file.read_text()
    if before.count(hole["old"]) != 1:
        raise ValueError(f"{hole['name']}: the text stands {before.count(hole['old'])} times in {hole['file']}")
    file.write_text(before.replace(hole["old"], hole["new"]))
    return before


def build(hole: dict[str, Any]) -> Path:
    """A debug build with the hole; all other modules are those of build/debug."""
    library = PLACE / "lib"
    shutil.rmtree(library, ignore_errors=True)
    shutil.copytree(ROOT / "build/debug/lib", library, copy_function=os.link)
    file = Path(hole["file"])
    (library / file).unlink(missing_ok=True)
    shutil.copy(PLACE / "source" / file, library / file)
    if file.suffix == ".pyx":
        module = ".".join(file.with_suffix("").parts)
        # The hard links of build/debug must not be written through.
        for old in (library / file.parent).glob(f"{file.stem}.*.so"):
            old.unlink()
        subprocess.run(
            [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(library), "--force"],
            cwd=PLACE / "source", env={**os.environ, "CORENET_DEBUG": "1", "CORENET_MODULES": module}, check=True,
        )  # fmt: skip
    return library


def failing(hole: dict[str, Any], library: Path) -> str:
    """What the simulation says of the first seed that fails with the hole, "" when none does."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("run.py")), "--kinds", hole["kinds"],
         "--seeds", str(hole["seeds"]), "--first"],
        cwd=library, env={**os.environ, "PYTHONPATH": str(library)}, capture_output=True, text=True, timeout=SECONDS,
        check=False,
    )  # fmt: skip
    found = re.search(r"^seed \d+: .*$", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stderr)
    return found[0] if found else ""


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--every", type=int, default=1, help="try each nth of them (default: all)")
    options = parser.parse_args()
    holes = tomllib.loads(Path(__file__).with_name("holes.toml").read_text())["hole"]
    missed = 0
    prepare()
    for hole in [hole for hole in holes if options.only in hole["name"]][:: options.every]:
        before = edit(hole)
        try:
            found = failing(hole, build(hole))
        finally:
            (PLACE / "source" / hole["file"]).write_text(before)
        missed += not found
        print(f"{hole['name']}\n    {found or 'NOT FOUND'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
