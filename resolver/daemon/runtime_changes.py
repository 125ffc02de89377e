"""Run-time changes: negative trust anchors, forward and stub zones and local data that resolverctl adds to a running
daemon, and the file that keeps them over a restart.

A change is a value. All changes together are a `RuntimeChanges`, which is immutable: adding and removing make a new
one. `applied_to` turns the settings of the configuration into those that are in force. So a change is checked as the
same lines in a configuration file would be, and there is no second way into the resolver.

The file has a line with its version, a line of JSON for each change, and a last line with their number and checksum. It
is replaced as a whole. A file that is damaged is never overwritten.
"""

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from resolver import limits
from resolver.api import to_wire
from resolver.daemon.cache_file import replace_file
from resolver.regular_file import open_regular
from resolver.settings import ForwardZone, Settings, StubZone, replace
from resolver.wire import name as names

__all__ = [
    "FORWARD", "KINDS", "LOCAL_DATA", "NTA", "SETTING", "Change", "ChangeFileError", "RuntimeChanges", "candidate_of",
    "check", "in_force", "make_change", "read", "render",
]

SETTING = "control.changes-file"
VERSION = 1
HEAD = f"resolverd-changes {VERSION}"
FAMILY = "resolverd-changes "
END = "end "

NTA, FORWARD, STUB, LOCAL_DATA = KINDS = ("nta", "forward", "stub", "local-data")
"""The kinds of changes."""
ZONES = frozenset({FORWARD, STUB})


class ChangeFileError(ValueError):
    """The file cannot be used; the text says why, with the line."""


class Change(NamedTuple):
    """One change. `name` is a zone, or the owner of a record: lower case, with a final dot.

    `values` are the addresses of servers, or one record in presentation format. `until` is the end of a negative trust
    anchor in seconds since 1970, 0 for other kinds. `reason` is for people. `check`: whether it is tested now and then
    if the zone validates again, which ends the anchor. `first`: iterate when no server of a forward or stub zone
    answers.
    """

    kind: str
    name: str
    values: tuple[str, ...] = ()
    until: int = 0
    reason: str = ""
    check: bool = False
    first: bool = False

    @property
    def identity(self) -> tuple[str, ...]:
        """Two changes with this value in common cannot both be in force: the later one replaces the earlier."""
        if self.kind in ZONES:
            return ("zone", self.name)
        return (self.kind, self.name, *(self.values if self.kind == LOCAL_DATA else ()))

    @property
    def negative_anchor(self) -> str:
        """The value of `dnssec.negative-trust-anchors`, with its end."""
        return f"{self.name} {self.until}"

    @property
    def origin(self) -> bytes:
        """`name` in wire form."""
        return to_wire(self.name)

    def __str__(self) -> str:
        return " ".join((self.kind, *(self.values if self.kind == LOCAL_DATA else (self.name, *self.values))))


