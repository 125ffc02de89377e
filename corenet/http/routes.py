"""Routes: how the connections of a client reach their origins. A proxy, a Unix socket, given addresses, or directly.

A client without any of these has no `Router`, does not import `corenet.http.proxies`, and pays nothing. The route is a
part of the pool's key, so a connection made through one proxy, or with one user's credentials, never carries a request
that belongs to another. A client that has a proxy sends the field Proxy-Authorization to proxies only; for a client
that has none it is a field like any other, as for curl, because some gateways ask for it.
"""

import os
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from corenet.http.arguments import expect
from corenet.http.url import Origin, Url

if TYPE_CHECKING:
    from corenet.http.proxies import Proxies, Proxy

__all__ = ["DIRECT", "Http1Key", "PoolKey", "Route", "RoutedOrigin", "Router", "router_of"]

_PROXY_AUTHORIZATION = b"proxy-authorization"


class Route(NamedTuple):
    """The way to an origin. `proxy`, `unix_socket` and `connect_to`, the IP address that is connected to, exclude each
    other; `local_address` is bound first."""

    proxy: "Proxy | None" = None
    unix_socket: str | None = None
    local_address: str | None = None
    connect_to: str | None = None

    def forwards(self, scheme: str) -> bool:
        """Whether the proxy forwards the requests of URLs with `scheme`; otherwise it opens a tunnel to the origin."""
        return scheme == "http" and self.proxy is not None and self.proxy.kind == "http"


DIRECT = Route()


class RoutedOrigin(NamedTuple):
    """A key of the pool: the origin and the route to it."""

    scheme: str
    host: str
    port: int
    route: Route


class Http1Key(NamedTuple):
    """A key of the pool for connections that do not offer HTTP/2, because the server has required HTTP/1.1."""

    scheme: str
    server: Origin | RoutedOrigin


PoolKey = Origin | RoutedOrigin | Http1Key


class Router:
    """Finds the route of each URL, and changes the requests that a proxy forwards.

    Raises:
        ValueError: the arguments exclude each other, or `local_address` or `connect_to` is not an address.
    """

    def __init__(
        self, proxy: "str | Proxy | Proxies | None", unix_socket: str | None, local_address: str | None,
        connect_to: str | None = None,
    ) -> None:
        from corenet.http.proxies import Proxies, Proxy

        if unix_socket is not None and (proxy is not None or local_address is not None):
            raise ValueError("HttpClient unix_socket: proxy and local_address cannot be used with it")
        if connect_to is not None and (proxy is not None or unix_socket is not None):
            raise ValueError("HttpClient connect_to: proxy and unix_socket cannot be used with it")
        for name, text in (("local_address", local_address), ("connect_to", connect_to)):
            if text is None:
                continue
            try:
                ip_address(text)
            except ValueError:
                raise ValueError(f"HttpClient {name}: {text!r} is not an IP address") from None
        expect(proxy, (str, Proxy, Proxies, type(None)), "HttpClient proxy", "a URL as str, a Proxy, Proxies or None")
        if isinstance(proxy, str):
            proxy = Proxy(proxy)
        self._proxies = Proxies(http=proxy, https=proxy) if isinstance(proxy, Proxy) else proxy
        given = self._proxies
        self._has_proxy = given is not None and (given.http is not None or given.https is not None)
        self._unix_socket = unix_socket
        self._local_address = local_address
        self._connect_to = connect_to

    @property
    def http_proxy(self) -> "Proxy | None":
        """The proxy of URLs of http."""
        return None if self._proxies is None else self._proxies.http

    def route(self, url: Url) -> Route:
        """The route of requests for `url`."""
        proxy = None if self._proxies is None else self._proxies.find(url)
        return Route(proxy, self._unix_socket, self._local_address, self._connect_to)

    def key(self, url: Url) -> RoutedOrigin:
        """The pool's key of requests for `url`."""
        return RoutedOrigin(*url.origin, self.route(url))

    def request(self, url: Url, fields: list[tuple[bytes, bytes]]) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """The request target and fields for `url`: the absolute form for a proxy that forwards (RFC 9112 3.2.2)."""
        route = self.route(url)
        if route.proxy is None or not route.forwards(url.scheme):
            if not self._has_proxy:
                return url.target, fields
            return url.target, [field for field in fields if field[0].lower() != _PROXY_AUTHORIZATION]
        if all(name.lower() != _PROXY_AUTHORIZATION for name, _ in fields):
            fields = fields + route.proxy.authorization
        return str(url.origin).encode("ascii") + url.target, fields


def router_of(
    proxy: "str | Proxy | Proxies | None", trust_env: bool, unix_socket: str | None, local_address: str | None,
    connect_to: str | None = None,
) -> Router | None:
    """The router for a client's arguments, None when every connection goes straight to its origin.

    Raises:
        InvalidUrl, ValueError: as `Router`; or `trust_env` together with `proxy`.
    """
    if trust_env:
        if proxy is not None:
            raise ValueError("HttpClient trust_env: the environment is not read when proxy is given")
        from corenet.http.proxies import Proxies

        proxy = Proxies.from_environment(os.environ)
    if proxy is None and unix_socket is None and local_address is None and connect_to is None:
        return None
    return Router(proxy, unix_socket, local_address, connect_to)
