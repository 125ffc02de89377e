"""The errors of the HTTP room: every failure names the side that caused it and says so in a sentence.

Remote bytes can raise only `RemoteProtocolError` and its kinds; a wrong call raises `LocalProtocolError`. All share
`HttpError`, so one except clause is enough for those who do not care. Nothing here is raised by the pure codec but the
two protocol errors.
"""

__all__ = [
    "ConnectError",
    "DecodeError",
    "Http2Error",
    "HttpError",
    "HttpStatusError",
    "InvalidUrl",
    "LocalProtocolError",
    "NameResolutionError",
    "RedirectError",
    "RemoteProtocolError",
    "ResponseTooLarge",
    "ServerDisconnected",
    "TimeoutExceeded",
    "TlsError",
]


class HttpError(Exception):
    """Anything that kept a request from ending with a response."""


class InvalidUrl(HttpError, ValueError):
    """The URL cannot be requested: malformed, another scheme, or hiding a user name."""


class LocalProtocolError(HttpError):
    """The caller asked for something HTTP does not allow, for example a line end inside a field value."""


class RemoteProtocolError(HttpError):
    """The peer sent bytes that are not HTTP/1.1, or whose framing is ambiguous.

    `status` is what a server should answer with: 400, 413, 431, 501 or 505.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Http2Error(RemoteProtocolError):
    """The peer broke the rules of HTTP/2, or a limit; `code` is the error code of RFC 9113 section 7."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class ServerDisconnected(RemoteProtocolError):
    """The connection ended before the response was complete; `received` says whether any of it had arrived."""

    def __init__(self, message: str, *, received: bool) -> None:
        super().__init__(message)
        self.received = received


class DecodeError(RemoteProtocolError):
    """The body's content coding (gzip, deflate) is unknown, broken or cut short."""


class ResponseTooLarge(HttpError):
    """The body, or what it decodes to, is over the limit that was set."""


class RedirectError(HttpError):
    """Too many redirects, one without a usable Location, or one from https to http."""


class ConnectError(HttpError):
    """No connection to the origin could be made."""


class NameResolutionError(ConnectError):
    """The host name could not be resolved to an address."""


class TlsError(ConnectError):
    """The TLS handshake failed; `certificate` tells whether the server's certificate was the reason."""

    def __init__(self, message: str, *, certificate: bool) -> None:
        super().__init__(message)
        self.certificate = certificate


class TimeoutExceeded(HttpError, TimeoutError):
    """Time ran out; `phase` is pool, dns, connect, tls, request or response."""

    def __init__(self, message: str, phase: str) -> None:
        super().__init__(message)
        self.phase = phase


class HttpStatusError(HttpError):
    """The response has a status of 400 or above and the caller asked for an exception; `response` is that response."""

    def __init__(self, message: str, response: object) -> None:
        super().__init__(message)
        self.response = response
