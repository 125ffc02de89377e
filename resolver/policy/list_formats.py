"""Readers of block and allow lists: hosts files, plain domains, adblock filters. Policy zones are read by `rpz_text`.

A reader is fed the bytes of a list in pieces of any size and compiles them as they come, so a list is never in memory
as a whole. Bad lines are counted and the first ones are kept with number and reason; the others apply.
`ListReader.close` refuses a list that is mostly wrong, because it is another format or an error page, and the list
before should stay.

| format | line | meaning |
|---|---|---|
| hosts | ``0.0.0.0 name ...`` | the names alone; an address other than a null or loopback address is an error |
| domains | ``name`` | the name and all names below |
|  | ``*.name`` | all names below |
| adblock | ``||name^`` | the name and all names below |
|  | ``@@||name^`` | an exception: the name and all names below are not blocked |

Comments begin with ``#`` (hosts, domains) or ``!`` (adblock, domains). Adblock rules that are not about a whole host
name are unsupported: they are counted and have no effect.
"""

import re
from ipaddress import ip_address
from typing import NamedTuple

from resolver import limits
from resolver.policy.name_table import NameTable, NameTableBuilder, TableFullError

__all__ = ["FORMATS", "CompiledList", "ListReader", "ListReport", "detect_format"]

FORMATS = ("hosts", "domains", "adblock", "rpz")

# Names of hosts files that are about the host itself, as in the head of most published lists.
_OWN_NAMES = frozenset({
    "localhost", "localhost.localdomain", "local", "broadcasthost", "ip6-localhost", "ip6-loopback", "ip6-localnet",
    "ip6-mcastprefix", "ip6-allnodes", "ip6-allrouters", "ip6-allhosts", "0.0.0.0",
})
_NULL_ADDRESSES = frozenset({"0.0.0.0", "127.0.0.1", "::", "::1", "0", "::0"})
_ADBLOCK = re.compile(r"(@@)?\|\|(\*\.)?([^/^$|*]+)\^(?:\$important)?\|?")
_NO_NAME = re.compile(r"[\s\\/:,;]")
_RPZ = re.compile(rb"^\$TTL|^\$ORIGIN|\sSOA\s|\sCNAME\s", re.MULTILINE | re.IGNORECASE)


class ListReport(NamedTuple):
    """What was read: lines, entries that took effect (blocked and exceptions), and lines without effect.

    `errors` are the first ``(line number, reason)``; `error_count` counts all.
    """

    lines: int = 0
    names: int = 0
    exceptions: int = 0
    duplicates: int = 0
    unsupported: int = 0
    error_count: int = 0
    errors: tuple[tuple[int, str], ...] = ()


class CompiledList(NamedTuple):
    """A list that is ready for look-ups: a name in `blocked` matches unless it is in `allowed`."""

    blocked: NameTable
    allowed: NameTable
    report: ListReport

    def matches(self, name: bytes) -> bool:
        """Whether a wire name is on the list and no exception holds for it."""
        return self.blocked.find(name) != 0 and self.allowed.find(name) == 0


