"""EDNS options: every encoder against its parser, and what parsers reject."""

import pytest

from resolver import limits
from resolver.wire import WireError, edns
from resolver.wire import consts as c


def test_options_round_trip() -> None:
    options = [(c.OPTION_NSID, b"abc"), (65001, b""), (c.OPTION_NSID, b"d")]
    assert edns.options_from_wire(edns.options_to_wire(options)) == options
    for broken in (b"\0\3\0", b"\0\3\0\2a"):
        with pytest.raises(WireError):
            edns.options_from_wire(broken)
    for options in ([(65536, b"")], [(1, bytes(65536))], [(1, bytes(40000)), (2, bytes(40000))]):
        with pytest.raises(ValueError):
            edns.options_to_wire(options)


def test_the_number_of_parsed_options_is_bounded() -> None:
    allowed = limits.EDNS_OPTIONS
    assert len(edns.options_from_wire(b"\0\3\0\0" * (allowed + 5))) == allowed


def test_extended_errors() -> None:
    assert edns.parse_ede(edns.encode_ede(c.EDE_DNSSEC_BOGUS, "why Ü")) == (6, "why Ü")
    assert edns.encode_ede(c.EDE_OTHER) == b"\0\0"
    assert edns.parse_ede(b"\0\6a\xff\0") == (6, "a\ufffd")
    allowed = limits.EDNS_ERROR_TEXT
    cut = edns.encode_ede(1, "Ü" * allowed)
    assert len(cut) <= allowed + 2
    assert edns.parse_ede(cut)[1] == "Ü" * (allowed // 2)
    with pytest.raises(WireError):
        edns.parse_ede(b"\0")


def test_keepalive() -> None:
    assert edns.encode_keepalive(12.3) == (123).to_bytes(2, "big")
    assert edns.encode_keepalive(1e9) == b"\xff\xff"
