"""Why our listener issues no session tickets over QUIC: with a ticket, the library takes 0-RTT data, and takes it again
when it is replayed. When these tests fail with a new version of qh3, tickets without 0-RTT may have become possible."""

import ssl
from typing import Any

import pytest
from qh3.quic import events
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnection
from qh3.tls import SessionTicket
from support.certs import Authority, Leaf

from resolver.net import doq

CLIENT, SERVER = ("127.0.0.1", 40_000), ("127.0.0.1", 853)
QUERY = doq.frame(bytes(12))


@pytest.fixture(scope="module")
def leaf(tmp_path_factory: pytest.TempPathFactory) -> Leaf:
    return Authority(tmp_path_factory.mktemp("ca")).leaf("dns.example")


class Tickets:
    """The tickets that a server has issued, or those that a client has."""

    def __init__(self) -> None:
        self.all: list[SessionTicket] = []

    def fetch(self, label: bytes) -> SessionTicket | None:
        return next((one for one in self.all if one.ticket == label), None)


def client(ticket: SessionTicket | None, tickets: Tickets) -> Any:
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=[doq.ALPN], server_name="dns.example", verify_mode=ssl.CERT_NONE,
        session_ticket=ticket,
    )
    made = QuicConnection(configuration=configuration, session_ticket_handler=tickets.all.append)
    made.connect(SERVER, now=0.0)
    return made


def server(leaf: Leaf, first: bytes, tickets: Tickets) -> Any:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=[doq.ALPN])
    configuration.load_cert_chain(leaf.certificate.read_bytes(), leaf.key.read_bytes())
    chosen = first[6:6 + first[5]]
    return QuicConnection(
        configuration=configuration, original_destination_connection_id=chosen, session_ticket_fetcher=tickets.fetch,
        session_ticket_handler=tickets.all.append,
    )


def received(connection: Any) -> bytes:
    """The data of the streams that the library has given to the server."""
    found = b""
    while (event := connection.next_event()) is not None:
        if isinstance(event, events.StreamDataReceived):
            found += event.data
    return found


def sent(connection: Any) -> list[bytes]:
    return [data for data, _ in connection.datagrams_to_send(now=0.0)]


def with_ticket(leaf: Leaf) -> tuple[Tickets, Tickets]:
    """The tickets of a server and of a client after a full handshake."""
    issued, kept = Tickets(), Tickets()
    one = client(None, kept)
    flight = sent(one)
    other = server(leaf, flight[0], issued)
    for _ in range(6):
        for data in flight:
            other.receive_datagram(data, CLIENT, now=0.0)
        for data in sent(other):
            one.receive_datagram(data, SERVER, now=0.0)
        flight = sent(one)
    assert kept.all and issued.all
    return issued, kept


def test_each_ticket_permits_early_data(leaf: Leaf) -> None:
    """The value is a constant of the library; no option of the configuration changes it."""
    issued, kept = with_ticket(leaf)
    assert {one.max_early_data_size for one in issued.all + kept.all} == {0xFFFFFFFF}


def test_a_replayed_first_flight_is_a_second_query(leaf: Leaf) -> None:
    """Before the client has proved anything, and as often as the flight is sent (RFC 9250 section 4.5)."""
    issued, kept = with_ticket(leaf)
    one = client(kept.all[0], Tickets())
    one.send_stream_data(one.get_next_available_stream_id(), QUERY, end_stream=True)
    flight = sent(one)
    for _ in range(2):
        other = server(leaf, flight[0], issued)
        for data in flight:
            other.receive_datagram(data, CLIENT, now=0.0)
        assert received(other) == QUERY
