"""The configuration that an importer makes, and the lines that it could not carry over.

A statement becomes either a quoted value or a comment of one line, whatever it contains.
"""

import os
import re
import stat
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from resolver import limits

__all__ = ["COPY", "KEPT", "Draft", "ImportFailure", "Place", "Remark", "read_text"]

KEPT = "/var/lib/resolverd"
"""Where the daemon keeps what it transfers or fetches."""
COPY = f"the copy is kept in zones.directory, which is {KEPT}/zones; make it writable for the daemon's user"


_SECRET = re.compile(r"(\b[\w-]*(?:secret|password)\b(?!-file)\s*[:=]?\s*)(?:\"[^\"]*\"|[^\s;]+)", re.IGNORECASE)


class ImportFailure(ValueError):
    """A file that cannot be read or parsed; the text names file and line."""


class Place(NamedTuple):
    """Where a statement begins."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Remark(NamedTuple):
    """A statement that is not in the result as it was, and why. `needed` tells whether the operator has to act."""

    place: Place
    text: str
    why: str
    needed: bool


@dataclass
class Draft:
    """Sections of keys, tables, and remarks, in the order in which they are written."""

    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    tables: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    def set(self, path: str, value: Any) -> None:
        """Set the key `path`, such as ``cache.max-ttl``; a later value replaces an earlier one."""
        section, _, key = path.rpartition(".")
        self.sections.setdefault(section, {})[key] = value

    def get(self, path: str, default: Any = None) -> Any:
        """The value of `path` so far."""
        section, _, key = path.rpartition(".")
        return self.sections.get(section, {}).get(key, default)

    def add(self, path: str, *values: Any) -> None:
        """Append to the list `path` what it does not have yet."""
        held = self.get(path, [])
        self.set(path, [*held, *(value for value in values if value not in held)])

    def table(self, name: str, **keys: Any) -> dict[str, Any]:
        """A new table ``[[name]]``; underscores of `keys` are written as hyphens."""
        made = {key.replace("_", "-"): value for key, value in keys.items()}
        self.tables.append((name, made))
        return made

    def policy_zone(self, name: str, **keys: Any) -> None:
        """A new table [[rpz]] with those `keys` that have a value. The copies of transferred zones need a directory."""
        if keys.get("primaries"):
            self.set("zones.directory", f"{KEPT}/zones")
        if keys.get("url"):
            keys["file"] = f"{KEPT}/{name.rstrip('.')}.rpz"
        made = self.table("rpz")
        made["name"] = name
        made |= {key.replace("_", "-"): value for key, value in keys.items() if value not in ("", [], None)}

    def left_out(self, place: Place, text: str, why: str) -> None:
        """`text` is not carried over."""
        self.remarks.append(Remark(place, _without_secrets(text), why, True))

    def not_needed(self, place: Place, text: str, why: str) -> None:
        """`text` has no counterpart, and none is needed."""
        self.remarks.append(Remark(place, _without_secrets(text), why, False))

    def render(self, source: str) -> str:
        """The configuration as TOML, with the remarks as comments at the top."""
        from resolver.daemon.config_writer import literal

        lines = [f"# Made from {source} by resolverctl import."]
        for needed, title in ((True, "Not carried over:"), (False, "Not needed:")):
            found = [one for one in self.remarks if one.needed is needed]
            if found:
                lines += ["#", f"# {title}"]
                lines += [f"#   {one.place}: {_one_line(one.text)}: {one.why}" for one in found]
        top = self.sections.get("", {})
        lines += ["", *(f"{key} = {literal(value)}" for key, value in top.items())]
        for section, keys in self.sections.items():
            if section and keys:
                lines += ["", f"[{section}]", *(f"{key} = {literal(value)}" for key, value in keys.items())]
        for name, keys in self.tables:
            lines += ["", f"[[{name}]]", *(f"{key} = {literal(value)}" for key, value in keys.items())]
        return "\n".join(lines).rstrip() + "\n"


def _without_secrets(text: str) -> str:
    """`text` without the values of secrets and passwords: remarks are printed, and get into mails and tickets."""
    return _SECRET.sub(r"\1...", text)


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def read_text(path: str) -> str:
    """The text of the file `path`.

    Raises:
        ImportFailure: it cannot be read, is not a regular file, is too large, or is not UTF-8.
    """
    try:
        # O_NONBLOCK, because opening a FIFO would wait for a writer, and an include may name any file.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ImportFailure(f"{path}: not a regular file; write its content to one")
            data = file.read(limits.IMPORTED_FILE + 1)
    except OSError as error:
        raise ImportFailure(f"{path}: {error.strerror}") from None
    if len(data) > limits.IMPORTED_FILE:
        raise ImportFailure(f"{path}: larger than {limits.IMPORTED_FILE} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ImportFailure(f"{path}:{line}: not UTF-8 text") from None
