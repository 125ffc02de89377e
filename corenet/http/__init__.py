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
    HttpStatusError,
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
from corenet.http.headers import Headers
from corenet.http.pool import Limits
from corenet.http.response import Response, StreamedResponse
from corenet.http.trace import TracePoint
from corenet.http.url import Origin, Url, parse_url

if TYPE_CHECKING:
    from corenet.http.cache import Cache
    from corenet.http.cookies import Cookie, CookieJar
    from corenet.http.hsts import HstsStore
    from corenet.http.proxies import Proxies, Proxy

__all__ = [
    "Cache",
    "ConnectError",
    "Cookie",
    "CookieJar",
    "DecodeError",
    "Headers",
    "HstsStore",
    "Http2Error",
    "HttpClient",
    "HttpError",
    "HttpStatusError",
    "InvalidUrl",
    "Limits",
    "LocalProtocolError",
    "NameResolutionError",
    "Origin",
    "Proxies",
    "Proxy",
    "ProxyError",
    "RedirectError",
    "RemoteProtocolError",
    "Response",
    "ResponseTooLarge",
    "ServerDisconnected",
    "StreamedResponse",
    "Timeout",
    "TimeoutExceeded",
    "TlsError",
    "TracePoint",
    "Url",
    "get",
    "parse_url",
]

# Loaded when first used: most programs need none of them.
_LAZY = {
    "Cache": "corenet.http.cache",
    "Cookie": "corenet.http.cookies",
    "CookieJar": "corenet.http.cookies",
    "HstsStore": "corenet.http.hsts",
    "Proxies": "corenet.http.proxies",
    "Proxy": "corenet.http.proxies",
}
__getattr__, __dir__ = lazy_exports(globals(), _LAZY)
