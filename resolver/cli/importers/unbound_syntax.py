"""The syntax of ``unbound.conf`` (unbound.conf(5)): sections, keys and values, with included files.

A statement is ``key: value``, of which a section is one without a value. A value is quoted or not and may be several
words, as those of ``local-zone``.
"""

import glob
import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from resolver import limits
from resolver.cli.importers.draft import ImportFailure, Place, number, read_text

__all__ = ["SECTIONS", "Statement", "endpoint", "flag", "milliseconds", "size", "statements"]

_WORD = re.compile(r'"([^"\n]*)"|\'([^\'\n]*)\'|([^\s"\']+)')
_SIZE = re.compile(r"(\d+)\s*([kmg]?)b?", re.IGNORECASE)
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30}
SECTIONS = frozenset({
    "server", "stub-zone", "forward-zone", "auth-zone", "view", "remote-control", "python", "dynlib", "dnscrypt",
    "cachedb", "rpz", "ipset", "dnstap",
})


class Statement(NamedTuple):
    """One ``key: value``."""

    place: Place
    key: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return f"{self.key}: {' '.join(self.words)}".rstrip()


def statements(path: str, depth: int = 0) -> Iterator[Statement]:
    """All statements of `path` and of the files that it includes.

    Raises:
        ImportFailure: a file cannot be read, a line is no statement, or files include each other.
    """
    if depth > limits.IMPORT_DEPTH:
        raise ImportFailure(f"{path}: more than {limits.IMPORT_DEPTH} files include each other")
    for count, line in enumerate(read_text(path).splitlines(), 1):
        place = Place(path, count)
        for statement in _of_line(place, line):
            if statement.key not in ("include", "include-toplevel"):
                yield statement
                continue
            for pattern in statement.words:
                for name in sorted(glob.glob(str(Path(path).parent / pattern))):
                    yield from statements(name, depth + 1)


def _of_line(place: Place, line: str) -> Iterator[Statement]:
    """The statements of a line: usually one; several when a section and its keys share the line."""
    words: list[tuple[str, bool]] = []
    for found in _WORD.finditer(line):
        bare = found[3]
        if bare is not None and bare.startswith("#"):
            break
        words.append((bare, False) if bare is not None else (found[1] if found[1] is not None else found[2], True))
    key = ""
    values: list[str] = []
    for word, quoted in words:
        # An IPv6 address ends with a colon at most in "::", and no key has one inside.
        if not quoted and word.endswith(":") and not word.endswith("::") and (not key or key in SECTIONS):
            if key:
                yield Statement(place, key, ())
            key, values = word[:-1].lower(), []
        elif not key:
            raise ImportFailure(f"{place}: {word!r} is no key; a statement is \"key: value\"")
        else:
            values.append(word)
    if key:
        yield Statement(place, key, tuple(values))


def flag(value: str) -> bool:
    if value.lower() not in ("yes", "no"):
        raise ValueError(f"{value!r} is neither yes nor no")
    return value.lower() == "yes"


def size(value: str) -> int:
    found = _SIZE.fullmatch(value)
    if found is None:
        raise ValueError(f"{value!r} is not a size")
    return int(found[1]) << _UNITS[found[2].lower()]


def milliseconds(value: str) -> float:
    return number(value) / 1000


def endpoint(text: str) -> str:
    """``address@port#name`` as resolverd writes it; with a name it is reached over TLS.

    Raises:
        ValueError: it is not an address.
    """
    host, _, name = text.partition("#")
    host, _, port = host.partition("@")
    address = ipaddress.ip_address(host)
    where = f"[{address}]" if address.version == 6 and (port or name) else str(address)
    where += f":{number(port)}" if port else ""
    return f"tls://{where}#{name}" if name else where
