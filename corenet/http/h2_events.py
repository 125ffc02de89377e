"""Events of an HTTP/2 connection other than messages, and the error codes of RFC 9113 section 7.

`Request`, `Response`, `Informational`, `Data` and `End` are those of `corenet.http.events`, with version 20.
`H2Connection.feed` returns each event with the number of its stream, 0 for the connection.
"""

from corenet.http.events import Event

__all__ = [
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "FLOW_CONTROL_ERROR",
    "FRAME_SIZE_ERROR",
    "HTTP_1_1_REQUIRED",
    "INADEQUATE_SECURITY",
    "INTERNAL_ERROR",
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "REFUSED_STREAM",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "Drained",
    "Goaway",
    "Pong",
    "SettingsReceived",
    "StreamReset",
    "error_name",
]

_NAMES = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)
(
    NO_ERROR,
    PROTOCOL_ERROR,
    INTERNAL_ERROR,
    FLOW_CONTROL_ERROR,
    SETTINGS_TIMEOUT,
    STREAM_CLOSED,
    FRAME_SIZE_ERROR,
    REFUSED_STREAM,
    CANCEL,
    COMPRESSION_ERROR,
    CONNECT_ERROR,
    ENHANCE_YOUR_CALM,
    INADEQUATE_SECURITY,
    HTTP_1_1_REQUIRED,
) = range(len(_NAMES))


def error_name(code: int) -> str:
    """Return the name of an error code, or its number if it is unknown."""
    return _NAMES[code] if 0 <= code < len(_NAMES) else f"error {code}"


class StreamReset(Event):
    """A stream ended early; nothing more is received or can be sent on it.

    `code` is the error code. `by_peer`: the peer has reset it; False: we did, because of the protocol violation
    in `reason`. `unprocessed`: the server did not process the request, so it may be sent again on another
    connection (RFC 9113 section 8.7).
    """

    __slots__ = ("by_peer", "code", "reason", "unprocessed")

    def __init__(self, code: int, by_peer: bool, unprocessed: bool = False, reason: str = "") -> None:
        self.code = code
        self.by_peer = by_peer
        self.unprocessed = unprocessed
        self.reason = reason


class Drained(Event):
    """All queued data of this stream was sent; a waiting sender may continue."""

    __slots__ = ()


class Goaway(Event):
    """The peer shuts the connection down. Streams above `last_stream_id` were reset as unprocessed; no new ones."""

    __slots__ = ("code", "debug", "last_stream_id")

    def __init__(self, last_stream_id: int, code: int, debug: bytes = b"") -> None:
        self.last_stream_id = last_stream_id
        self.code = code
        self.debug = debug


class SettingsReceived(Event):
    """The peer's settings were applied; its limit of concurrent streams may have changed."""

    __slots__ = ()


class Pong(Event):
    """The answer to our PING with these eight bytes."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data
