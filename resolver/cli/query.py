"""One query to one server, for `rdig @server`.

A reply is accepted only from the queried address and with the id and question of the query (RFC 5452 section 4). Other
messages are noted in the report and ignored. After a truncated reply, the query is repeated over TCP. The caller builds
the query.
"""

import asyncio
import os
import time
from dataclasses import dataclass, field

from resolver.limits import DIG_ATTEMPTS
from resolver.wire import WireError
from resolver.wire import name as names
from resolver.wire.message import MessageView

__all__ = ["LENGTH_SIZE", "Exchange", "NoReplyError", "exchange", "mismatch", "system_words"]

LENGTH_SIZE = 2  # RFC 1035 section 4.2.2


class NoReplyError(OSError):
    """No usable reply; the message says what happened."""


@dataclass(slots=True)
class Exchange:
    """A reply and its transport. `milliseconds` counts from the packet of the successful attempt."""

    view: MessageView
    octets: int
    transport: str
    milliseconds: float
    notes: list[str] = field(default_factory=list)
    connection: dict[str, object] | None = None
    """Of an encrypted transport: version, certificate, times and so on."""


async def exchange(packet: bytes, host: str, port: int, *, tcp: bool, timeout: float) -> Exchange:
    """Send `packet` to `host` and wait `timeout` seconds for each of a few attempts.

    Raises:
        NoReplyError: no attempt got a matching reply.
    """
    query = MessageView.parse(packet)
    notes: list[str] = []
    if not tcp:
        result = await _over_udp(packet, query, host, port, timeout, notes)
        if not result.view.tc:
            return result
        notes.append("the UDP reply was truncated, retried over TCP")
    return await _over_tcp(packet, query, host, port, timeout, notes)


def mismatch(query: MessageView, data: bytes) -> tuple[MessageView | None, str]:
    """The parsed reply when `data` answers `query`, else None and the reason."""
    try:
        view = MessageView.parse(data)
    except WireError as error:
        return None, f"ignored {len(data)} octets that are not a DNS message: {error.reason}"
    if not view.qr:
        return None, "ignored a message that is not a response"
    if view.id != query.id:
        return None, f"ignored a reply with id {view.id} instead of {query.id}"
    if view.qname is None:
        # A server that cannot parse the query may omit the question, but only in an error (RFC 1035 section 4.1.1).
        return (view, "") if view.rcode else (None, "ignored a reply without a question")
    if query.qname is None or not names.equal(view.qname, query.qname) or view.qtype != query.qtype:
        return None, f"ignored a reply to another question: {names.to_text(view.qname)}"
    return view, ""


# --- transports -------------------------------------------------------------------------------------------------------


class _Datagrams(asyncio.DatagramProtocol):
    """Collects datagrams of a connected socket; the kernel drops those from other addresses."""

    def __init__(self) -> None:
        self.arrived: asyncio.Queue[bytes | OSError] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.arrived.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        self.arrived.put_nowait(exc if isinstance(exc, OSError) else OSError(str(exc)))


async def _over_udp(
    packet: bytes, query: MessageView, host: str, port: int, timeout: float, notes: list[str]
) -> Exchange:
    loop = asyncio.get_running_loop()
    try:
        transport, protocol = await loop.create_datagram_endpoint(_Datagrams, remote_addr=(host, port))
    except OSError as error:
        raise NoReplyError(f"cannot send to {host} port {port}: {system_words(error)}")
    try:
        for _ in range(DIG_ATTEMPTS):
            began = time.monotonic()
            transport.sendto(packet)
            try:
                async with asyncio.timeout(timeout):
                    while True:
                        data = await protocol.arrived.get()
                        if isinstance(data, OSError):
                            raise NoReplyError(f"{host} port {port} over UDP: {system_words(data)}")
                        view, reason = mismatch(query, data)
                        if view is not None:
                            return Exchange(view, len(data), "udp", (time.monotonic() - began) * 1000, notes)
                        notes.append(reason)
            except TimeoutError:
                notes.append(f"no reply over UDP within {timeout:g} s")
    finally:
        transport.close()
    raise NoReplyError(_failure(host, port, notes))


async def _over_tcp(
    packet: bytes, query: MessageView, host: str, port: int, timeout: float, notes: list[str]
) -> Exchange:
    began = time.monotonic()
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(len(packet).to_bytes(LENGTH_SIZE, "big") + packet)
                size = int.from_bytes(await reader.readexactly(LENGTH_SIZE), "big")
                data = await reader.readexactly(size)
            finally:
                writer.close()
    except TimeoutError:
        raise NoReplyError(f"no reply from {host} port {port} over TCP within {timeout:g} s")
    except asyncio.IncompleteReadError:
        raise NoReplyError(f"{host} port {port} closed the TCP connection before its reply was complete")
    except OSError as error:
        raise NoReplyError(f"{host} port {port} over TCP: {system_words(error)}")
    view, reason = mismatch(query, data)
    if view is None:
        raise NoReplyError(f"{host} port {port} over TCP: {reason}")
    return Exchange(view, len(data), "tcp", (time.monotonic() - began) * 1000, notes)


def system_words(error: OSError) -> str:
    """The system's text for an error; that of asyncio repeats the address."""
    if error.errno is None or error.errno <= 0:  # errors of getaddrinfo are negative
        return str(error.strerror or error)
    return os.strerror(error.errno)


def _failure(host: str, port: int, notes: list[str]) -> str:
    return f"no reply from {host} port {port}: " + "; ".join(dict.fromkeys(notes))
