"""Public names of the HTTP package: an HTTPS client, its errors, and the sans-IO HTTP/1.1 codec.

`corenet.get` and `corenet.HttpClient` are defined here. The codec (`H1Codec` and its events) also works for servers.
"""

from typing import TYPE_CHECKING

from corenet.core import lazy_exports
from corenet.http.client import HttpClient, Timeout, get
from corenet.http.errors import (
    ConnectError,
    DecodeError,
    Http2Error,
    HttpError,
    InvalidUrl,
    LocalProtocolError,
    NameResolutionError,
    ProxyError,
    RedirectError,
    RemoteProtocolError,
    ResponseTooLarge,
    ServerDisconnected,
    TimeoutExceeded,
    TlsError,
)
from corenet.http.events import Informational
from corenet.http.facts import ConnectionFacts
from corenet.http.headers import Headers
from corenet.http.pool import Limits
from corenet.http.response import HttpStatusError, Response, StreamedResponse
from corenet.http.trace import TracePoint
from corenet.http.url import Origin, Url, parse_url

if TYPE_CHECKING:
    from corenet.http.auth import Auth, BasicAuth, BearerAuth
    from corenet.http.cache import Cache
    from corenet.http.cookies import Cookie, CookieJar
    from corenet.http.digest import DigestAuth
    from corenet.http.event_stream import ServerSentEvent
    from corenet.http.hsts import HstsStore
    from corenet.http.links import Link
    from corenet.http.netrc_auth import NetrcAuth
    from corenet.http.options import RequestOptions
    from corenet.http.proxies import Proxies, Proxy
    from corenet.http.retries import Retries

__all__ = [
    "Auth",
    "BasicAuth",
    "BearerAuth",
    "Cache",
    "ConnectError",
    "ConnectionFacts",
    "Cookie",
    "CookieJar",
    "DecodeError",
    "DigestAuth",
    "Headers",
    "HstsStore",
    "Http2Error",
    "HttpClient",
    "HttpError",
    "HttpStatusError",
    "Informational",
    "InvalidUrl",
    "Limits",
    "Link",
    "LocalProtocolError",
    "NameResolutionError",
    "NetrcAuth",
    "Origin",
    "Proxies",
    "Proxy",
    "ProxyError",
    "RedirectError",
    "RemoteProtocolError",
    "RequestOptions",
    "Response",
    "ResponseTooLarge",
    "Retries",
    "ServerDisconnected",
    "ServerSentEvent",
    "StreamedResponse",
    "Timeout",
    "TimeoutExceeded",
    "TlsError",
    "TracePoint",
    "Url",
    "get",
    "parse_url",
]

# What most programs do without is loaded when it is first used.
__getattr__, __dir__ = lazy_exports(
    globals(),
    {
        "Auth": "corenet.http.auth",
        "BasicAuth": "corenet.http.auth",
        "BearerAuth": "corenet.http.auth",
        "Cache": "corenet.http.cache",
        "Cookie": "corenet.http.cookies",
        "CookieJar": "corenet.http.cookies",
        "DigestAuth": "corenet.http.digest",
        "HstsStore": "corenet.http.hsts",
        "Link": "corenet.http.links",
        "NetrcAuth": "corenet.http.netrc_auth",
        "RequestOptions": "corenet.http.options",
        "Proxies": "corenet.http.proxies",
        "Proxy": "corenet.http.proxies",
        "Retries": "corenet.http.retries",
        "ServerSentEvent": "corenet.http.event_stream",
    },
)
