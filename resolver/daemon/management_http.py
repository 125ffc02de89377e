"""The HTTP server of the metrics and of the web page: one request for each connection, on the loop that serves clients.

A request is a head without a body (RFC 9112): GET or HEAD, a path, fields. Its size, the time for sending it and for
reading the reply, and the number of connections are bounded (CVE-2026-33256). States of a connection: reading the head,
replying, closed. Whatever is wrong with a head, `reply` is not called, and the connection is closed after the
refusal. Subclasses decide what a path means.
"""

import abc
import asyncio
import logging
import re
from collections.abc import Mapping
from typing import NamedTuple

from resolver.daemon.management import ManagementServer

__all__ = ["METHODS", "TEXT", "HttpServer", "Reply", "Request", "parse_head", "wrong_method"]

logger = logging.getLogger(__name__)

TEXT = "text/plain; charset=utf-8"
METHODS = ("GET", "HEAD")
ONCE = ("host", "authorization")
"""Fields that have one meaning only: a second one is an error (RFC 9112 section 3.2)."""

_LINE = re.compile(rb"([!-~]+) (/[!-~]*) HTTP/1\.[0-9]")
# The blanks around a value are a part of the second group: apart, they could be matched in many ways.
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t -~\x80-\xff]*)")


class Request(NamedTuple):
    """The head of a request. Names of `fields` are in lower case. `local` is the address that the client has used."""

    method: str
    path: str
    query: str
    fields: Mapping[str, str]
    local: str = ""


class Reply(NamedTuple):
    """What is sent: `fields` are whole lines without their ends."""

    status: str
    body: bytes
    kind: str = TEXT
    fields: tuple[str, ...] = ()


def parse_head(head: bytes) -> Request | str:
    """The request in `head`, which ends with an empty line; or what is wrong with it."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    line = _LINE.fullmatch(first)
    if line is None:
        return "not an HTTP/1 request for a path"
    fields: dict[str, str] = {}
    for text in lines:
        field = _FIELD.fullmatch(text)
        if field is None:
            return "a header field is malformed"
        name = field[1].decode("ascii").lower()
        if name in fields and name in ONCE:
            return f"there is more than one {name} field"
        fields[name] = field[2].strip(b" \t").decode("latin-1")
    path, _, query = line[2].decode("ascii").partition("?")
    return Request(line[1].decode("ascii"), path, query, fields)


class HttpServer(ManagementServer):
    """Accepts connections and has `reply` answer the request of each.

    Args:
        connections: most connections at the same time.
        request: most bytes of a head.
        timeout: seconds for the client to send the head, and again to read the reply.
    """

    def __init__(self, connections: int, request: int, timeout: float) -> None:
        super().__init__(connections, request, timeout)
        self._timeout = timeout

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        try:
            async with asyncio.timeout(self._timeout):
                request = await _read(reader)
            self.note_request()
            if isinstance(request, Request):
                local = writer.get_extra_info("sockname")
                request = request._replace(local=str(local[0]) if isinstance(local, tuple) else "")
                reply = await self.reply(request)
                bare = request.method == "HEAD"
            else:
                reply, bare = self.refuse(request), False
            writer.write(_encode(reply, bare))
            async with asyncio.timeout(self._timeout):
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            self.note_lost()

    @abc.abstractmethod
    async def reply(self, request: Request) -> Reply:
        """The reply to a well-formed request of any method."""

    def refuse(self, reply: Reply) -> Reply:
        """What is sent to a client whose head is refused with `reply`."""
        return reply

    def note_lost(self) -> None:
        """A client has not sent its request, or not read the reply, in time."""
        logger.debug("management: connection closed: the request was incomplete or timed out")


async def _read(reader: asyncio.StreamReader) -> Request | Reply:
    """The request, or the refusal of what was sent.

    Raises:
        asyncio.IncompleteReadError: the client has closed the connection before.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return Reply("431 Request Header Fields Too Large", b"request header fields are too large\n")
    found = parse_head(head)
    return found if isinstance(found, Request) else Reply("400 Bad Request", f"{found}\n".encode())


def wrong_method() -> Reply:
    """The refusal of a method that is not among `METHODS`."""
    return Reply("405 Method Not Allowed", b"only GET and HEAD are allowed\n", fields=("Allow: GET, HEAD",))


def _encode(reply: Reply, bare: bool) -> bytes:
    """`reply` in octets; `bare`: without its body."""
    lines = (
        f"HTTP/1.1 {reply.status}", f"Content-Type: {reply.kind}", f"Content-Length: {len(reply.body)}",
        "Cache-Control: no-store", *reply.fields, "Connection: close", "", "",
    )
    return "\r\n".join(lines).encode("ascii") + (b"" if bare else reply.body)