class ListReader:
    """Reads one list of a format of `FORMATS`, without ``rpz``. `key` is 16 secret random bytes for the tables."""

    def __init__(
        self, form: str, key: bytes, *, most_names: int = limits.LIST_NAMES.default,
        most_bytes: int = limits.LIST_BYTES.default,
    ) -> None:
        """Raises:
        ValueError: the format is unknown, or a bound is outside its limit.
        """
        take = {"hosts": self._take_hosts, "domains": self._take_domain, "adblock": self._take_adblock}.get(form)
        if take is None:
            raise ValueError(f"list format: {form!r} is not one of {', '.join(FORMATS[:3])}")
        self._take = take
        self._blocked = NameTableBuilder(key, most_names=most_names)
        self._allowed = NameTableBuilder(key, most_names=most_names)
        self._left = limits.LIST_BYTES.check(most_bytes, "most_bytes")
        self._rest = b""
        self._skipping = False
        self._lines = self._duplicates = self._unsupported = self._error_count = 0
        self._errors: list[tuple[int, str]] = []

    def feed(self, data: bytes) -> None:
        """Read the next bytes.

        Raises:
            ValueError: the list has more bytes or names than permitted.
        """
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("the list has more bytes than permitted")
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if lines and self._skipping:
            # The end of a line that was too long and has been reported.
            lines[0], self._skipping = b"", False
            self._lines -= 1
        for line in lines:
            self._line(line)
        if len(self._rest) > limits.LIST_LINE:
            if not self._skipping:
                self._line(self._rest)
            self._rest, self._skipping = b"", True

    def close(self) -> CompiledList:
        """The compiled list, after the last byte.

        Raises:
            ValueError: it has no entry, or too many of its lines are wrong.
        """
        if self._rest and not self._skipping:
            self._line(self._rest)
        self._rest = b""
        report = ListReport(self._lines, len(self._blocked), len(self._allowed), self._duplicates, self._unsupported,
                            self._error_count, tuple(self._errors))
        entries = report.names + report.exceptions + report.duplicates
        if not entries or report.error_count * 100 > limits.LIST_ERRORS_PERCENT * (entries + report.error_count):
            first = f"; line {self._errors[0][0]}: {self._errors[0][1]}" if self._errors else ""
            raise ValueError(f"not a list of this format: {entries} entries, {report.error_count} wrong lines{first}")
        return CompiledList(self._blocked.finish(), self._allowed.finish(), report)

    # --- lines --------------------------------------------------------------------------------------------------------

    def _line(self, line: bytes) -> None:
        self._lines += 1
        if len(line) > limits.LIST_LINE:
            self._report(f"the line is longer than {limits.LIST_LINE} bytes")
            return
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError:
            self._report("the line is not UTF-8")
            return
        if text.startswith("\ufeff"):
            text = text[1:]
        if text:
            self._take(text)

    def _take_hosts(self, text: str) -> None:
        fields = text.partition("#")[0].split()
        if not fields:
            return
        if fields[0] not in _NULL_ADDRESSES and not _is_address(fields[0]):
            self._report(f"{fields[0][:60]!r} is not an address")
        elif fields[0] in _NULL_ADDRESSES:
            for name in fields[1:]:
                if name.lower() not in _OWN_NAMES:
                    self._add(self._blocked, name, 1, 0)
        elif any(name.lower() not in _OWN_NAMES for name in fields[1:]):
            self._report(f"{fields[0]} is not a null address, so the line does not block")

    def _take_domain(self, text: str) -> None:
        if text[0] in "#!":
            return
        name = text.partition("#")[0].rstrip()
        if name.startswith("*."):
            self._add(self._blocked, name[2:], 0, 1)
        else:
            self._add(self._blocked, name, 1, 1)

    def _take_adblock(self, text: str) -> None:
        if text[0] == "!" or (text[0] == "[" and text[-1] == "]"):
            return
        found = _ADBLOCK.fullmatch(text)
        if found is None:
            self._unsupported += 1
            return
        exception, wildcard, name = found.groups()
        self._add(self._allowed if exception else self._blocked, name, 0 if wildcard else 1, 1)

    def _add(self, table: NameTableBuilder, name: str, exact: int, below: int) -> None:
        if not name.isascii():
            try:
                name = _ascii(name)
            except ValueError as error:
                self._report(f"{name[:60]!r} is not a name: {error}")
                return
        if name in (".", "") or _NO_NAME.search(name):
            self._report(f"{name[:60]!r} is not a name")
            return
        try:
            added = table.add_text(name, exact, below)
        except TableFullError:
            raise
        except ValueError as error:
            self._report(f"{name[:60]!r} is not a name: {error}")
            return
        if not added:
            self._duplicates += 1

    def _report(self, why: str) -> None:
        self._error_count += 1
        if len(self._errors) < limits.LIST_ERRORS:
            self._errors.append((self._lines, why))


def detect_format(sample: bytes) -> str:
    """The format of a list by its first bytes: a member of `FORMATS`. Plain domains when nothing indicates another
    format."""
    text = sample[: limits.LIST_SAMPLE]
    lines = [line.strip() for line in text.split(b"\n")]
    if any(line.startswith((b"||", b"@@||", b"[Adblock")) for line in lines):
        return "adblock"
    if _RPZ.search(text):
        return "rpz"
    used = [line.split() for line in lines[:-1] or lines if line and line[:1] not in (b"#", b"!", b";")]
    hosts = [fields for fields in used if len(fields) > 1 and _is_address(fields[0].decode("latin-1"))]
    return "hosts" if hosts and 2 * len(hosts) >= len(used) else "domains"


def _is_address(text: str) -> bool:
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def _ascii(name: str) -> str:
    """An internationalised name in A-labels (RFC 5891), with the mapping of UTS 46.

    Raises:
        ValueError: it is no such name.
    """
    # Imported when a list has such a name, because it takes milliseconds.
    import idna

    try:
        return idna.encode(name, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise ValueError(str(error)) from None
