"""A pytest plugin for httpx's own suite: with CORENET_SUITE_LOOP=corenet its clients use our transport by default.

The class takes the arguments that httpx gives its own transport.
"""

import os
import ssl
from typing import Any

import httpx

if os.environ.get("CORENET_SUITE_LOOP") == "corenet":
    from corenet.adapters.httpx import Transport
    from corenet.http import Limits

    class HttpxTransport(Transport):
        """Our transport behind the arguments of `httpx.AsyncHTTPTransport`."""

        def __init__(
            self,
            verify: ssl.SSLContext | str | bool = True,
            cert: Any = None,
            trust_env: bool = True,
            http1: bool = True,
            http2: bool = False,
            limits: httpx.Limits = httpx.Limits(),  # noqa: B008 - never changed
            proxy: Any = None,
        ) -> None:
            assert http1
            assert proxy is None
            most = Limits() if limits.max_connections is None else Limits(
                connections=limits.max_connections, per_origin=limits.max_connections
            )
            context = httpx.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env)
            super().__init__(tls_context=context, http2=http2, limits=most)

    httpx._client.AsyncHTTPTransport = HttpxTransport
