"""The configuration that an importer makes, and the lines that are not in it as they were.

A statement becomes either a quoted value or a comment of one line, whatever it contains. Secrets are quoted as values
only: an importer names each one with `Draft.hide` before the first remark, and no remark contains it.
"""

import os
import re
import stat
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from resolver import limits

__all__ = [
    "ALWAYS", "BY_ITSELF", "CHANGED", "COPY", "EACH_WORKER", "KEPT", "NO_COUNTERPART", "QUERY_LOG", "Draft",
    "ImportFailure", "Place", "Remark", "beside", "number", "read_text",
]

KEPT = "/var/lib/resolverd"
"""Where the daemon keeps what it transfers or fetches."""
COPY = f"the copy is kept in zones.directory, which is {KEPT}/zones; make it writable for the daemon's user"

NO_COUNTERPART = "resolverd has no counterpart"
ALWAYS, BY_ITSELF = "resolverd always does this", "resolverd chooses this by itself"
EACH_WORKER = "the rate holds in each worker"
QUERY_LOG = "the lines have the format of resolverd (docs/query-log.md)"
SECRET_KEY = re.compile(r"(?:.*[-_])?(?:secret|password|secret-seed|api[-_]key|tsigsecret)", re.IGNORECASE)
"""Options whose value is a secret, whatever section they are in."""
LEFT_OUT, CHANGED, NOT_NEEDED = "Not carried over:", "Carried over with another meaning:", "Not needed:"
"""The kinds of remarks, as titles of the comments in the result."""


class ImportFailure(ValueError):
    """A file that cannot be read or parsed; the text names file and line."""


class Place(NamedTuple):
    """Where a statement begins."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Remark(NamedTuple):
    """A statement that is not in the result as it was, and why."""

    place: Place
    text: str
    why: str
    kind: str

    @property
    def needed(self) -> bool:
        """Whether the operator has to act."""
        return self.kind == LEFT_OUT

    @property
    def told(self) -> bool:
        """Whether the operator should know: all but what is not needed."""
        return self.kind != NOT_NEEDED

    def __str__(self) -> str:
        return f"{self.place}: {_one_line(self.text)}: {_one_line(self.why)}"


@dataclass
class Draft:
    """Sections of keys, tables, and remarks, in the order in which they are written."""

    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    tables: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)

    def hide(self, key: str, value: str) -> None:
        """No remark contains `value` from now on, when `key` is an option with a secret."""
        if value and SECRET_KEY.fullmatch(key):
            self.secrets |= {value, repr(value)[1:-1]}

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

    def table(self, name: str, /, **keys: Any) -> dict[str, Any]:
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
        self._remark(place, text, why, LEFT_OUT)

    def changed(self, place: Place, text: str, why: str) -> None:
        """`text` is carried over, and means something else now; `why` says what."""
        self._remark(place, text, why, CHANGED)

    def not_needed(self, place: Place, text: str, why: str) -> None:
        """`text` has no counterpart, and none is needed."""
        self._remark(place, text, why, NOT_NEEDED)

    def _remark(self, place: Place, text: str, why: str, kind: str) -> None:
        # The longest first, because one secret may be a part of another.
        for secret in sorted(self.secrets, key=len, reverse=True):
            text, why = text.replace(secret, "..."), why.replace(secret, "...")
        self.remarks.append(Remark(place, text, why, kind))

    def render(self, source: str) -> str:
        """The configuration as TOML, with the remarks as comments at the top."""
        lines = [f"# Made from {source} by resolverctl import."]
        for title in (LEFT_OUT, CHANGED, NOT_NEEDED):
            found = [one for one in self.remarks if one.kind == title]
            if found:
                lines += ["#", f"# {title}", *(f"#   {one}" for one in found)]
        top = self.sections.get("", {})
        lines += ["", *(f"{key} = {_literal(value)}" for key, value in top.items())]
        for section, keys in self.sections.items():
            if section and keys:
                lines += ["", f"[{section}]", *(f"{key} = {_literal(value)}" for key, value in keys.items())]
        for name, keys in self.tables:
            lines += ["", f"[[{name}]]", *(f"{key} = {_literal(value)}" for key, value in keys.items())]
        return "\n".join(lines).rstrip() + "\n"


def _literal(value: Any) -> str:
    """`value` as TOML. Tables in a table, as the forward zones of a view, are written inline."""
    from resolver.daemon.config_writer import literal

    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_literal(held)}" for key, held in value.items()) + " }"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + "".join(f"    {_literal(held)},\n" for held in value) + "]"
    return literal(value)


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


def number(value: str) -> int:
    """The number that a statement has as its value.

    Raises:
        ValueError: it is no number, or a negative one.
    """
    if not (value.isascii() and value.isdecimal()):
        raise ValueError(f"{value!r} is not a number")
    return int(value)


def beside(path: str) -> str:
    """A path beside `path` of the other resolver, which may still use that one."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f"resolverd-{name}")
