"""The web page of resolverd: shows what the resolver does and why a name fails. It changes nothing.

=========================================  ===================================================================
``GET /``                                  the page, without data; anybody who reaches the listener may read it
``GET /api/v1/overview``                   rates, lists, cache, servers, health: `resolver.daemon.web_data`
``GET /api/v1/explain?name=NAME``          how a query is resolved now: docs/explain.md, section JSON; with ``type``,
                                           and ``cache=no`` for a resolution with an empty cache
=========================================  ===================================================================

Data need ``Authorization: Bearer TOKEN``. The page has the token from a form or from the fragment of its address, which
browsers do not send, so no log or referrer has it. Each request is checked in this order: host, path, method, token.
Wrong tokens never delay a request with the right one. The refusal of a wrong one waits, and few wait at once, so that
guessing is slow and fills neither log nor connections. A connection that sends nothing keeps no other out.
"""

import asyncio
import json
import logging
from typing import Any
from urllib.parse import parse_qsl

from resolver import limits
from resolver.daemon.management_http import METHODS, HttpServer, Reply, Request, wrong_method
from resolver.daemon.web_access import WebAccess
from resolver.daemon.web_data import DataSource, WebData
from resolver.daemon.web_page import load_page
from resolver.log_limit import LineLimit

__all__ = ["RESULTS", "WebServer", "read_question"]

logger = logging.getLogger(__name__)

REQUEST = limits.WEB_REQUEST
TIMEOUT = limits.WEB_TIMEOUT / 1000
CONNECTIONS = limits.WEB_CONNECTIONS
REFUSAL = limits.WEB_REFUSAL / 1000
EXPLAIN_SECONDS = limits.WEB_EXPLAIN_TIMEOUT / 1000

JSON = "application/json"
OVERVIEW, EXPLAIN = "/api/v1/overview", "/api/v1/explain"
SERVED = ("page", "overview", "explain")
RESULTS = (*SERVED, "malformed", "host", "path", "method", "no-token", "wrong-token", "busy", "invalid", "failed",
           "connection-limit", "incomplete")
"""How requests end, as they are counted."""
SECURITY_HEADERS = (
    "X-Content-Type-Options: nosniff", "X-Frame-Options: DENY", "Referrer-Policy: no-referrer",
    "Cross-Origin-Resource-Policy: same-origin", "Cross-Origin-Opener-Policy: same-origin",
)
DEFAULT_POLICY = "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'"


class _Refusal(Exception):
    """A request that is not served: how it is counted, and the reply."""

    def __init__(self, result: str, status: str, text: str, *fields: str) -> None:
        super().__init__(text)
        self.result = result
        self.reply = _json(status, {"error": text}, *fields)


