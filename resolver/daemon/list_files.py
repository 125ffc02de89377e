"""Files of lists and response policy zones: read, compiled, and replaced by what was fetched.

Reading runs in a thread. A file of a list with a URL has a head with its digest (`policy.list_source`), others are
plain text. Policy zones that are transferred have no file here; they are compiled from their records.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from resolver import limits
from resolver.daemon.cache_file import create_temporary
from resolver.daemon.file_identity import identity_of
from resolver.policy.list_formats import CompiledList, ListReader, detect_format
from resolver.policy.list_source import HEAD_SIZE, ListHead, read_head
from resolver.policy.rpz import RpzZone
from resolver.policy.rpz_module import options_of
from resolver.policy.rpz_text import read_zone
from resolver.policy.rpz_zone import ZoneCompiler
from resolver.settings.lists import ListSettings, RpzSettings
from resolver.wire import name as names
from resolver.zones import Zone

__all__ = ["Loaded", "NewFile", "compile_transferred", "load"]

_PIECE = 65_536
Source = ListSettings | RpzSettings


class Loaded(NamedTuple):
    """A compiled file, or version of a transferred zone. `errors` are the first problems in it, `identity` tells
    whether the file is another one, `serial` is that of a transferred zone, `octets` the memory of `rules`,
    `unsupported` the number of adblock rules that have no effect."""

    rules: CompiledList | RpzZone
    entries: int
    error_count: int
    errors: tuple[str, ...]
    head: ListHead | None
    identity: tuple[int, ...]
    serial: int | None = None
    octets: int = 0
    unsupported: int = 0


def load(settings: Source, key: bytes, path: str = "") -> Loaded:
    """Read and compile the file of `settings`, or `path` instead of it. Takes seconds for a million names.

    Raises:
        ValueError: it cannot be read or used; the text names file and reason.
    """
    path = path or settings.file
    try:
        # `opener`, because `open` of a descriptor leaves it open when it is that of a directory.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ValueError("it is not a file")
            head = read_head(file.read(HEAD_SIZE)) if settings.url else None
            pieces = _pieces(file, head)
            read = _read_list(settings, pieces, key) if isinstance(settings, ListSettings) else _read_zone(
                settings, pieces, key)
    except OSError as error:
        raise ValueError(f"{path!r}: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"{path!r}: {error}") from None
    return read._replace(head=head, identity=identity_of(found))


def _pieces(file: BinaryIO, head: ListHead | None) -> Iterator[bytes]:
    """The content, with its digest checked at the end when it has a head."""
    digest, size = hashlib.sha256(), 0
    while piece := file.read(_PIECE):
        size += len(piece)
        if size > limits.LIST_BYTES.default:
            raise ValueError(f"it has more than {limits.LIST_BYTES.default} bytes")
        if head is not None:
            digest.update(piece)
        yield piece
    if head is not None:
        head.check(digest, size)


def _read_list(settings: ListSettings, pieces: Iterator[bytes], key: bytes) -> Loaded:
    first = next(pieces, b"")
    form = detect_format(first) if settings.format == "auto" else settings.format
    if form == "rpz":
        raise ValueError("it is a response policy zone; configure it as [[rpz]]")
    reader = ListReader(form, key)
    reader.feed(first)
    for piece in pieces:
        reader.feed(piece)
    compiled = reader.close()
    report = compiled.report
    errors = tuple(f"line {number}: {why}" for number, why in report.errors)
    octets = compiled.blocked.octets + compiled.allowed.octets
    return Loaded(compiled, report.names + report.exceptions, report.error_count, errors, None, (), octets=octets,
                  unsupported=report.unsupported)


def _read_zone(settings: RpzSettings, pieces: Iterator[bytes], key: bytes) -> Loaded:
    compiler = ZoneCompiler(names.from_text(settings.name.rstrip(".") + "."), key)
    read_zone(_lines(pieces), compiler)
    rules = compiler.finish(options_of(settings))
    octets = rules.octets
    return Loaded(rules, compiler.count, compiler.error_count, tuple(compiler.errors), None, (), octets=octets)


def compile_transferred(settings: RpzSettings, zone: Zone, key: bytes) -> Loaded:
    """Compile a version of a transferred zone. Takes seconds for a million records.

    Raises:
        ValueError: it exceeds a limit of policy zones.
    """
    compiler = ZoneCompiler(zone.origin, key)
    compiler.add(zone.soa)
    for rrset in zone.sets():
        compiler.add(rrset)
    rules = compiler.finish(options_of(settings))
    errors = tuple(compiler.errors)
    return Loaded(rules, compiler.count, compiler.error_count, errors, None, (), zone.serial, rules.octets)


def _lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """The lines of a text, decoded one by one: the whole may have hundreds of megabytes.

    Raises:
        ValueError: a line is no UTF-8, or too long.
    """
    rest, number = b"", 0
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            number += 1
            yield _decoded(line, number)
        if len(rest) > limits.RPZ_LINE:
            raise _too_long(number + 1)
    yield _decoded(rest, number + 1)


def _too_long(number: int) -> ValueError:
    return ValueError(f"line {number} is longer than {limits.RPZ_LINE} bytes")


def _decoded(line: bytes, number: int) -> str:
    if len(line) > limits.RPZ_LINE:
        raise _too_long(number)
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"line {number} is not UTF-8") from None


class NewFile:
    """A list that is being fetched: written beside the file that it replaces.

    States: open; kept (`keep` has renamed it) or discarded. `discard` may be called in all states.
    """

    def __init__(self, path: str) -> None:
        """Raises:
        OSError: the file cannot be made.
        """
        self._target = Path(path)
        descriptor, name = create_temporary(self._target, 0o644)
        self.path = str(name)
        self._file = open(descriptor, "wb")
        self._digest = hashlib.sha256()
        self._size = 0
        self._file.write(bytes(HEAD_SIZE))

    def write(self, piece: bytes) -> None:
        """Append a piece of the body.

        Raises:
            OSError: it cannot be written.
            ValueError: the list has more bytes than permitted.
        """
        self._size += len(piece)
        if self._size > limits.LIST_BYTES.default:
            raise ValueError(f"the list has more than {limits.LIST_BYTES.default} bytes")
        self._digest.update(piece)
        self._file.write(piece)

    @property
    def digest(self) -> str:
        """SHA-256 of the body so far, in hexadecimal."""
        return self._digest.hexdigest()

    def complete(self, fetched: int, etag: str, url: str) -> ListHead:
        """Write the head, and everything to disk.

        Raises:
            OSError: it cannot be written.
        """
        head = ListHead(self.digest, self._size, fetched, etag, url)
        self._file.seek(0)
        self._file.write(head.encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return head

    def keep(self) -> None:
        """Replace the list by the new one.

        Raises:
            OSError: it cannot be renamed.
        """
        os.replace(self.path, self._target)

    def discard(self) -> None:
        """Remove the new file, unless it was kept."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        with suppress(OSError):  # no space for the rest of the buffer, which is not needed
            self._file.close()
