"""Adds the client subnet option (RFC 7871) to an upstream query over UDP or TCP. The query is encoded already, so that
only those with the option pay for it.
"""

from resolver.wire import consts as c
from resolver.wire.edns import options_to_wire

__all__ = ["with_subnet"]

OPTION_HEAD = 4


def with_subnet(packet: bytes, content: bytes, cookie: bytes | None) -> bytes:
    """`packet`, which ends with an OPT record whose only option is `cookie` or none, with the option `content`."""
    size = 0 if cookie is None else OPTION_HEAD + len(cookie)
    at = len(packet) - size
    option = options_to_wire([(c.OPTION_ECS, content)])
    return packet[: at - 2] + (size + len(option)).to_bytes(2, "big") + packet[at:] + option
