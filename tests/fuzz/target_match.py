"""Packets from upstream: arbitrary bytes as the reply to a query that was sent.

An accepted reply must have the id, and either the question, octet for octet, or no question and an rcode that permits
this. A stub made of a truncated reply must be parseable.
"""

from resolver.net.match import explain_match, is_reply, make_packet, truncated_stub
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView

SENT = make_packet(names.from_text("WwW.exAmple.com."), c.A, 0x1234, payload=1232, do=True)
QUESTION = SENT[12:33]
EXCUSES = (c.FORMERR, c.SERVFAIL, c.NOTIMP, c.REFUSED)


def run(data: bytes) -> None:
    """One input: once as it is, once with the right id and question put into it."""
    for packet in (data, SENT[:2] + data[2:12] + QUESTION + data[12:]):
        verdict = explain_match(SENT, packet)
        assert is_reply(SENT, packet) == (verdict == "reply")
        assert is_reply(SENT, packet, allow_no_question=True) == (verdict in ("reply", "bare"))
        stub = truncated_stub(packet)
        if stub is not None:
            view = MessageView.parse(stub)
            assert view.tc
            assert view.question_count == 1
        if verdict not in ("reply", "bare"):
            continue
        assert packet[:2] == SENT[:2]
        assert packet[2] & 0xF8 == 0x80
        if verdict == "bare":
            assert packet[3] & 0xF in EXCUSES
            assert packet[4:10] == bytes(6)
        else:
            assert packet[12:33] == QUESTION
