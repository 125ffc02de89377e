"""The exceptions of the HTTP package. Each class says which side caused the failure, each message says why.

Bytes from the peer that violate HTTP raise `RemoteProtocolError` or a subclass; a wrong call raises
`LocalProtocolError`. A response that is valid but is not accepted raises `ResponseTooLarge` or `RedirectError`. The
common base class is `HttpError`; `HttpStatusError` is in `corenet.http.response`. The codecs without I/O raise only the
two protocol errors.
"""

from typing import Any

__all__ = [
    "ConnectError",
    "DecodeError",
    "Http2Error",
    "HttpError",
    "InvalidUrl",
    "LocalProtocolError",
    "NameResolutionError",
    "ProxyError",
    "RedirectError",
    "RemoteProtocolError",
    "ResponseTooLarge",
    "ServerDisconnected",
    "TimeoutExceeded",
    "TlsError",
]


class HttpError(Exception):
    """Base class: the request did not end with a response."""


class InvalidUrl(HttpError, ValueError):
    """The URL cannot be requested: malformed, not http or https, or with a user name."""


class LocalProtocolError(HttpError):
    """The caller did something that HTTP does not allow, for example a line end in a field value."""


class RemoteProtocolError(HttpError):
    """The peer sent bytes that are not HTTP, or whose framing is ambiguous.

    `status` is the response status that a server should send: 400, 413, 431, 501 or 505.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Http2Error(RemoteProtocolError):
    """The peer violated HTTP/2 or a limit; `code` is the error code of RFC 9113 section 7.

    `events` is what the peer had sent before in the same input, as `H2Connection.feed` returns it.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
        # `Any`, because `corenet.http.events` needs this module.
        self.events: list[tuple[int, Any]] = []


class ServerDisconnected(RemoteProtocolError):
    """The connection, or the HTTP/2 stream, ended before the response was complete.

    `received`: some of it had arrived. `unprocessed`: the server has said that it did not process the request.
    `wants_http1`: it has said that the request needs HTTP/1.1 (HTTP_1_1_REQUIRED, RFC 9113 section 7).
    """

    def __init__(
        self, message: str, *, received: bool, unprocessed: bool = False, wants_http1: bool = False
    ) -> None:
        super().__init__(message)
        self.received = received
        self.unprocessed = unprocessed
        self.wants_http1 = wants_http1


class DecodeError(RemoteProtocolError):
    """The body's content coding is unknown, broken or cut short."""


class ResponseTooLarge(HttpError):
    """The body, as sent or as decoded, exceeds its limit."""


class RedirectError(HttpError):
    """A redirect that is not followed: one too many, with an unusable Location, from https to http, or of a request
    whose body cannot be sent again."""


class ConnectError(HttpError):
    """No connection to the origin could be opened."""


class NameResolutionError(ConnectError):
    """The host name could not be resolved to an address."""


class ProxyError(ConnectError):
    """The proxy refused, or violated its protocol; `status` is its response status to CONNECT, 0 without one."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class TlsError(ConnectError):
    """The TLS handshake failed; `certificate` is True when the server's certificate was the reason."""

    def __init__(self, message: str, *, certificate: bool) -> None:
        super().__init__(message)
        self.certificate = certificate


class TimeoutExceeded(HttpError, TimeoutError):
    """A timeout expired; `phase` is the phase of the request: pool, dns, connect, proxy, tls, request or response."""

    def __init__(self, message: str, phase: str) -> None:
        super().__init__(message)
        self.phase = phase
