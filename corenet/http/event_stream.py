"""Lines of a streamed text, and server-sent events (WHATWG HTML section 9.2), without I/O.

A line ends with CR LF, LF or CR, wherever the pieces of the body are split. A line that ends with CR is given at once;
a LF that follows belongs to it. A line and the data of an event are limited, because a server could send them without
end.
"""

import codecs
import re
from collections.abc import Iterator

from corenet.http.charset import BYTE_ORDER_MARKS, TextDecoder
from corenet.http.errors import ResponseTooLarge
from corenet.limits import HTTP_EVENT_SIZE, HTTP_LINE_SIZE

__all__ = ["EventStream", "LineSplitter", "ServerSentEvent"]

_LINE_END = re.compile(r"\r\n?|\n")
# Of `retry`: more digits than a time can have.
_DIGITS = 15


class ServerSentEvent:
    """One event: `data`, the type `event` ("message" by default), the last `id`, and `retry` in milliseconds if
    sent."""

    __slots__ = ("data", "event", "id", "retry")

    def __init__(self, data: str, event: str = "message", id: str = "", retry: int | None = None) -> None:
        self.data = data
        self.event = event
        self.id = id
        self.retry = retry

    def __repr__(self) -> str:
        return f"ServerSentEvent({self.data!r}, event={self.event!r}, id={self.id!r}, retry={self.retry!r})"


class LineSplitter:
    """Splits decoded text into lines without their ends."""

    __slots__ = ("_after_cr", "_decoder", "_parts", "_size")

    def __init__(self, charset: str = "utf-8", *, marks: tuple[tuple[bytes, str], ...] = BYTE_ORDER_MARKS) -> None:
        self._decoder = TextDecoder(charset, marks=marks)
        # The line so far; a piece that does not end a line is searched once.
        self._parts: list[str] = []
        self._size = 0
        self._after_cr = False

    def feed(self, data: bytes, *, last: bool = False) -> Iterator[str]:
        """Yield the lines that `data` completes; with `last` also a line without an end, unless it is empty.

        Raises:
            ResponseTooLarge: a line has more than `HTTP_LINE_SIZE` characters.
        """
        text = self._decoder.feed(data, last=last)
        at = 1 if self._after_cr and text.startswith("\n") else 0
        if text:
            self._after_cr = text.endswith("\r")
        for end in _LINE_END.finditer(text, at):
            yield self._line(text[at : end.start()])
            at = end.end()
        if at < len(text):
            self._add(text[at:])
        if last and self._parts:
            yield self._line("")

    def _add(self, part: str) -> None:
        self._size += len(part)
        if self._size > HTTP_LINE_SIZE:
            raise ResponseTooLarge(f"a line of the body has more than {HTTP_LINE_SIZE} characters")
        self._parts.append(part)

    def _line(self, part: str) -> str:
        self._add(part)
        line = "".join(self._parts) if len(self._parts) > 1 else part
        self._parts.clear()
        self._size = 0
        return line


class EventStream:
    """Parses a ``text/event-stream``, which is always UTF-8. `last_id` and `retry` are the last values that were
    sent."""

    __slots__ = ("_data", "_event", "_lines", "_retry", "_size", "last_id", "retry")

    def __init__(self) -> None:
        # Another byte order mark does not change the encoding.
        self._lines = LineSplitter(marks=((codecs.BOM_UTF8, "utf_8"),))
        self._data: list[str] = []
        self._size = 0
        self._event = ""
        self._retry: int | None = None
        self.last_id = ""
        self.retry: int | None = None

    def feed(self, data: bytes) -> Iterator[ServerSentEvent]:
        """Yield the events that `data` completes. An event that no empty line ends is never given.

        Raises:
            ResponseTooLarge: a line or the data of an event is over its limit.
        """
        for line in self._lines.feed(data):
            if line:
                self._field(line)
            elif (event := self._dispatch()) is not None:
                yield event

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            # An empty data line counts too, else their number would not be limited.
            self._size += len(value) + 1
            if self._size > HTTP_EVENT_SIZE:
                raise ResponseTooLarge(f"the data of an event has more than {HTTP_EVENT_SIZE} characters")
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self.last_id = value
        elif name == "retry" and value.isascii() and value.isdigit() and len(value) <= _DIGITS:
            self.retry = self._retry = int(value)

    def _dispatch(self) -> ServerSentEvent | None:
        event = None
        if self._data:
            event = ServerSentEvent("\n".join(self._data), self._event or "message", self.last_id, self._retry)
            self._retry = None
        self._data.clear()
        self._size = 0
        self._event = ""
        return event
