"""A scripted server of DNS over QUIC, on the library's connection, with none of our code."""

import asyncio
from collections.abc import Callable
from typing import Any

from qh3.quic import events
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnection
from support.certs import Leaf
from support.upstream_peers import echo

__all__ = ["QuicServer", "framed"]

Script = Callable[["QuicServer", QuicConnection, int, bytes], None]


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


def answer(server: "QuicServer", quic: QuicConnection, stream: int, query: bytes) -> None:
    """The usual script: the reply."""
    quic.send_stream_data(stream, framed(echo(query)[0]), True)


class QuicServer(asyncio.DatagramProtocol):
    """`queries` has the octets of every complete stream, `cancelled` the codes with which streams were stopped."""

    def __init__(self, leaf: Leaf, script: Script, alpn: str) -> None:
        self.configuration = QuicConfiguration(is_client=False, alpn_protocols=[alpn])
        self.configuration.load_cert_chain(leaf.certificate.read_bytes(), leaf.key.read_bytes())
        self.script = script
        self.connections: list[QuicConnection] = []
        self.queries: list[bytes] = []
        self.cancelled: list[int] = []
        self.tickets: dict[bytes, Any] = {}
        self.ended: list[int] = []
        self._by_id: dict[bytes, QuicConnection] = {}
        self._held: dict[tuple[int, int], bytes] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._transport: Any = None

    @classmethod
    async def start(cls, leaf: Leaf, script: Script = answer, alpn: str = "doq") -> "QuicServer":
        _, server = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: cls(leaf, script, alpn), local_addr=("127.0.0.1", 0)
        )
        return server

    @property
    def port(self) -> int:
        return int(self._transport.get_extra_info("sockname")[1])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        identity = data[6:6 + data[5]] if data[0] & 0x80 else data[1:9]
        quic = self._by_id.get(identity)
        if quic is None:
            quic = QuicConnection(
                configuration=self.configuration,
                original_destination_connection_id=identity,
                # Each is accepted once, as RFC 8446 section 8.1 has it.
                session_ticket_fetcher=lambda label: self.tickets.pop(label, None),
                session_ticket_handler=lambda ticket: self.tickets.update({ticket.ticket: ticket}),
            )
            self.connections.append(quic)
            self._by_id |= {identity: quic, quic.host_cid: quic}
        quic.receive_datagram(data, addr[:2], asyncio.get_running_loop().time())
        self.flush(quic)

    def flush(self, quic: QuicConnection) -> None:
        loop = asyncio.get_running_loop()
        while (event := quic.next_event()) is not None:
            self._note(quic, event)
        for data, to in quic.datagrams_to_send(loop.time()):
            self._transport.sendto(data, to)
        old = self._timers.pop(id(quic), None)
        if old is not None:
            old.cancel()
        when = quic.get_timer()
        if when is not None and not self._transport.is_closing():
            self._timers[id(quic)] = loop.call_at(when, self._expire, quic)

    def _expire(self, quic: QuicConnection) -> None:
        quic.handle_timer(asyncio.get_running_loop().time())
        self.flush(quic)

    def _note(self, quic: QuicConnection, event: events.QuicEvent) -> None:
        if isinstance(event, events.ConnectionIdIssued):
            self._by_id[event.connection_id] = quic
        elif isinstance(event, events.StopSendingReceived):
            self.cancelled.append(event.error_code)
        elif isinstance(event, events.ConnectionTerminated):
            self.ended.append(event.error_code)
        elif isinstance(event, events.StreamDataReceived):
            key = (id(quic), event.stream_id)
            self._held[key] = self._held.get(key, b"") + event.data
            if event.end_stream:
                data = self._held.pop(key)
                assert int.from_bytes(data[:2], "big") == len(data) - 2
                self.queries.append(data[2:])
                self.script(self, quic, event.stream_id, data[2:])

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._transport.close()
