"""The state of one request: what to send, its deadlines, and the redirects so far.

Nothing here touches a connection; `corenet.http.client` sends the request. Redirects follow RFC 9110 section 15.4: a
POST is not repeated elsewhere, and credentials are sent only to the original origin.
"""

import copy
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from corenet.http.arguments import expect
from corenet.http.errors import HttpError, RedirectError
from corenet.http.headers import Headers
from corenet.http.response import Response
from corenet.http.routes import PoolKey
from corenet.http.upload import Upload
from corenet.http.url import Origin, Url, parse_url
from corenet.limits import HTTP_CONNECT_TIMEOUT, HTTP_READ_TIMEOUT, HTTP_REDIRECT_BODY, HTTP_TOTAL_TIMEOUT

if TYPE_CHECKING:
    from corenet.http.auth import Auth
    from corenet.http.retries import RetryState

__all__ = ["IDEMPOTENT", "REDIRECTS", "Body", "FieldTypes", "RequestState", "Timeout", "timeout_of"]

REDIRECTS = frozenset({301, 302, 303, 307, 308})

FieldTypes = Headers | Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]
Body = bytes | bytearray | memoryview | IO[bytes] | Path | AsyncIterable[bytes] | Iterable[bytes] | None

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})

_BODY_EXPECTED = frozenset({"POST", "PUT", "PATCH"})
# Fields that are only for the origin of the caller's URL: credentials, and a Host field from the caller.
_OF_ORIGIN = (b"authorization", b"proxy-authorization", b"cookie", b"host")


@dataclass(frozen=True, slots=True)
class Timeout:
    """Seconds for the parts of a request; `math.inf` switches one off.

    `connect`: waiting for a free connection, name resolution, TCP and TLS. `read`: the longest time without a byte of
    the request or its response. `total`: from the call to the last byte, redirects included. `pool`: waiting for a free
    connection, which then does not count as `connect`; None: no limit of its own.
    """

    connect: float = HTTP_CONNECT_TIMEOUT
    read: float = HTTP_READ_TIMEOUT
    total: float = HTTP_TOTAL_TIMEOUT
    pool: float | None = None

    def __post_init__(self) -> None:
        for name in ("connect", "read", "total", "pool"):
            seconds = getattr(self, name)
            if seconds is None and name == "pool":
                continue
            if not isinstance(seconds, int | float) or isinstance(seconds, bool):
                raise TypeError(
                    f"Timeout {name} is a number of seconds (math.inf: no limit), not {type(seconds).__name__}"
                )
            # NaN compares false, and a deadline of NaN would never pass.
            if not seconds > 0:
                raise ValueError(f"Timeout {name}: {seconds} is not more than 0 seconds")


def timeout_of(given: Timeout | float | None, default: Timeout) -> Timeout:
    """Convert the `timeout` argument of a request: a number is the total in seconds, None is the default.

    Raises:
        TypeError: it is neither.
        ValueError: it is 0 or less, or not a number.
    """
    if given is None or isinstance(given, Timeout):
        return given or default
    expect(given, (int, float), "timeout=", "a number of seconds or a corenet.http.Timeout")
    return Timeout(total=given)


