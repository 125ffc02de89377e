"""The line of each key of a TOML file, for errors. tomllib keeps no line numbers.

The scanner reads text that tomllib has accepted, and only when the file has an error.
"""

import re
import tomllib

__all__ = ["KeyPath", "LineMap", "find_lines"]

KeyPath = tuple[str | int, ...]


class LineMap(dict[KeyPath, int]):
    """Line of each key and list element by path; `texts` has the text of each scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[KeyPath, str] = {}


_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")|\'\'\'.*?\'{3,5}(?!\')|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'', re.DOTALL
)
_SPACE = re.compile(r"(?:\s|#[^\n]*)*")
_BLANK = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]\}#\n]*")


class _Scanner:
    """Scans TOML text that tomllib has accepted and notes the line of each key."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.lines = LineMap()
        self.arrays: dict[KeyPath, int] = {}

    def line(self) -> int:
        return self.text.count("\n", 0, self.position) + 1

    def skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.position)
        if found is None:
            return ""
        self.position = found.end()
        return found[0]

    def at(self, text: str) -> bool:
        return self.text.startswith(text, self.position)

    def key(self) -> KeyPath:
        """Read a bare, quoted or dotted key."""
        parts: list[str] = []
        while True:
            self.skip(_BLANK)
            quoted = self.skip(_STRING)
            part = _unquoted(quoted) if quoted else self.skip(_BARE)
            parts.append(part)
            self.skip(_BLANK)
            if not self.at("."):
                return tuple(parts)
            self.position += 1

    def resolve(self, key: KeyPath) -> KeyPath:
        """The path of a header, with the index of the current element after each array of tables."""
        path: KeyPath = ()
        for part in key:
            path = (*path, part)
            if path in self.arrays:
                path = (*path, self.arrays[path])
        return path

    def run(self) -> LineMap:
        base: KeyPath = ()
        while True:
            self.skip(_SPACE)
            if self.position >= len(self.text):
                return self.lines
            before, line = self.position, self.line()
            if self.at("[["):
                self.position += 2
                key = self.key()
                outer = (*self.resolve(key[:-1]), key[-1])
                self.arrays[outer] = self.arrays.get(outer, -1) + 1
                base = (*outer, self.arrays[outer])
                self.lines.setdefault(outer, line)
                self.lines[base] = line
                self.position += 2
            elif self.at("["):
                self.position += 1
                base = self.resolve(self.key())
                self.lines.setdefault(base, line)
                self.position += 1
            else:
                self.pair(base)
            if self.position <= before:
                raise ValueError(f"line {line}: no key where one was expected")

    def pair(self, base: KeyPath) -> None:
        line = self.line()
        path: KeyPath = base
        for part in self.key():
            path = (*path, part)
            self.lines.setdefault(path, line)
        self.skip(_BLANK)
        self.position += 1  # the equals sign
        self.value(path)

    def value(self, path: KeyPath) -> None:
        """Skip a value and note the text of a scalar."""
        self.skip(_SPACE)
        if self.at("["):
            self.position += 1
            index = 0
            while True:
                self.skip(_SPACE)
                if self.at("]") or self.position >= len(self.text):
                    self.position += 1
                    return
                element = (*path, index)
                self.lines[element] = self.line()
                self.value(element)
                index += 1
                self.skip(_SPACE)
                if self.at(","):
                    self.position += 1
        if self.at("{"):
            self.position += 1
            while True:
                self.skip(_SPACE)
                if self.at("}") or self.position >= len(self.text):
                    self.position += 1
                    return
                self.pair(path)
                self.skip(_SPACE)
                if self.at(","):
                    self.position += 1
        quoted = self.skip(_STRING)
        self.lines.texts[path] = _unquoted(quoted) if quoted else self.skip(_SCALAR).strip()


def _unquoted(text: str) -> str:
    value: str = tomllib.loads(f"x = {text}")["x"]
    return value


def find_lines(text: str) -> LineMap:
    """Find the line of every key, table and list element in TOML text that tomllib accepts."""
    return _Scanner(text.replace("\r\n", "\n")).run()