def make_change(
    kind: str, name: str, values: Iterable[str] = (), *, until: int = 0, reason: str = "", check: bool = False,
    first: bool = False,
) -> Change:
    """A change with a name in the form that `Change` wants.

    Raises:
        ValueError: a part is wrong; the text says which.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is not one of {', '.join(KINDS)}")
    given = tuple(values)
    if kind in ZONES and not given:
        raise ValueError(f"{kind}: give at least one address of a server of {name!r}")
    if kind == LOCAL_DATA:
        # Each line of several would be a record of its own, of which only the first would be listed, flushed, removed.
        if len(given) != 1 or len(given[0].split()) < 2 or len(given[0].splitlines()) > 1:
            raise ValueError('local-data: give one record, for example "www.example.com. 300 IN A 192.0.2.1"')
        name = given[0].split()[0]
    elif len(reason) > limits.CHANGE_REASON:
        raise ValueError(f"{kind}: the reason has more than {limits.CHANGE_REASON} characters")
    try:
        plain = _plain(name)
        if kind == FORWARD:
            ForwardZone(plain, given, forward_first=first)
        elif kind == STUB:
            StubZone(plain, given, stub_first=first)
    except ValueError as error:
        raise ValueError(f"{kind}: {error}") from None
    if kind == NTA and until <= 0:
        raise ValueError("nta: it has no end")
    return Change(kind, plain, given, until, reason, check, first)


def in_force(settings: Settings) -> Settings:
    """`settings` with the changes in their file; without them when they cannot be used, as a worker that starts."""
    try:
        return RuntimeChanges.load(settings.control.changes_file).applied_to(settings)
    except ValueError:
        return settings


class RuntimeChanges:
    """All changes, in the order in which they were made. `path` is their file; None: there is none.

    `trouble` says why the file cannot be used, with its name; empty when it can. With trouble the file is never
    replaced, and nothing may be changed, except that negative trust anchors end in time. The first worker's are those
    of the daemon: the others take them when it or one of them is started anew (`WorkerAlignment`).
    """

    def __init__(self, path: Path | None = None, entries: Iterable[Change] = (), trouble: str = "") -> None:
        self.path = path
        self.entries = tuple(entries)
        self.trouble = trouble

    @classmethod
    def load(cls, file: str, before: "RuntimeChanges | None" = None) -> "RuntimeChanges":
        """The changes in `file`; none when it is empty or does not exist.

        When the file is damaged, the result has those of `before` if they had the same file, and `trouble`.
        """
        if not file:
            return cls()
        path = Path(file)
        try:
            return cls(path, read(path))
        except FileNotFoundError:
            return cls(path)
        except ChangeFileError as error:
            kept = before.entries if before is not None and before.path == path else ()
            trouble = f"{SETTING}: {file}: {error}; restore the file from a copy or remove it, then reload"
            return cls(path, kept, trouble)

    def add(self, change: Change) -> "RuntimeChanges":
        """With `change`, instead of one that it replaces.

        Raises:
            ValueError: there are too many.
        """
        kept = [one for one in self.entries if one.identity != change.identity]
        if len(kept) >= limits.CHANGES:
            raise ValueError(f"there are {len(kept)} run-time changes, the most there may be; put them into the"
                             " configuration")
        return RuntimeChanges(self.path, (*kept, change), self.trouble)

    def remove(self, gone: Iterable[Change]) -> "RuntimeChanges":
        """Without those in `gone`."""
        out = set(gone)
        return RuntimeChanges(self.path, (one for one in self.entries if one not in out), self.trouble)

    def find(self, kind: str, name: str, rtype: str = "") -> list[Change]:
        """The changes of `kind` for `name`, for local data also of the type `rtype`.

        Raises:
            ValueError: there is none, or `name` is no name.
        """
        plain = _plain(name)
        found = [one for one in self.entries if one.kind == kind and one.name == plain]
        if rtype:
            found = [one for one in found if rtype.upper() in [word.upper() for word in one.values[0].split()[1:4]]]
        if not found:
            what = f"{plain} {rtype}".rstrip()
            raise ValueError(f"{kind}: {what} was not added at run time; what the configuration has is removed there")
        return found

    def applied_to(self, settings: Settings) -> Settings:
        """`settings` with the changes. A forward or stub zone replaces one of the same name.

        Raises:
            ValueError: a change does not go with the settings; the text names the setting.
        """
        if not self.entries:
            return settings
        zones = {one.name for one in self.entries if one.kind in ZONES}
        return replace(
            settings,
            dnssec=replace(settings.dnssec, negative_trust_anchors=(
                *settings.dnssec.negative_trust_anchors,
                *(one.negative_anchor for one in self.entries if one.kind == NTA))),
            forward=(
                *(zone for zone in settings.forward if _plain(zone.zone) not in zones),
                *(ForwardZone(one.name, one.values, forward_first=one.first)
                  for one in self.entries if one.kind == FORWARD),
            ),
            stub=(
                *(zone for zone in settings.stub if _plain(zone.zone) not in zones),
                *(StubZone(one.name, one.values, stub_first=one.first) for one in self.entries if one.kind == STUB),
            ),
            policy=replace(settings.policy, local_data=(
                *settings.policy.local_data, *(one.values[0] for one in self.entries if one.kind == LOCAL_DATA))),
        )

    def write(self, path: Path) -> None:
        """Write the file `path`, which is that of the changes or another one.

        Raises:
            ChangeFileError: the file of the changes is damaged, so it is kept.
            CacheFileError: it cannot be written; the text names file and reason.
        """
        if self.trouble and path == self.path:
            raise ChangeFileError(self.trouble)
        replace_file(path, [render(self.entries).encode()])


def _plain(zone: str) -> str:
    return names.to_text(names.lower(to_wire(zone)))


def check(file: str) -> None:
    """Check that the file of the changes can be used.

    Raises:
        ValueError: it cannot; the text names the setting and the reason.
    """
    changes = RuntimeChanges.load(file)
    if changes.trouble:
        raise ValueError(changes.trouble.replace(SETTING, "control.changes_file", 1))
    if changes.path is not None and not changes.path.parent.is_dir():
        raise ValueError(f"control.changes_file: the directory of {file!r} does not exist")


def candidate_of(path: Path) -> Path:
    """The file with changes that are not in force yet."""
    return path.with_name(f"{path.name}.next")


# --- the file -----------------------------------------------------------------------------------------------------


def render(entries: Iterable[Change]) -> str:
    """The content of the file."""
    lines = [json.dumps(one._asdict()) for one in entries]
    return "".join(f"{line}\n" for line in (HEAD, *lines, f"{END}{len(lines)} {_checksum(lines)}"))


def read(path: Path) -> tuple[Change, ...]:
    """The changes in a file.

    Raises:
        FileNotFoundError: there is no file.
        ChangeFileError: it cannot be read or is damaged.
    """
    try:
        with open_regular(path) as file:
            data = file.read(limits.CHANGES_FILE + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ChangeFileError(error.strerror or str(error)) from None
    if len(data) > limits.CHANGES_FILE:
        raise ChangeFileError(f"it is larger than {limits.CHANGES_FILE} bytes")
    return parse(data)


def parse(data: bytes) -> tuple[Change, ...]:
    """The changes in the content of a file.

    Raises:
        ChangeFileError: it is damaged.
    """
    try:
        lines = data.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise ChangeFileError(f"line {data[: error.start].count(10) + 1}: it is no text") from None
    if lines[0] != HEAD:
        if lines[0].startswith(FAMILY):
            version = lines[0][len(FAMILY):]
            raise ChangeFileError(f"line 1: it has version {version!r}, and this program reads {VERSION}")
        raise ChangeFileError("line 1: it is no file of run-time changes")
    if len(lines) < 3 or lines[-1] or lines[-2] != f"{END}{len(lines) - 3} {_checksum(lines[1:-2])}":
        raise ChangeFileError(f"line {max(len(lines) - 1, 1)}: the number or the checksum of the lines is wrong")
    if len(lines) - 3 > limits.CHANGES:
        raise ChangeFileError(f"it has more than {limits.CHANGES} changes")
    return tuple(_entry(number, line) for number, line in enumerate(lines[1:-2], 2))


def _entry(number: int, line: str) -> Change:
    try:
        found = json.loads(line)
        _check_fields(found)
        return make_change(found["kind"], found["name"], found["values"], until=found["until"], reason=found["reason"],
                           check=found["check"], first=found["first"])
    except (ValueError, RecursionError) as error:
        raise ChangeFileError(f"line {number}: {error}") from None


def _check_fields(found: Any) -> None:
    if not isinstance(found, Mapping) or tuple(found) != Change._fields:
        raise ValueError(f"it is no object with {', '.join(Change._fields)}")
    for name, kind in (("kind", str), ("name", str), ("values", list), ("until", int), ("reason", str), ("check", bool),
                       ("first", bool)):
        if type(found[name]) is not kind:
            raise ValueError(f"{name} is no {kind.__name__}")
    if not all(isinstance(value, str) for value in found["values"]):
        raise ValueError("values has something that is no text")


def _checksum(lines: Iterable[str]) -> str:
    return f"{zlib.crc32(chr(10).join(lines).encode()):08x}"
