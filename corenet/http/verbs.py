"""The methods of a client that are named after the methods of HTTP: each is one call like `request`.

They return its coroutine instead of awaiting it, which saves one coroutine.
"""

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from corenet.http.request_state import Body, FieldTypes, Timeout
from corenet.http.response import Response

if TYPE_CHECKING:
    from typing import Unpack

    from corenet.http.options import RequestOptions

__all__ = ["Verbs"]


class Verbs:
    """The base of `HttpClient`."""

    def _request(
        self,
        method: str,
        url: str,
        headers: FieldTypes,
        body: Body,
        timeout: Timeout | float | None,
        options: "RequestOptions",
    ) -> Coroutine[Any, Any, Response]:
        raise NotImplementedError

    def get(
        self,
        url: str,
        *,
        headers: FieldTypes = (),
        timeout: Timeout | float | None = None,
        **options: "Unpack[RequestOptions]",
    ) -> Coroutine[Any, Any, Response]:
        """Send a GET and return the whole response. Raises what `request` raises."""
        return self._request("GET", url, headers, None, timeout, options)

    def head(
        self,
        url: str,
        *,
        headers: FieldTypes = (),
        timeout: Timeout | float | None = None,
        **options: "Unpack[RequestOptions]",
    ) -> Coroutine[Any, Any, Response]:
        """Send a HEAD and return the whole response. Raises what `request` raises."""
        return self._request("HEAD", url, headers, None, timeout, options)

    def delete(
        self,
        url: str,
        *,
        headers: FieldTypes = (),
        timeout: Timeout | float | None = None,
        **options: "Unpack[RequestOptions]",
    ) -> Coroutine[Any, Any, Response]:
        """Send a DELETE and return the whole response. Raises what `request` raises."""
        return self._request("DELETE", url, headers, None, timeout, options)

    def post(
        self,
        url: str,
        body: Body = None,
        *,
        headers: FieldTypes = (),
        timeout: Timeout | float | None = None,
        **options: "Unpack[RequestOptions]",
    ) -> Coroutine[Any, Any, Response]:
        """Send a POST and return the whole response. Raises what `request` raises."""
        return self._request("POST", url, headers, body, timeout, options)

    def put(
        self,
        url: str,
        body: Body = None,
        *,
        headers: FieldTypes = (),
        timeout: Timeout | float | None = None,
        **options: "Unpack[RequestOptions]",
    ) -> Coroutine[Any, Any, Response]:
        """Send a PUT and return the whole response. Raises what `request` raises."""
        return self._request("PUT", url, headers, body, timeout, options)

    def patch(
        self,
        url: str,
        body: Body = None,
        *,
        headers: FieldTypes = (),
        timeout: Timeout | float | None = None,
        **options: "Unpack[RequestOptions]",
    ) -> Coroutine[Any, Any, Response]:
        """Send a PATCH and return the whole response. Raises what `request` raises."""
        return self._request("PATCH", url, headers, body, timeout, options)
