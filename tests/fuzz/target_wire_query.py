"""The query parser of the fast path, compared with the full parser and the error reply.

`MessageView` must parse each plain query with the same fields. The reply to each rejected one must be parseable.
"""

from resolver.wire import MessageView, make_error
from resolver.wire import consts as c
from resolver.wire.message import inspect_query


def run(data: bytes) -> None:
    """One packet."""
    code, fields = inspect_query(data)
    if code == 0:
        view = MessageView.parse(data)
        assert (view.id, view.flags, view.qname, view.qtype, view.qclass) == (
            fields["id"],
            fields["flags"],
            fields["qname"],
            fields["qtype"],
            fields["qclass"],
        )
        assert (view.edns is not None) == fields["has_edns"]
        if view.edns is not None:
            assert (view.edns.payload, view.edns.do) == (fields["payload"], fields["do_bit"])
            assert view.edns.version == fields["edns_version"]
    reply = make_error(data, c.FORMERR)
    assert (reply is None) == (len(data) < 12 or bool(data[2] & 0x80))
    if reply is not None:
        view = MessageView.parse(reply)
        assert (view.qr, view.rcode, view.id) == (True, c.FORMERR, int.from_bytes(data[:2], "big"))
