"""The events of the HTTP codec: received and sent parts of messages.

Both roles and both directions use the same classes: a client sends `Request`, `Data`, `End` and receives
`Informational`, `Response`, `Data`, `End`; a server the other way round. They are plain classes with slots, because one
is created for every read, and a frozen dataclass takes three times as long to create.
"""

from collections.abc import Iterable

from corenet.http.headers import Headers

__all__ = ["Data", "End", "Event", "Informational", "Request", "Response"]


class Event:
    """Base class of events. Two events are equal when their fields are."""

    __slots__: tuple[str, ...] = ()

    def _fields(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and type(self) is type(other) and self._fields() == other._fields()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self._fields()!r}"


class Request(Event):
    """The head of a request. `target` is as in the request line; `headers` keep order and spelling."""

    __slots__ = ("headers", "method", "target", "version")

    def __init__(
        self, method: bytes, target: bytes, headers: "Headers | Iterable[tuple[bytes, bytes]]", version: int = 11
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers if isinstance(headers, Headers) else Headers(headers)
        self.version = version


class Response(Event):
    """The head of a final response; `version` is 10 or 11."""

    __slots__ = ("headers", "reason", "status", "version")

    def __init__(
        self, status: int, headers: "Headers | Iterable[tuple[bytes, bytes]]", reason: bytes = b"", version: int = 11
    ) -> None:
        self.status = status
        self.headers = headers if isinstance(headers, Headers) else Headers(headers)
        self.reason = reason
        self.version = version


class Informational(Response):
    """The head of a 1xx response. The final response follows."""

    __slots__ = ()

    def _fields(self) -> tuple[object, ...]:
        return (self.status, self.headers, self.reason, self.version)


class Data(Event):
    """A piece of the body, without transfer coding, with content coding."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class End(Event):
    """The end of the message. `trailers` are the fields after a chunked body; they are not merged with the headers."""

    __slots__ = ("trailers",)

    def __init__(self, trailers: "Headers | Iterable[tuple[bytes, bytes]]" = ()) -> None:
        self.trailers = trailers if isinstance(trailers, Headers) else Headers(trailers)
