"""From a TOML file to `resolver.settings.Settings`. `config_writer` writes the file, `config_lines` finds lines.

Nothing in the file is ignored. An unknown key, a wrong type or a value out of range is an error that names the file,
the line and the path of the key; all errors of a file are reported at once. The classes in `settings` are the schema:
keys are field names with dashes. msgspec (error texts for values), difflib and the scanner of `config_lines` are used
only when the file has an error.
"""

import codecs
import os
import re
import sys
import tomllib
import types
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_origin, get_type_hints

from resolver import hints, limits
from resolver.daemon.config_lines import KeyPath, LineMap, find_lines
from resolver.options import check_path
from resolver.regular_file import irregular_kind, open_regular
from resolver.settings import HostEntry, RootServer, Settings

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "ConfigError",
    "Problem",
    "add_location",
    "files_read",
    "load",
    "parse",
    "parse_duration",
    "parse_size",
]

FILE_KEYS: dict[KeyPath, str] = {
    ("root-hints-file",): "File of root servers in zone file format (named.root), instead of root-hints.",
    ("dnssec", "trust-anchors-file"): "File of DS or DNSKEY records in zone file format, instead of trust-anchors.",
}
"""Keys that name a file whose content becomes the value of another setting."""

WORDS = types.MappingProxyType(
    {
        "array": "a list",
        "bool": "true or false",
        "dict": "a table",
        "float": "a number",
        "int": "a whole number",
        "list": "a list",
        "object": "a table",
        "str": "text",
    }
)
"""Names of the types of TOML in error messages, by their names in Python and msgspec."""


class Problem(NamedTuple):
    """One error in a configuration file. `line` is 0 when it concerns the whole file."""

    path: str
    line: int
    message: str


class ConfigError(ValueError):
    """A configuration that cannot be used, with all its errors."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.source = source
        self.problems = sorted(problems, key=lambda problem: problem.line)
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """One line of text for each error: ``file:line: key: message``."""
        return [
            f"{self.source}:{f'{p.line}:' if p.line else ''} {f'{p.path}: ' if p.path else ''}{p.message}"
            for p in self.problems
        ]


# --- reading ------------------------------------------------------------------------------------------------------


def load(path: "str | Path") -> Settings:
    """Read a configuration file.

    Raises:
        ConfigError: the file cannot be read or has errors.
    """
    name = os.fspath(path)
    return parse(_read(name, name, "", 0), source=name, directory=os.path.dirname(name))


def parse(text: str, *, source: str = "configuration", directory: "str | Path" = "") -> Settings:
    """Turn TOML text into settings. File names in it are relative to `directory`.

    Raises:
        ConfigError: with key and line of each error.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        message = re.sub(r" \(at .*\)$", "", str(error))
        raise ConfigError(source, [Problem("", line, f"this is not TOML: {message}")]) from None
    except RecursionError:
        raise ConfigError(source, [Problem("", 0, "arrays or tables are nested too deeply")]) from None
    except ValueError:
        raise ConfigError(source, [_endless_number(text)]) from None
    reader = _Reader(source, directory, text)
    settings = reader.table(Settings, tree, ())
    if reader.problems or settings is None:
        raise ConfigError(source, reader.problems)
    result: Settings = settings
    return result


def files_read(path: "str | Path") -> list[tuple[str, str]]:
    """The files of `FILE_KEYS` that the configuration file names, each after its key.

    Raises:
        ConfigError: the configuration file cannot be read.
        ValueError: it is not TOML, because it was changed after `load`.
    """
    name = os.fspath(path)
    found = []
    tree = tomllib.loads(_read(name, name, "", 0))
    for key in FILE_KEYS:
        value: Any = tree
        for part in key:
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, str):
            found.append((_text(key), os.path.join(os.path.dirname(name), value)))
    return found


def add_location(path: "str | Path", error: ValueError) -> ConfigError:
    """`error` of a part that uses the settings, with the line in the file `path` of the setting."""
    if isinstance(error, ConfigError):
        return error
    name = os.fspath(path)
    try:
        text = _read(name, name, "", 0)
        tomllib.loads(text)
    except ValueError:
        text = ""  # the file was changed since and is invalid now
    reader = _Reader(name, os.path.dirname(name), text)
    setting, _, _ = str(error).partition(": ")
    section, dot, _ = setting.partition(".")
    known = {item.name: item for item in fields(Settings)}
    if dot and section in known:
        inner = [item.name.replace("_", "-") for item in fields(get_type_hints(Settings)[section])]
        reader.refused((section.replace("_", "-"),), inner, str(error))
    else:
        reader.refused((), [name.replace("_", "-") for name in known], str(error))
    return ConfigError(name, reader.problems)


def _endless_number(text: str) -> Problem:
    """The error for a number that has more digits than Python converts."""
    most = sys.get_int_max_str_digits()
    found = re.search(rf"[0-9_]{{{most + 1},}}", text)
    line = text.count("\n", 0, found.start()) + 1 if found else 0
    return Problem("", line, f"a number of more than {most} digits")


