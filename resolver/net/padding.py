"""EDNS padding of replies (RFC 7830), in blocks as RFC 8467 section 4.1 recommends.

Without padding, the size of an encrypted reply can reveal the qname. A reply is padded when its query was padded and
the transport is encrypted; over UDP and TCP the option is ignored. `resolver.net.fastpath` pads cached answers in the
same way without the GIL.
"""

from resolver import limits
from resolver.wire import consts as c

__all__ = ["PADDING_BLOCK", "padding_option"]

PADDING_BLOCK = limits.PADDING_BLOCK
OPTION_HEAD = 4


def padding_option(size: int, block: int, limit: int = c.MESSAGE_MAX) -> bytes:
    """The option that fills a message, which has `size` octets without it, up to whole blocks.

    When a whole block would exceed `limit` octets, the message is filled to `limit`. Empty when no option fits.
    """
    begun = size + OPTION_HEAD
    if begun > limit:
        return b""
    fill = min(-begun % block, limit - begun)
    return c.OPTION_PADDING.to_bytes(2, "big") + fill.to_bytes(2, "big") + bytes(fill)