class WebServer(HttpServer):
    """The listener. `switch` changes who may read."""

    def __init__(self, source: DataSource, access: "WebAccess | None") -> None:
        """`access` is None when the token cannot be read: then no data are served.

        Raises:
            OSError: a file of the package cannot be read.
        """
        super().__init__(CONNECTIONS, REQUEST, TIMEOUT)
        self._source = source
        self._access = access
        self._data = WebData(source)
        self._page, policy = load_page()
        self._page_policy = f"Content-Security-Policy: {policy}"
        self._results = dict.fromkeys(RESULTS, 0)
        self._refusals = 0
        self._explains = 0
        self._log_limit = LineLimit(limits.LOG_INTERVAL.default)

    def switch(self, access: WebAccess) -> None:
        """Admit by `access` from now on."""
        self._access = access

    def statistics(self) -> dict[str, Any]:
        """The requests by result."""
        return {"requests": {**self._results, "connection-limit": self.rejected}}

    async def reply(self, request: Request) -> Reply:
        """The reply to a request."""
        try:
            result, reply = await self._serve(request)
        except _Refusal as refusal:
            result, reply = refusal.result, refusal.reply
        self._results[result] += 1
        return _with_security_headers(reply)

    def refuse(self, reply: Reply) -> Reply:
        self._results["malformed"] += 1
        return _with_security_headers(reply)

    def note_lost(self) -> None:
        self._results["incomplete"] += 1

    async def _serve(self, request: Request) -> tuple[str, Reply]:
        access = self._access
        if access is not None and not access.admits_host(request.fields.get("host"), request.local):
            raise _Refusal("host", "421 Misdirected Request",
                           "the Host header is not allowed; web.hosts may name it")
        if request.path not in ("/", OVERVIEW, EXPLAIN):
            raise _Refusal("path", "404 Not Found", "there is no such page")
        if request.method not in METHODS:
            return "method", wrong_method()
        if request.path == "/":
            return "page", Reply("200 OK", self._page, "text/html; charset=utf-8", (self._page_policy,))
        if access is None:
            raise _Refusal("failed", "503 Service Unavailable", "the token file cannot be read; the log says why")
        await self._check_token(access, request)
        try:
            if request.path == OVERVIEW:
                return "overview", _json("200 OK", await self._data.overview())
            return "explain", await self._explain(request)
        except ValueError as error:
            if request.path == EXPLAIN:
                raise _Refusal("invalid", "400 Bad Request", str(error)) from None
            raise _Refusal("failed", "503 Service Unavailable", str(error)) from None
        except OSError as error:
            raise _Refusal("failed", "503 Service Unavailable", error.strerror or str(error)) from None

    async def _check_token(self, access: WebAccess, request: Request) -> None:
        given = request.fields.get("authorization")
        challenge = "WWW-Authenticate: Bearer"
        if given is None:
            raise _Refusal("no-token", "401 Unauthorized", "a token is needed", challenge)
        if access.admits_token(given):
            return
        left_out = self._log_limit.admit("token", asyncio.get_running_loop().time())
        if left_out is not None:
            logger.warning("web: a request with a wrong token was refused (%d more since the last line)", left_out)
        if self._refusals >= limits.WEB_REFUSALS:
            raise _Refusal("wrong-token", "429 Too Many Requests", "too many wrong tokens", "Retry-After: 1")
        self._refusals += 1
        try:
            await asyncio.sleep(REFUSAL)
        finally:
            self._refusals -= 1
        raise _Refusal("wrong-token", "401 Unauthorized", "the token is wrong", challenge)

    async def _explain(self, request: Request) -> Reply:
        name, rtype, fresh = read_question(request.query)
        if self._explains >= limits.WEB_EXPLAINS:
            raise _Refusal("busy", "503 Service Unavailable", "other explanations are being made; try again",
                           "Retry-After: 1")
        self._explains += 1
        try:
            text = await self._source.explain(name, rtype, EXPLAIN_SECONDS, fresh=fresh)
        finally:
            self._explains -= 1
        return Reply("200 OK", text.encode(), JSON)


def read_question(query: str) -> tuple[str, str, bool]:
    """Name and type in the query part of a request, and whether the cache is not used.

    Raises:
        ValueError: it is too long, or has other fields.
    """
    if len(query) > limits.WEB_QUERY:
        raise ValueError(f"the query part is longer than {limits.WEB_QUERY} characters")
    fields = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=3, errors="strict"))
    cache = fields.pop("cache", "yes")
    if not fields.keys() <= {"name", "type"} or "name" not in fields or cache not in ("yes", "no"):
        raise ValueError("the fields are name, type, and cache, which is yes or no")
    return fields["name"].strip(), fields.get("type", "A").strip().upper() or "A", cache == "no"


def _json(status: str, content: object, *fields: str) -> Reply:
    return Reply(status, json.dumps(content, separators=(",", ":")).encode(), JSON, fields)


def _with_security_headers(reply: Reply) -> Reply:
    """`reply` with the fields that all replies have."""
    policy = () if any(field.startswith("Content-Security-Policy") for field in reply.fields) else (DEFAULT_POLICY,)
    return reply._replace(fields=(*reply.fields, *policy, *SECURITY_HEADERS))