def _read(path: str, source: str, key: str, line: int) -> str:
    """The text of the file `path`, which `key` names; of the configuration itself when `key` is "".

    Raises:
        ConfigError: it cannot be read, or is no text; the error names `source`, `key` and `line`.
    """
    def refuse(message: str) -> ConfigError:
        return ConfigError(source, [Problem(key, line, message)])

    try:
        # For a text that says what to do; `open_regular` would refuse it, too.
        if kind := irregular_kind(os.stat(path).st_mode):
            raise refuse(f"{path} is {kind}, not a regular file, and each reload reads it again: write its content to a"
                         " file and name that one")
        with open_regular(path) as file:
            data = file.read(limits.CONFIG_FILE_SIZE + 1)
    except OSError as error:
        raise refuse(f"cannot read {path}: {error.strerror}") from None
    if len(data) > limits.CONFIG_FILE_SIZE:
        raise refuse(f"{path} is larger than {limits.CONFIG_FILE_SIZE} bytes")
    if data.startswith(codecs.BOM_UTF8):
        # tomllib would complain of an invalid statement in a line that looks right.
        rule = "" if key else ", which TOML 1.0 does not permit"
        raise refuse(f"{path} begins with a byte order mark (BOM){rule}: save it as UTF-8 without a BOM")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise refuse(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None


class _Reader:
    """Converts a parsed tree into the classes and collects all errors."""

    def __init__(self, source: str, directory: "str | Path", text: str) -> None:
        self.source, self.directory, self.text = source, directory, text
        self.problems: list[Problem] = []

    @cached_property
    def lines(self) -> LineMap:
        """The lines of keys and list elements."""
        return find_lines(self.text)

    def line(self, path: KeyPath) -> int:
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)

    def complain(self, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(_text(path), self.line(path), message))

    def table(self, kind: Any, tree: Any, path: KeyPath) -> Any:
        """An instance of the dataclass `kind`, or None after an error."""
        if not isinstance(tree, dict):
            self.complain(path, f"expected a table, got {_kind_of(tree)}")
            return None
        started = len(self.problems)
        known = {item.name.replace("_", "-"): item for item in fields(kind)}
        annotations = get_type_hints(kind)
        values: dict[str, Any] = {}
        for key, value in tree.items():
            where = (*path, key)
            if where in FILE_KEYS:
                self.file(where, value, tree, values)
            elif key not in known:
                extra = [str(k[-1]) for k in FILE_KEYS if k[:-1] == path]
                self.complain(where, "unknown key" + _suggest(key, [*known, *extra]))
            else:
                item = known[key]
                before = len(self.problems)
                found = self.value(annotations[item.name], value, where, item.metadata.get("kind", ""))
                if len(self.problems) == before:
                    values[item.name] = found
        try:
            made = kind(**values)
        except ValueError as error:
            self.refused(path, known, str(error))
        return made if len(self.problems) == started else None

    def refused(self, path: KeyPath, known: Iterable[str], message: str) -> None:
        """Report an error raised by a class. Its message begins with the setting's name and quotes the value."""
        name, _, rest = message.partition(": ")
        parts = [part.replace("_", "-") for part in name.split(" ")[0].split(".")]
        where = next(((*path, part) for part in parts if part in known), path)
        if where != path and parts[0] == where[-1] and (*where, *parts[1:2]) in self.lines:
            where = (*where, *parts[1:2])  # a setting of a section, refused by what knows all sections
        what = rest if where != path else message
        wrong = _first_quoted(rest)
        if wrong is not None:
            found = [at for at, text in self.lines.texts.items() if text == wrong and at[: len(where)] == where]
            where = (*where, wrong) if (*where, wrong) in self.lines else next(iter(found), where)
        self.complain(where, what)

    def value(self, annotation: Any, value: Any, path: KeyPath, kind: str) -> Any:
        if is_dataclass(annotation):
            return self.table(annotation, value, path)
        if get_origin(annotation) is tuple:
            inner = get_args(annotation)[0]
            if inner is HostEntry and isinstance(value, dict):
                return tuple(
                    HostEntry(name, self.leaf(tuple[str, ...], _listed(given), (*path, name)))
                    for name, given in value.items()
                )
            if is_dataclass(inner) or inner in (RootServer, HostEntry):
                if not isinstance(value, list):
                    self.complain(path, f"expected an array of tables, got {_kind_of(value)}")
                    return ()
                entries = [self.entry(inner, one, (*path, index)) for index, one in enumerate(value)]
                return tuple(entry for entry in entries if entry is not None)
        if kind in ("files", "texts"):
            return self.leaf(annotation, _listed(value), path)
        if kind and isinstance(value, str):
            try:
                value = parse_size(value) if kind == "bytes" else parse_duration(value)
            except ValueError as error:
                self.complain(path, str(error))
                return 0
        if annotation is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        return self.leaf(annotation, value, path)

    def entry(self, kind: Any, value: Any, path: KeyPath) -> Any:
        """One table of an array: a dataclass, or a named tuple with name and addresses."""
        if is_dataclass(kind):
            return self.table(kind, value, path)
        if not isinstance(value, dict):
            self.complain(path, f"expected a table with name and addresses, got {_kind_of(value)}")
            return None
        for key in value.keys() - {"name", "addresses"}:
            self.complain((*path, key), "unknown key" + _suggest(key, ["name", "addresses"]))
        if "name" not in value:
            self.complain(path, "the name is missing")
            return None
        name = self.leaf(str, value["name"], (*path, "name"))
        addresses = self.leaf(tuple[str, ...], value.get("addresses", []), (*path, "addresses"))
        return kind(name, addresses)

    def leaf(self, annotation: Any, value: Any, path: KeyPath) -> Any:
        if type(value) is annotation:
            return value
        if annotation is float and type(value) is int:
            return float(value)
        if get_origin(annotation) is tuple and type(value) is list and all(
            type(one) is get_args(annotation)[0] for one in value
        ):
            return tuple(value)
        import msgspec

        try:
            return msgspec.convert(value, annotation)
        except msgspec.ValidationError as error:
            message, _, place = str(error).partition(" - at ")
            index = re.search(r"\[(\d+)\]", place)
            where = (*path, int(index[1])) if index else path
            wanted = re.fullmatch(r"Expected `([a-z]+)`, got `([a-z]+)`", message)
            if wanted:
                message = f"expected {WORDS.get(wanted[1], wanted[1])}, got {WORDS.get(wanted[2], wanted[2])}"
            self.complain(where, message)
            return () if get_origin(annotation) is tuple else None

    def file(self, path: KeyPath, value: Any, tree: Mapping[str, Any], values: dict[str, Any]) -> None:
        """Read the file that a key of `FILE_KEYS` names into its setting."""
        name = self.leaf(str, value, path)
        if name is None:
            return
        plain = str(path[-1]).removesuffix("-file")
        if plain in tree:
            self.complain(path, f"{plain} is also set; remove one of the two")
            return
        try:
            check_path(name, _text(path))
        except ValueError:
            self.complain(path, f"{name!r} is no file name")
            return
        try:
            text = _read(os.path.join(self.directory, name), self.source, _text(path), 0)
        except ConfigError as error:
            self.problems += [problem._replace(line=self.line(path)) for problem in error.problems]
            return
        try:
            if plain == "root-hints":
                values["root_hints"] = tuple(RootServer(*server) for server in hints.parse_hints(text))
            else:
                values["trust_anchors"] = hints.parse_anchors(text)
        except ValueError as error:
            self.complain(path, f"{name}: {error}")