class RequestState:
    """One request: what to send, its deadlines, and the redirects so far."""

    __slots__ = (
        "_defaults",
        "_extra",
        "answered",
        "auth",
        "body",
        "conditions",
        "connect_deadline",
        "deadline",
        "expect",
        "group",
        "head_cacheable",
        "history",
        "http1",
        "length",
        "method",
        "method_bytes",
        "repeated",
        "retry_state",
        "reused",
        "sent_fields",
        "started",
        "timeout",
        "traced",
        "unprocessed",
        "url",
        "url_text",
    )

    def __init__(
        self,
        method: str,
        url: str,
        headers: FieldTypes,
        body: bytes | Upload | None,
        timeout: Timeout,
        defaults: Headers,
    ) -> None:
        self.method = method
        try:
            self.method_bytes = method.encode("latin-1", "replace")
        except AttributeError:
            raise TypeError(f"method= is a str, not {type(method).__name__}") from None
        self.url_text = url
        self.url = parse_url(url)
        self.timeout = timeout
        # Times of the loop's clock, 0.0 until they are set: for the whole request, and for the current connection.
        self.deadline = 0.0
        self.connect_deadline = 0.0
        self.history: tuple[Response, ...] = ()
        self.repeated = False
        # How often a server has said that it did not process the request.
        self.unprocessed = 0
        # The cache's validators. Not None: the cache asks, and follows redirects itself.
        self.conditions: list[tuple[bytes, bytes]] | None = None
        # The pool's key for the server, and the origin that has required HTTP/1.1 for this request.
        self.group: PoolKey = self.url.origin
        self.http1: Origin | None = None
        # Whether the trace point for the end of the request was reported.
        self.traced = False
        # Further requests of the caller: credentials and how many challenges they answered, retries, Expect.
        self.auth: Auth | None = None
        self.answered = 0
        self.retry_state: RetryState | None = None
        self.expect = False
        # The time of the call, and whether the connection carried a request before this one.
        self.started = 0.0
        self.reused = False
        # The fields of the last request: credentials and cookies may change from one to the next.
        self.sent_fields: list[tuple[bytes, bytes]] = []
        self._defaults = defaults.raw
        self._extra = Headers.of(headers) if headers else None
        # Only the client's default fields are sent, so the head can be cached.
        self.head_cacheable = self._extra is None
        self.body = body
        self.length = -1
        if body is None:
            if method in _BODY_EXPECTED:
                # RFC 9110 section 8.6: send Content-Length: 0 with methods that usually have a body.
                self.length = 0
        elif isinstance(body, bytes):
            self.length = len(body)
        else:
            self.length = body.length
        if self.length >= 0 and (_frames(defaults) or (self._extra is not None and _frames(self._extra))):
            # The caller frames the body; the codec checks that the body matches.
            self.length = -1

    def pool_by(self, now: float) -> float:
        """The time by which the pool must have a connection, or a slot for a new one."""
        if self.timeout.pool is None:
            return self.connect_by(now)
        return min(self.deadline, now + self.timeout.pool)

    def connect_by(self, now: float) -> float:
        """The time by which the connection must be open. The first call of an exchange, at `now`, sets it."""
        if self.connect_deadline == 0.0:
            self.connect_deadline = min(self.deadline, now + self.timeout.connect)
        return self.connect_deadline

    def fields(self) -> list[tuple[bytes, bytes]]:
        """The header fields of the next request, Host first (RFC 9110 section 7.2): the caller's Host, or the URL's."""
        extra = self._extra
        if extra is None:
            fields = list(self._defaults)
        else:
            given = {name.lower() for name, _ in extra.raw}
            fields = [field for field in self._defaults if field[0].lower() not in given]
            fields += extra.raw
        hosts = [field for field in fields if field[0].lower() == b"host"]
        if hosts:
            fields = hosts + [field for field in fields if field[0].lower() != b"host"]
        else:
            fields.insert(0, (b"Host", self.url.host_field))
        if self.body is not None and self.length < 0 and not _frames(Headers(fields)):
            fields.append((b"Transfer-Encoding", b"chunked"))
        if self.auth is not None and (credentials := self.auth.authorize(self.method, self.url)) is not None:
            fields.append((b"Authorization", credentials.encode("latin-1")))
        if self.expect and self.body is not None:
            fields.append((b"Expect", b"100-continue"))
        if self.conditions:
            fields += self.conditions
        return fields

    def again(self) -> "RequestState":
        """The same request with its own deadlines. A redirect of either does not change the other's fields."""
        other = copy.copy(self)
        other.deadline = other.connect_deadline = 0.0
        other.history = ()
        other._extra = None if self._extra is None else Headers(list(self._extra.raw))
        return other

    # --- options ------------------------------------------------------------------------------------------------------

    @property
    def authorized(self) -> bool:
        """True when the caller gave an Authorization field for this request."""
        return self._extra is not None and "authorization" in self._extra

    def set_auth(self, auth: "Auth | None") -> None:
        """Use these credentials instead of a default Authorization field."""
        self.auth = auth
        if auth is not None:
            self.head_cacheable = False
            self._defaults = [field for field in self._defaults if field[0].lower() != b"authorization"]

    def set_content_type(self, kind: str, *, replace: bool) -> None:
        """Add a Content-Type; with `replace` the caller's is used instead, if there is one.

        Raises:
            ValueError: there is one, and the body cannot be read without the new one.
        """
        extra = Headers() if self._extra is None else self._extra
        if "content-type" not in extra:
            extra.add("Content-Type", kind)
        elif not replace:
            raise ValueError("files= makes a Content-Type with the boundary; leave it out of headers=")
        self._extra = extra
        self.head_cacheable = False

    # --- sending again ------------------------------------------------------------------------------------------------

    def may_retry(self, outcome: Response | BaseException, now: float) -> bool:
        """Whether the request is to be sent again after `retry_state.delay`; `now` is the loop's clock.

        Only an idempotent request is (RFC 9110 section 9.2.2). It continues where it was, after the redirects so far.
        """
        state = self.retry_state
        if (
            state is None
            or self.method not in IDEMPOTENT
            or not state.should_retry(outcome, self.deadline - now)
            or not self.renew_body()
        ):
            return False
        self.repeated = False
        return True

    def renew_body(self) -> bool:
        """Make the body ready to be sent again; False when it cannot be."""
        if isinstance(self.body, Upload):
            renewed = self.body.renew()
            if renewed is None:
                return False
            self.body = renewed
        return True

    def answer_challenge(self, headers: Headers) -> bool:
        """After a 401: whether the request is to be sent again with other credentials."""
        if self.auth is None:
            return False
        from corenet.http.auth import parse_challenges

        challenges = parse_challenges(headers.get_list("www-authenticate"))
        if not self.auth.answer(self.url, challenges, self.answered):
            return False
        self.answered += 1
        self.repeated = False
        return self.renew_body()

    def drop_expectation(self) -> bool:
        """After a 417: whether the request is to be sent again without Expect (RFC 9110 section 10.1.1)."""
        if not self.expect or not self.renew_body():
            return False
        self.expect = self.repeated = False
        return True

    def add_redirect(self, response: Response) -> None:
        """Add a redirect that was followed to the history. A body above `HTTP_REDIRECT_BODY` is not kept."""
        if len(response.body) > HTTP_REDIRECT_BODY:
            response.body = b""
        self.history += (response,)

    def follow(
        self,
        status: int,
        headers: Headers,
        limit: int,
        allow_downgrade: bool,
        upgrade: Callable[[Url], Url] | None = None,
    ) -> bool:
        """Change into the request that a redirect leads to; False when the redirect is not to be followed.

        At limit `limit` redirects are followed (0: none), and from https to http only with `allow_downgrade`. `upgrade`
        may change the target from http to https.

        Raises:
            RedirectError: there were too many, the Location is unusable, it leads to http, or the body was a stream.
        """
        location = headers.get_list("location")
        if limit == 0 or not location:
            return False
        if len(location) > 1:
            raise RedirectError(f"{self.url}: a redirect with {len(location)} Location fields")
        if len(self.history) >= limit:
            raise RedirectError(f"{self.url_text}: more than {limit} redirects")
        try:
            target = self.url.join(_as_text(location[0]))
        except HttpError as error:
            raise RedirectError(f"{self.url}: a redirect to {location[0][:200]!r}: {error}") from error
        if upgrade is not None:
            target = upgrade(target)
        if self.url.scheme == "https" and target.scheme == "http" and not allow_downgrade:
            raise RedirectError(f"{self.url}: a redirect from https to {target} is refused")
        if (status in (301, 302) and self.method == "POST") or (status == 303 and self.method not in ("GET", "HEAD")):
            self._become_get()
        elif not self.renew_body():
            raise RedirectError(f"{self.url}: the redirect requires the body again, but it was a stream")
        if target.origin != self.url.origin:
            self._leave_origin()
        self.url = target
        self.repeated = False
        return True

    def _become_get(self) -> None:
        """Become a GET without a body and its fields (RFC 9110 sections 15.4.2 to 15.4.4)."""
        self.method, self.method_bytes, self.body, self.length = "GET", b"GET", None, -1
        if self._extra is not None:
            for name in (
                "content-type",
                "content-length",
                "content-encoding",
                "content-language",
                "content-location",
                "transfer-encoding",
                "digest",
                "last-modified",
            ):
                self._extra.remove(name)

    def _leave_origin(self) -> None:
        """Remove credentials and a Host of the caller, as a redirect to another origin requires (RFC 9110 15.4)."""
        self.head_cacheable = False
        self.auth = None
        self._defaults = [field for field in self._defaults if field[0].lower() not in _OF_ORIGIN]
        if self._extra is not None:
            for name in _OF_ORIGIN:
                self._extra.remove(name.decode())


def _frames(fields: Headers) -> bool:
    """Return whether the fields frame the body (RFC 9112 section 6)."""
    return "content-length" in fields or "transfer-encoding" in fields


def _as_text(location: str) -> str:
    """Decode a Location: ASCII by the standard, UTF-8 in practice; read as ISO-8859-1 it would be escaped wrongly."""
    try:
        return location.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return location
