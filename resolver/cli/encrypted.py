"""One query to one server over TLS or HTTPS, for `rdig @server +tls` and `+https`.

The certificate is checked before the query is sent. After a failure, the query is never sent unencrypted. The output
shows the connection: duration of connecting and of the handshake, version, ALPN, certificate and key.
"""

import asyncio
import time
from typing import TYPE_CHECKING, Any

from corenet.http.errors import Http2Error, HttpError
from corenet.http.events import Data, End, Request, Response
from corenet.http.h1 import H1Codec
from corenet.http.h2 import H2Connection
from corenet.http.h2_events import StreamReset, error_name
from resolver.cli.query import LENGTH_SIZE, Exchange, NoReplyError, mismatch, system_words
from resolver.limits import DOH_REPLY_HEAD
from resolver.net.client_contexts import TlsContexts
from resolver.net.https_upstream import HTTP2, POST, end_of_response, request_fields, response_problem
from resolver.net.quick_ack import acknowledge_now
from resolver.net.tls_client import ConnectionFacts, describe_tls_failure
from resolver.upstream_address import HTTPS, Encryption
from resolver.wire import consts as c
from resolver.wire.message import MessageView

if TYPE_CHECKING:
    from collections.abc import Iterable

    from corenet.http.events import Event

__all__ = ["exchange_encrypted"]

READ_SIZE = 65_536


async def exchange_encrypted(
    packet: bytes, host: str, port: int, encryption: Encryption, *, cafile: str, timeout: float
) -> Exchange:
    """Send `packet` to `host` over TLS or HTTPS; `timeout` (seconds) is for connecting, handshake and reply together.

    Raises:
        NoReplyError: there is no usable reply; the message names the reason.
    """
    over = encryption.protocol.upper()
    if encryption.protocol == HTTPS:
        packet = b"\0\0" + packet[2:]  # RFC 8484 section 4.1
    try:
        async with asyncio.timeout(timeout):
            return await _exchange(packet, host, port, encryption, cafile)
    except TimeoutError:
        raise NoReplyError(f"no reply from {host} port {port} over {over} within {timeout:g} s") from None
    except asyncio.IncompleteReadError:
        raise NoReplyError(f"{host} port {port} closed the {over} connection before its reply was complete") from None
    except NoReplyError as error:
        raise NoReplyError(f"{host} port {port} over {over}: {error}") from None
    except OSError as error:
        reason = describe_tls_failure(error)
        if reason is None:
            reason = system_words(error) if error.errno else "the server ended the connection during the handshake"
        raise NoReplyError(f"{host} port {port} over {over}: {reason}") from None
    except HttpError as error:
        raise NoReplyError(f"{host} port {port} over {over}: {error}") from None


async def _exchange(packet: bytes, host: str, port: int, encryption: Encryption, cafile: str) -> Exchange:
    try:
        context = TlsContexts(cafile).make(encryption)
    except ValueError as error:
        raise NoReplyError(f"certificate authorities: {error}") from None
    began = time.monotonic()
    reader, writer = await asyncio.open_connection(host, port)
    try:
        connected = time.monotonic()
        await writer.start_tls(context, server_hostname=encryption.name or host)
        secured = time.monotonic()
        facts = ConnectionFacts(writer.get_extra_info("ssl_object"), secured - began)
        if encryption.protocol == HTTPS:
            name = encryption.name or host
            data = await _post(packet, reader, writer, name, port, encryption.path, facts)
        else:
            writer.write(len(packet).to_bytes(LENGTH_SIZE, "big") + packet)
            acknowledge_now(writer.transport)
            data = await reader.readexactly(int.from_bytes(await reader.readexactly(LENGTH_SIZE), "big"))
        ended = time.monotonic()
        shown = facts.describe() | {"handshake_seconds": secured - connected}
    finally:
        writer.close()
    view, reason = mismatch(MessageView.parse(packet), data)
    if view is None:
        raise NoReplyError(reason)
    return Exchange(view, len(data), encryption.protocol, (ended - began) * 1000, connection=shown)


async def _post(
    packet: bytes,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    name: str,
    port: int,
    path: str,
    facts: ConnectionFacts,
) -> bytes:
    """The body of the response to a POST of `packet`, over HTTP/2 or HTTP/1.1 by ALPN.

    Raises:
        HttpError: the response is not valid HTTP.
        NoReplyError: the response has no DNS message.
    """
    host = f"[{name}]" if ":" in name else name
    fields = request_fields(host if port == 443 else f"{host}:{port}", len(packet))
    target = path.encode("ascii")
    ssl_object: Any = facts.ssl_object
    h2: H2Connection | None = None
    h1: H1Codec | None = None
    if ssl_object.selected_alpn_protocol() == "h2":
        facts.http = "2"
        h2 = H2Connection(max_head=DOH_REPLY_HEAD)
        h2.send_data(h2.send_request(Request(POST, target, fields, HTTP2)), packet, True)
        writer.write(h2.data_to_send())
    else:
        facts.http = "1.1"
        h1 = H1Codec(max_head=DOH_REPLY_HEAD)
        head = h1.send_request(POST, target, fields, -1)
        writer.write(head + h1.send(Data(packet)) + h1.send(End()))
    acknowledge_now(writer.transport)
    body = bytearray()
    while True:
        received = await reader.read(READ_SIZE)
        if not received and (h1 is None or not h1.started):
            raise asyncio.IncompleteReadError(bytes(body), None)
        events: Iterable[tuple[int, Event]]
        failure: Http2Error | None = None
        if h1 is not None:
            events = [(0, event) for event in (h1.feed(received) if received else end_of_response(h1, ssl_object))]
        else:
            assert h2 is not None
            try:
                events = h2.feed(received)
            except Http2Error as error:
                # A reply that was complete before the fault counts.
                events, failure = error.events, error
        for stream, event in events:
            if type(event) is Response:
                problem = response_problem(event.status, event.headers)
                if problem:
                    raise NoReplyError(problem)
            elif isinstance(event, Data):
                body += event.data
                if len(body) > c.MESSAGE_MAX:
                    raise NoReplyError(f"the response is larger than {c.MESSAGE_MAX} bytes")
                if h2 is not None:
                    h2.acknowledge(stream, len(event.data))
            elif isinstance(event, StreamReset):
                raise NoReplyError(f"the HTTP/2 stream was reset: {event.reason or error_name(event.code)}")
            elif isinstance(event, End):
                return bytes(body)
        if failure is not None:
            raise failure
        if h2 is not None:
            writer.write(h2.data_to_send())
