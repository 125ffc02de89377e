"""/etc/resolv.conf and /etc/hosts: parsed, and parsed again when they change.

Other programs may write these files while they are read, so the parsers never raise: invalid lines are ignored, as the
C library does. A change is noticed by device, inode, size and modification time. They are checked at most once a
second, because a stat for each name would cost more than all other work for a cached answer.
"""

import ipaddress
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from resolver import limits
from resolver.regular_file import open_regular
from resolver.settings import HostEntry

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "Hosts",
    "ResolvConf",
    "Watched",
    "hosts_file",
    "parse_hosts",
    "parse_resolv_conf",
    "read_hosts_files",
    "resolv_conf",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """Search list and ndots of resolv.conf(5); names in `search` end with a dot. Its name servers are not used."""

    search: tuple[str, ...] = ()
    ndots: int = limits.RESOLV_NDOTS.default


@dataclass(frozen=True, slots=True)
class Hosts:
    """Content of hosts(5): names in lower case without final dot, addresses in canonical form, in the file's order."""

    by_name: dict[str, tuple[str, ...]] = field(default_factory=dict)
    by_address: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def entries(self) -> tuple[HostEntry, ...]:
        """The content as entries for the settings."""
        return tuple(HostEntry(name, addresses) for name, addresses in self.by_name.items())


def _lines(data: bytes, comments: str) -> Iterator[list[str]]:
    """Words of each line without comments; bytes that are not ASCII become U+FFFD, which matches no name."""
    text = data[: limits.SYSTEM_FILE_SIZE].decode("ascii", "replace")
    for line in text.split("\n"):
        for mark in comments:
            line = line.partition(mark)[0]
        words = line.split()
        if words:
            yield words


def _address(text: str) -> str | None:
    """Canonical form of an address; a zone (``fe80::1%eth0``) is kept."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _is_name(text: str) -> bool:
    labels = text.removesuffix(".").split(".")
    return len(text) <= 254 and all(0 < len(label) <= 63 for label in labels) and "\ufffd" not in text


def parse_resolv_conf(data: bytes) -> ResolvConf:
    """Parse resolv.conf(5); invalid lines are ignored, and an `ndots` out of range becomes the nearest bound."""
    search: tuple[str, ...] = ()
    limit = limits.RESOLV_NDOTS
    ndots = limit.default
    for word, *rest in _lines(data, "#;"):
        if word in ("search", "domain"):  # the last of them applies, resolv.conf(5)
            given = rest if word == "search" else rest[:1]
            names = [name.lower().removesuffix(".") + "." for name in given if _is_name(name)]
            search = tuple(dict.fromkeys(names))[: limits.RESOLV_SEARCH]
        elif word == "options":
            for option in rest:
                name, _, value = option.partition(":")
                if name == "ndots" and value.isascii() and value.isdigit() and len(value) < 10:
                    ndots = min(max(int(value), limit.minimum), limit.maximum)
    return ResolvConf(search, ndots)


def parse_hosts(data: bytes) -> Hosts:
    """Parse hosts(5); lines whose first word is not an address are ignored."""
    by_name: dict[str, list[str]] = {}
    by_address: dict[str, list[str]] = {}
    for first, *names in _lines(data, "#"):
        address = _address(first)
        if address is None:
            continue
        for name in names:
            if not _is_name(name) or len(by_name) >= limits.HOSTS_NAMES:
                continue
            key = name.lower().removesuffix(".")
            for table, index, value in ((by_name, key, address), (by_address, address, key)):
                held = table.setdefault(index, [])
                if value not in held:
                    held.append(value)
    return Hosts(
        {name: tuple(held) for name, held in by_name.items()}, {one: tuple(held) for one, held in by_address.items()}
    )


def read_hosts_files(names: Iterable[str]) -> tuple[HostEntry, ...]:
    """Entries of all files in `names`; unlike /etc/hosts, they must exist.

    Raises:
        ValueError: a file cannot be read.
    """
    found: list[HostEntry] = []
    for name in names:
        try:
            with open_regular(name) as file:
                data = file.read(limits.SYSTEM_FILE_SIZE)
        except OSError as error:
            raise ValueError(f"policy.hosts_files: cannot read {name!r}: {error.strerror}") from None
        found += parse_hosts(data).entries()
    return tuple(found)


class Watched(Generic[T]):
    """The parsed content of a file, parsed again when the file has changed. A missing file counts as empty."""

    def __init__(
        self,
        path: "str | Path",
        parse: Callable[[bytes], T],
        *,
        interval: float = float(limits.SYSTEM_FILE_INTERVAL),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = os.fspath(path)
        self._parse = parse
        self._interval = interval
        self._clock = clock
        self._next_look = float("-inf")
        self._seen: tuple[int, ...] | None = (-1,)
        self._value: T | None = None

    def get(self) -> T:
        """The content, at most `interval` seconds old."""
        now = self._clock()
        if self._value is None or now >= self._next_look:
            self._next_look = now + self._interval
            seen = self._look()
            if self._value is None or seen != self._seen:
                self._value = self._parse(self._read())
                self._seen = seen
        return self._value

    def _look(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def _read(self) -> bytes:
        try:
            with open_regular(self.path) as file:
                return file.read(limits.SYSTEM_FILE_SIZE)
        except OSError:
            return b""  # a missing or unreadable file counts as empty, resolv.conf(5)


def resolv_conf(path: "str | Path" = "/etc/resolv.conf") -> Watched[ResolvConf]:
    """The host's resolver configuration."""
    return Watched(path, parse_resolv_conf)


def hosts_file(path: "str | Path" = "/etc/hosts") -> Watched[Hosts]:
    """The hosts file."""
    return Watched(path, parse_hosts)
