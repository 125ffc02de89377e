"""The types of the arguments of `HttpClient`, checked once, when a client is made.

Headers, auth, timeout and proxy are checked where they are converted.
"""

from collections.abc import Mapping
from typing import Any

from corenet.http.arguments import expect, expect_callable, integer
from corenet.http.pool import Limits
from corenet.limits import HTTP_BODY_SIZE, HTTP_DECODED_SIZE, HTTP_HEAD_SIZE, HTTP_MAX_REDIRECTS
from corenet.tls.context import expect_context

__all__ = ["check_client"]

_TEXTS = ("base_url", "unix_socket", "local_address", "connect_to")
_SWITCHES = (
    "http2", "allow_downgrade", "decode", "url_credentials", "expect_continue", "trust_env", "https_records", "dane",
)

_INTEGERS = (("max_body", HTTP_BODY_SIZE), ("max_decoded", HTTP_DECODED_SIZE))


def check_client(given: Mapping[str, Any]) -> None:
    """Check the arguments by name. A class is loaded only for an argument that is not None.

    Raises:
        TypeError: one has a wrong type; the message names it.
        ValueError: a number is outside its range.
    """
    for name in _SWITCHES:
        expect(given[name], bool, f"HttpClient {name}", "True or False")
    for name in _TEXTS:
        expect(given[name], (str, type(None)), f"HttpClient {name}", "a str or None")
    if given["trace"] is not None:
        expect_callable(given["trace"], "HttpClient trace", "that takes a TracePoint, or None")
    if given["tls_context"] is not None:
        expect_context(given["tls_context"], "HttpClient tls_context")
    for name, limit in _INTEGERS:
        integer(limit, given[name], f"HttpClient {name}")
    if given["max_head"] is not None:
        integer(HTTP_HEAD_SIZE, given["max_head"], "HttpClient max_head")
    if not isinstance(given["follow_redirects"], bool):
        integer(HTTP_MAX_REDIRECTS, given["follow_redirects"], "HttpClient follow_redirects")
    for name in ("limits", "retries", "cookies", "hsts", "cache"):
        if given[name] is not None:
            kind = _class_of(name)
            expect(given[name], kind, f"HttpClient {name}", f"a corenet.http.{kind.__name__} or None")


def _class_of(name: str) -> type:
    if name == "retries":
        from corenet.http.retries import Retries

        return Retries
    if name == "cookies":
        from corenet.http.cookies import CookieJar

        return CookieJar
    if name == "hsts":
        from corenet.http.hsts import HstsStore

        return HstsStore
    if name == "cache":
        from corenet.http.cache import Cache

        return Cache
    return Limits
