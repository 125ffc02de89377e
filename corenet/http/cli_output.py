"""What ``corenet get`` writes: bodies to files or standard output, the progress of a transfer, and ``--write-out``.

A file is continued (``-C``) only when the server sends exactly the rest: another status or range is an error, and the
file keeps what it has. `Progress` makes text from numbers; it never looks at a clock or a terminal.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from corenet.http.cli_options import Target, UsageError
from corenet.http.headers import Headers
from corenet.http.response import Response, StreamedResponse

__all__ = [
    "Progress",
    "RangeError",
    "Transfer",
    "body_file",
    "continue_from",
    "expand",
    "head_of",
    "printable",
    "rest_of",
]

# 19 digits are enough for the size of any file, and `int` refuses thousands of them.
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)\Z", re.ASCII)
_COMPLETE_RANGE = re.compile(r"bytes \*/(\d{1,19})\Z", re.ASCII)
_VARIABLE = re.compile(r"%\{([a-z_]*)\}|%%|\\[nrt]")
_ESCAPES = {"%%": "%", "\\n": "\n", "\\r": "\r", "\\t": "\t"}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class RangeError(Exception):
    """The server does not send the rest of a file."""


@dataclass(slots=True)
class Transfer:
    """One URL and the result of its transfer. `size`: bytes of the body as written; `seconds`: from the call to the
    end."""

    target: Target
    number: int
    method: str
    response: StreamedResponse | None = None
    size: int = 0
    seconds: float = 0.0
    code: int = 0


# --- files ------------------------------------------------------------------------------------------------------------


def continue_from(target: Target, option: str | None) -> int:
    """The offset in bytes at which the file is continued, 0 for a new file. `targets` has checked the option.

    Raises:
        RangeError: the file is shorter.
    """
    if option is None or target.path is None:
        return 0
    try:
        size = target.path.stat().st_size
    except FileNotFoundError:
        size = 0
    if option == "-":
        return size
    if int(option) > size:
        raise RangeError(f"{target.path}: it has {size} bytes and cannot be continued at byte {option}")
    return int(option)


def rest_of(status: int, headers: Headers, offset: int) -> int | None:
    """The bytes of a response that is the rest of a file from `offset` on; None when the file is complete already.

    Raises:
        RangeError: the response is something else.
    """
    text = headers.get("content-range", "")
    if status == 206:
        match = _CONTENT_RANGE.match(text)
        if match is not None and "content-encoding" in headers:
            raise RangeError("the server sent the part of the file in a content coding, which was not accepted")
        if match is not None and int(match[1]) == offset and match[3] in ("*", str(int(match[2]) + 1)):
            size = int(match[2]) + 1 - offset
            if size > 0:
                return size
        raise RangeError(f"the server sent another part of the file than bytes {offset}-: {text or 'no Content-Range'}")
    complete = _COMPLETE_RANGE.match(text)
    if status == 416 and complete is not None and int(complete[1]) == offset:
        return None
    raise RangeError(f"the server answered {status}: it does not send the file from byte {offset} on")


@contextlib.contextmanager
def body_file(path: Path | None, offset: int) -> Iterator[BinaryIO]:
    """Open what the body is written to: standard output, or the file from `offset` on."""
    if path is None and sys.stdout is None:
        path = Path(os.devnull)  # the command was started without a standard output (>&-)
    if path is None:
        yield sys.stdout.buffer
    elif offset:
        with path.open("r+b") as file:
            file.truncate(offset)
            file.seek(offset)
            yield file
    else:
        with path.open("wb") as file:
            yield file


def head_of(response: Response | StreamedResponse) -> bytes:
    """The head of a response as text."""
    lines = [f"{response.http_version} {response.status} {response.reason}".rstrip()]
    lines += [f"{name}: {value}" for name, value in response.headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def printable(text: str) -> str:
    """A line for a terminal: control characters, which a server may have sent in a reason phrase, become escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


# --- progress ---------------------------------------------------------------------------------------------------------


class Progress:
    """The progress of the current transfers as one line of text. Times are seconds of one clock, sizes bytes."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._done = 0
        self._received = 0
        self._skipped = 0
        self._total: int | None = 0
        self._began: float | None = None

    def begin(self, now: float, total: int | None, offset: int) -> None:
        """A body begins: `total` is its size with the `offset` that was received earlier, None if it is not known."""
        if self._began is None:
            self._began = now
        self._skipped += offset
        self._total = None if self._total is None or total is None else self._total + total

    def advance(self, size: int) -> None:
        """`size` further bytes were received."""
        self._received += size

    def end(self) -> None:
        """A transfer has ended."""
        self._done += 1

    def line(self, now: float) -> str:
        """The line for the time `now`."""
        size = self._skipped + self._received
        seconds = 0.0 if self._began is None else now - self._began
        rate = self._received / seconds if seconds > 0 else 0.0
        parts = [] if self._count == 1 else [f"{self._done}/{self._count} done"]
        # Of several, the sizes of those that have not begun are not known.
        if self._total and (self._count == 1):
            parts.append(f"{min(100, size * 100 // self._total):3d}%")
            parts.append(f"{_size(size)} of {_size(self._total)}")
        else:
            parts.append(_size(size))
        parts.append(f"{_size(rate)}/s")
        if self._total and self._count == 1 and rate and size < self._total:
            left = int((self._total - size) / rate)
            parts.append(f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left")
        return "  ".join(parts)


def _size(octets: float) -> str:
    unit = 0
    while octets >= 1024 and unit < len(_UNITS) - 1:
        octets /= 1024
        unit += 1
    return f"{octets:.0f} {_UNITS[unit]}" if unit == 0 else f"{octets:.1f} {_UNITS[unit]}"


# --- --write-out ------------------------------------------------------------------------------------------------------


def expand(text: str, transfer: Transfer) -> str:
    r"""Replace curl's variables, ``%%`` and the escapes ``\n``, ``\r`` and ``\t``. Values, some of which are of the
    server, are `printable`.

    Raises:
        UsageError: a variable is not known.
    """
    values = _values(transfer)

    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return _ESCAPES[match[0]]
        if match[1] not in values:
            raise UsageError(f"-w: %{{{match[1]}}} is not known; known are {', '.join(sorted(values))}")
        return printable(values[match[1]])

    return _VARIABLE.sub(value, text)


def _values(transfer: Transfer) -> dict[str, str]:
    response = transfer.response
    facts = None if response is None else response.connection
    status = "000" if response is None else f"{response.status:03d}"
    url = transfer.target.url if response is None else response.url
    return {
        "content_type": "" if response is None else response.headers.get("content-type", ""),
        "exitcode": str(transfer.code),
        "filename_effective": "" if transfer.target.path is None else str(transfer.target.path),
        "http_code": status,
        "http_version": "0" if response is None else response.http_version.removeprefix("HTTP/"),
        "method": transfer.method,
        "num_redirects": "0" if response is None else str(len(response.history)),
        "remote_ip": "" if facts is None else facts.peer[0],
        "remote_port": "0" if facts is None else str(facts.peer[1]),
        "response_code": status,
        "scheme": url.partition(":")[0],
        "size_download": str(transfer.size),
        "speed_download": f"{transfer.size / transfer.seconds:.0f}" if transfer.seconds else "0",
        "time_starttransfer": f"{0.0 if response is None else response.elapsed:.6f}",
        "time_total": f"{transfer.seconds:.6f}",
        "url": transfer.target.url,
        "url_effective": url,
        "urlnum": str(transfer.number),
    }
