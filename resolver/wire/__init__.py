"""Parsing and building of DNS messages. This is the Python interface; the C interface is in the `.pxd` files.

No policy and no I/O. Bytes from the network raise `WireError` or nothing. Text forms are in `resolver.wire.present`,
which imports dnspython on its first call; code that serves packets needs neither.
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
