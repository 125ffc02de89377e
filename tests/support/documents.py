"""Code blocks and commands of the README and of the pages under docs, and an environment in which they run."""

import os
import re
import sys
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "DOCS", "FENCE", "PAGES", "PROJECT", "ROOT", "SECONDS", "SPAN", "Command", "blocks", "commands", "environment",
    "without_blocks",
]

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# Pages under docs/api repeat docs/examples.
PAGES = [ROOT / "README.md", *(page for page in sorted(DOCS.rglob("*.md")) if page.parent.name != "api")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Within a list a block is indented.
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
#: Code inside of a sentence or a table.
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
SECONDS = 60


@dataclass(frozen=True)
class Command:
    """A command that a page shows; `place` is page and line. Its comment may give the exit status. `inline` is one
    inside of a sentence or a table."""

    place: str
    text: str
    comment: str = ""
    inline: bool = False

    @property
    def status(self) -> int:
        found = re.search(r"exit status (\d+)", self.comment)
        return int(found[1]) if found else 0


def blocks(language: str) -> list[tuple[str, str]]:
    """(page and line, source) of every block in this language."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[1] == language:
                found.append((f"{page.relative_to(ROOT)}:{line_of(text, match.start())}", textwrap.dedent(match[2])))
    return found


def without_blocks(text: str) -> str:
    """`text` with an empty line in place of each line of a block."""
    return FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)


def commands(page: Path, programs: frozenset[str]) -> list[Command]:
    """The commands of a page in their order.

    They are the lines of its ```sh blocks, the lines of its ```console blocks that begin with a prompt, and the code in
    sentences and tables that is one of `programs` with arguments. A program alone is its name, not a command.
    """
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT)
    found: list[tuple[int, Command]] = []
    for match in FENCE.finditer(text):
        if match[1] not in ("sh", "console"):
            continue
        first = line_of(text, match.start()) + 1
        for number, line in enumerate(textwrap.dedent(match[2]).splitlines(), first):
            if match[1] == "console" and not line.startswith("$ "):
                continue
            command, _, comment = line.removeprefix("$ ").partition("  #")
            found.append((number, Command(f"{name}:{number}", command.strip(), comment)))
    prose = without_blocks(text)
    for match in SPAN.finditer(prose):
        words = match[1].split()
        if len(words) > 1 and words[0] in programs:
            number = line_of(prose, match.start())
            found.append((number, Command(f"{name}:{number}", " ".join(words), inline=True)))
    return [command for _, command in sorted(found, key=lambda one: one[0])]


def line_of(text: str, offset: int) -> int:
    """The number of the line at `offset`."""
    return text.count("\n", 0, offset) + 1


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
