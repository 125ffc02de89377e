"""The query parser of the path without the GIL, held against the full parser and the error reply.

What it calls plain must be readable by `MessageView` and mean the same there; what it refuses must get a reply that can
itself be read.
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
