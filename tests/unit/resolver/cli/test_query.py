"""One query to one server: which messages are accepted as its reply, and which are ignored.

The servers of this file are a few lines each and misbehave as needed.
"""

import asyncio
from collections.abc import Callable

import pytest

from resolver.cli.query import NoReplyError, exchange, mismatch
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import Builder, make_query
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

NAME = names.from_text("www.example.")
QUERY = make_query(1000, NAME, c.A)
GONE = names.from_text("other.example.")


def reply(number: int = 1000, qname: bytes | None = NAME, *, flags: int = c.QR, qtype: int = c.A) -> bytes:
    builder = Builder(512)
    builder.start(number, flags, qname, qtype if qname else 0)
    if qname and not flags & c.TC:
        builder.add(c.ANSWER, RRset(qname, c.A, 60, [b"\xc0\0\2\1"]))
    return builder.finish()


Datagrams = Callable[[bytes], list[bytes]]
Streams = Callable[[bytes], bytes]


async def run(udp: Datagrams, tcp: Streams | None = None, *, over_tcp: bool = False, timeout: float = 0.2):
    """Query a server that answers each datagram and stream query as given."""
    loop = asyncio.get_running_loop()

    class Rude(asyncio.DatagramProtocol):
        def connection_made(self, transport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr) -> None:
            for packet in udp(data):
                self.transport.sendto(packet, addr)

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        assert tcp is not None
        writer.write(tcp(data))
        writer.close()

    server = await asyncio.start_server(stream, "127.0.0.1", 0) if tcp else None
    port = server.sockets[0].getsockname()[1] if server else 0
    transport, _ = await loop.create_datagram_endpoint(Rude, local_addr=("127.0.0.1", port))
    port = transport.get_extra_info("sockname")[1]
    try:
        return await exchange(QUERY, "127.0.0.1", port, tcp=over_tcp, timeout=timeout)
    finally:
        transport.close()
        if server is not None:
            server.close()
            await server.wait_closed()


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def test_an_answer_over_udp() -> None:
    got = asyncio.run(run(lambda _: [reply()]))
    assert got.transport == "udp" and got.octets == len(reply()) and not got.notes and got.milliseconds > 0


def test_wrong_replies_are_ignored_and_named() -> None:
    wrong = [reply(999), reply(1000, GONE), reply(1000, NAME, flags=0), b"\3\xe8nonsense", reply(1000, None)]
    got = asyncio.run(run(lambda _: [*wrong, reply()]))
    assert len(got.notes) == len(wrong) and got.view.id == 1000
    assert got.notes[0] == "ignored a reply with id 999 instead of 1000"
    assert got.notes[1] == "ignored a reply to another question: other.example."


def test_an_error_reply_may_omit_the_question() -> None:
    view, _ = mismatch(MessageView.parse(QUERY), reply(1000, None, flags=c.QR | c.FORMERR))
    assert view is not None and view.rcode == c.FORMERR


def test_the_spelling_of_the_question_does_not_matter_but_its_type_does() -> None:
    query = MessageView.parse(QUERY)
    assert mismatch(query, reply(1000, names.from_text("WWW.Example.")))[0] is not None
    assert mismatch(query, reply(qtype=c.AAAA))[0] is None


def test_a_lost_datagram_is_sent_again() -> None:
    seen = []

    def second_time(data: bytes) -> list[bytes]:
        seen.append(data)
        return [reply()] if len(seen) == 2 else []

    got = asyncio.run(run(second_time))
    assert got.notes == ["no reply over UDP within 0.2 s"] and seen == [QUERY, QUERY]


def test_no_reply_is_reported() -> None:
    with pytest.raises(NoReplyError, match=r"no reply over UDP within 0\.01 s"):
        asyncio.run(run(lambda _: [], timeout=0.01))


def test_a_truncated_answer_is_queried_over_tcp() -> None:
    got = asyncio.run(run(lambda _: [reply(flags=c.QR | c.TC)], lambda _: framed(reply())))
    assert got.transport == "tcp" and got.view.answer and "truncated" in got.notes[0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [(b"\0\x50half", "closed the TCP connection"), (framed(reply(999)), "ignored a reply with id 999")],
)
def test_malformed_streams_are_errors(answer: bytes, words: str) -> None:
    with pytest.raises(NoReplyError, match=words):
        asyncio.run(run(lambda _: [], lambda _: answer, over_tcp=True, timeout=30.0))


def test_a_server_that_refuses_connections_is_an_error() -> None:
    async def body() -> None:
        for over_tcp in (False, True):
            with pytest.raises(NoReplyError, match="refused"):
                await exchange(QUERY, "127.20.250.1", 9, tcp=over_tcp, timeout=30.0)

    asyncio.run(body())


def test_a_server_name_that_does_not_resolve_is_an_error() -> None:
    with pytest.raises(NoReplyError, match="cannot send"):
        asyncio.run(exchange(QUERY, "999.0.2.1.invalid", 53, tcp=False, timeout=30.0))
