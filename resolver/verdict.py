"""Verdict and trust: two ordered numbers that every RRset carries. A set's verdict is the minimum of its members'.

Both are stored in a few bits of a cache entry, so they stand below `wire` and `cache`, and plain integers travel
through the Cython rooms. The order is the rule: comparing with `<` must always mean "believe less".
"""

from enum import IntEnum

__all__ = ["Trust", "Verdict"]


class Verdict(IntEnum):
    """What DNSSEC validation found (RFC 4035 section 4.3), worst first."""

    INDETERMINATE = 0
    """Nobody has looked yet, or validation is off."""
    BOGUS = 1
    """A chain of trust exists and this data does not fit it."""
    INSECURE = 2
    """Proved to lie in a zone without a chain of trust."""
    SECURE = 3
    """Proved by signatures up to a trust anchor."""


class Trust(IntEnum):
    """Where data came from, least credible first (RFC 2181 section 5.4.1)."""

    NONE = 0
    ADDITIONAL = 1
    """Additional section of an authoritative or other answer."""
    GLUE = 2
    """Address or NS records of a referral: good for reaching servers, never for answering clients."""
    NONAUTH_ANSWER = 4
    """Answer section of an answer without AA."""
    AUTHORITY = 5
    """Authority section of an authoritative answer."""
    ANSWER = 6
    """Answer section of an authoritative answer."""
    VALIDATED = 7
    """Answer or authority data whose signatures were checked."""
    CONFIGURED = 8
    """Root hints in use, local data, anchors: what the operator said."""
