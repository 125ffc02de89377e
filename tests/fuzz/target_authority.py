"""A simulated name server: arbitrary bytes as the query, over UDP and TCP.

For any input the server sends nothing, or a message that `MessageView` parses, with the id of the query, no longer than
the client accepts. The same bytes always have the same answer.
"""

from resolver.playground import Authority, ServerFaults, Zone
from resolver.wire.errors import WireError
from resolver.wire.message import MessageView

ZONE = """
@       60 SOA ns hostmaster 1 7200 900 1209600 300
@       60 NS  ns
ns      60 A   192.0.2.1
alias   60 CNAME www
www     60 A   192.0.2.2
old     60 DNAME new
*.wild  60 TXT "any"
a.b.c   60 A   192.0.2.3
cut     60 NS  ns.cut
ns.cut  60 A   192.0.2.4
"""
SERVERS = [
    Authority([Zone.from_text("t.", ZONE)], quirks=quirks) for quirks in (ServerFaults(), ServerFaults(lower_case=True))
]
SMALLEST, LARGEST = 512, 1232


def run(data: bytes) -> None:
    """One input: a packet."""
    for server in SERVERS:
        for tcp in (False, True):
            reply = server.answer(data, tcp=tcp)
            assert reply == server.answer(data, tcp=tcp)
            if reply is None:
                continue
            view = MessageView.parse(reply)
            assert view.qr and view.id == int.from_bytes(data[:2], "big")
            assert tcp or len(reply) <= LARGEST
            try:
                query = MessageView.parse(data)
            except WireError:
                assert not view.answer
                continue
            if not tcp and query.edns is None:
                assert len(reply) <= SMALLEST
            assert view.edns is None or query.edns is not None
