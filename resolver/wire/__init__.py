"""Packets: bytes to views and back. The Python door of this room; the C door are the `.pxd` files beside it.

Rule: no policy and no I/O; whatever the network sends raises `WireError` or nothing. The text forms stand apart in
`resolver.wire.present`, which imports dnspython on its first call: who serves packets needs neither.
"""

from resolver.wire import consts, name
from resolver.wire.build import Builder, make_error, make_query
from resolver.wire.edns import (
    Edns,
    encode_ede,
    encode_keepalive,
    options_from_wire,
    options_to_wire,
    parse_ede,
)
from resolver.wire.errors import WireError
from resolver.wire.message import MessageView
from resolver.wire.name import ROOT
from resolver.wire.rrset import RRset, pack, unpack

__all__ = [
    "ROOT",
    "Builder",
    "Edns",
    "MessageView",
    "RRset",
    "WireError",
    "consts",
    "encode_ede",
    "encode_keepalive",
    "make_error",
    "make_query",
    "name",
    "options_from_wire",
    "options_to_wire",
    "pack",
    "parse_ede",
    "unpack",
]