_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")


def _first_quoted(message: str) -> str | None:
    """The first quoted text in `message`, unquoted."""
    import ast

    quoted = _QUOTED.search(message)
    try:
        return str(ast.literal_eval(quoted[0])) if quoted else None
    except (SyntaxError, ValueError):
        return None  # the quotes were apostrophes


def _text(path: KeyPath) -> str:
    parts: list[str] = []
    for key in path:
        if isinstance(key, int):
            parts[-1] += f"[{key}]"
        else:
            parts.append(key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"')
    return ".".join(parts)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _kind_of(value: Any) -> str:
    return WORDS.get(type(value).__name__, type(value).__name__)


def _suggest(key: str, known: Iterable[str]) -> str:
    import difflib

    known = list(known)
    close = difflib.get_close_matches(key.replace("_", "-").lower(), known, 1, 0.6)
    return f'; did you mean "{close[0]}"?' if close else f"; known here: {', '.join(sorted(known))}"


SIZES = types.MappingProxyType({
    "": 1, "b": 1, "kb": 1000, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
    "k": 1 << 10, "m": 1 << 20, "g": 1 << 30,
})
DURATIONS = types.MappingProxyType({
    "": 1.0, "ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0,
})


def parse_size(text: str) -> int:
    """Read ``256 MiB``, ``1.5g`` or ``65536`` as bytes.

    Raises:
        ValueError: `text` has none of these forms.
    """
    return round(_measure(text, SIZES, 'a size such as "256 MiB"'))


def parse_duration(text: str) -> float:
    """Read ``1 d``, ``1800 ms``, ``1h 30m`` or ``90`` as seconds.

    Raises:
        ValueError: `text` has none of these forms.
    """
    return _measure(text, DURATIONS, 'a time such as "90 s" or "1 d"')


_PART = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)")


def _measure(text: str, units: Mapping[str, float], wanted: str) -> float:
    """The sum of parts such as ``1h 30m``. A number without unit must be the only part."""
    total = 0.0
    position = 0
    shown, text = text[:40], text.rstrip()
    while position < len(text) or not position:
        part = _PART.match(text, position)
        if part is None or (not part[2] and part.end() - part.start() < len(text)):
            raise ValueError(f"{shown!r} is not {wanted}")
        if part[2].lower() not in units:
            raise ValueError(f"{shown!r} is not {wanted}: units are {', '.join(filter(None, units))}")
        total += float(part[1]) * units[part[2].lower()]
        position = part.end()
    return total
