"""The further arguments of a request (`RequestOptions`) and of a client, made into what a request sends.

A request without any of them does not come here. Arguments that contradict each other raise here, before anything is
sent: each error names the arguments.
"""

import json
import secrets
from dataclasses import dataclass
from typing import Any, TypedDict

from corenet.http.arguments import expect
from corenet.http.auth import Auth, AuthTypes, auth_of, split_credentials
from corenet.http.body_source import BytesSource
from corenet.http.errors import InvalidUrl
from corenet.http.headers import Headers
from corenet.http.multipart import Files, encode_multipart
from corenet.http.query import Pairs, add_query, encode_pairs
from corenet.http.request_state import Body, RequestState
from corenet.http.retries import Retries, RetryBudget, RetryState
from corenet.http.upload import Upload, prepare_body
from corenet.http.url import Url, parse_url
from corenet.limits import HTTP_EXPECT_SIZE

__all__ = ["ClientOptions", "Prepared", "RequestOptions", "prepare"]


class RequestOptions(TypedDict, total=False):
    """Further arguments of a request; None is the same as leaving one out, except for `auth` and `retries`.

    `params` are added to the URL's query: pairs, a mapping, or a query as str. `json` is sent as JSON, `data` as a
    form, `data` and `files` as multipart/form-data, `content` as it is, like the argument `body`: bytes, a binary file,
    or an iterable or asynchronous iterable of bytes. `auth` is (user name, password) or an `Auth`, `retries` a
    `Retries`; None switches the client's off. `expect_continue` waits for the server's consent before a body of 1 MiB
    or more, or of unknown length, is sent (RFC 9110 section 10.1.1).
    """

    params: "Pairs | str | None"
    json: Any
    data: "Pairs | None"
    files: "Files | None"
    content: Body
    auth: "AuthTypes | None"
    retries: "Retries | None"
    expect_continue: bool


@dataclass(slots=True)
class ClientOptions:
    """What a client adds to each of its requests."""

    base_url: Url | None
    auth: Auth | None
    retries: Retries | None
    expect_continue: bool
    url_credentials: bool
    budget: RetryBudget

    @classmethod
    def of(
        cls,
        base_url: str | None = None,
        auth: "AuthTypes | None" = None,
        retries: Retries | None = None,
        expect_continue: bool = False,
        url_credentials: bool = False,
        *,
        headers: Headers,
    ) -> "ClientOptions":
        """Check the arguments of a client.

        Raises:
            InvalidUrl: the base URL is malformed, or has a query or fragment.
            TypeError: `auth` is no Auth.
            ValueError: `auth` and a default Authorization field contradict each other.
        """
        base = None if base_url is None else parse_url(base_url)
        if base is not None and (base.query is not None or base.fragment is not None):
            raise InvalidUrl(f"base_url={base_url!r} has a query or a fragment")
        if auth is not None and "authorization" in headers:
            raise ValueError("auth= and an Authorization field in headers= exclude each other")
        return cls(base, auth_of(auth), retries, expect_continue, url_credentials, RetryBudget())


class Prepared:
    """What the options of one request have become; `body` is ready to be sent."""

    __slots__ = ("_client", "_content_type", "_expect", "_options", "body")

    def __init__(self, body: bytes | Upload | None, kind: str | None, options: RequestOptions, client: ClientOptions):
        self.body = body
        self._content_type = kind
        self._options = options
        self._client = client
        self._expect = False
        expecting = options.get("expect_continue")
        expect(expecting, (bool, type(None)), "expect_continue=", "True, False or None")
        if client.expect_continue if expecting is None else expecting:
            if isinstance(body, bytes) and len(body) >= HTTP_EXPECT_SIZE:
                self.body = Upload(BytesSource(body))
            self._expect = isinstance(self.body, Upload) and not 0 <= self.body.length < HTTP_EXPECT_SIZE

    def url(self, url: str) -> tuple[str, Auth | None]:
        """Return the whole URL, and the credentials that it had.

        Raises:
            TypeError: `params` cannot be encoded.
        """
        expect(url, str, "a URL", "a str")
        base = self._client.base_url
        if base is not None and not url.lower().startswith(("http://", "https://")):
            # The path is appended, so no such reference leads to another origin.
            root = base.text.removesuffix("/")
            url = root + url if url.startswith(("?", "#")) or not url else f"{root}/{url.lstrip('/')}"
        params = self._options.get("params")
        if params is not None:
            url = add_query(url, params)
        return split_credentials(url) if self._client.url_credentials else (url, None)

    def apply(self, call: RequestState, in_url: Auth | None) -> None:
        """Set what a request has of these options.

        Raises:
            ValueError: the arguments contradict each other.
        """
        options, client = self._options, self._client
        retries = options["retries"] if "retries" in options else client.retries
        if retries is not None:
            if not isinstance(retries, Retries):
                raise TypeError(f"retries= is a corenet.http.Retries, not {type(retries).__name__}")
            call.retry_state = RetryState(retries, client.budget)
        if self._content_type is not None:
            call.set_content_type(self._content_type, replace=options.get("files") is None)
        call.expect = self._expect
        own = auth_of(options.get("auth"))
        sources = {"auth=": own, "user names in the URL": in_url, "an Authorization field": call.authorized or None}
        given = [name for name, source in sources.items() if source is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other")
        if "auth" not in options and not call.authorized:
            of_base = client.base_url is None or client.base_url.origin == call.url.origin
            own = in_url or (client.auth if of_base else None)
        call.set_auth(own)
        if call.expect:
            call.head_cacheable = False


def prepare(body: Body, options: RequestOptions, client: ClientOptions) -> Prepared:
    """Make the body of a request.

    Raises:
        TypeError: an argument is unknown or of the wrong type, or two of them give a body.
        ValueError: an argument cannot be sent, for example NaN as JSON.
    """
    unknown = options.keys() - RequestOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"a request has no argument {sorted(unknown)[0]!r}")
    given = {"body": body} | {name: options.get(name) for name in ("content", "json", "data", "files")}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1 and names != ["data", "files"]:
        raise TypeError(f"{' and '.join(f'{name}=' for name in names)} exclude each other: a request has one body")
    made, kind = _body(names, given)
    return Prepared(made, kind, options, client)


def _body(names: list[str], given: dict[str, Any]) -> tuple[bytes | Upload | None, str | None]:
    """Return the body and its content type."""
    if not names:
        return None, None
    if names[0] in ("body", "content"):
        return prepare_body(given[names[0]]), None
    if names == ["json"]:
        # RFC 8259 has no NaN and no infinity; it requires UTF-8.
        try:
            text = json.dumps(given["json"], ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError) as error:
            raise type(error)(f"json= cannot be sent: {error}") from error
        return text.encode("utf-8"), "application/json"
    data = given["data"]
    if isinstance(data, str | bytes | bytearray | memoryview):
        raise TypeError("data= is a form; give bytes as content=")
    if names == ["data"]:
        return encode_pairs(data, "data").encode("ascii"), "application/x-www-form-urlencoded"
    boundary = secrets.token_hex(16)
    source = encode_multipart(data, given["files"], boundary)
    return Upload(source), f"multipart/form-data; boundary={boundary}"
