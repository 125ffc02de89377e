"""Verdict and trust: two ordered numbers of each RRset. The verdict of several sets is the lowest of theirs.

Both are stored in a few bits of a cache entry and passed as plain integers through Cython code, so this module is below
`wire` and `cache`. A lower number always means less trust.
"""

from enum import IntEnum

__all__ = [
    "TRUST_ADDITIONAL", "TRUST_ANSWER", "TRUST_AUTHORITY", "TRUST_GLUE", "TRUST_NONAUTH_ANSWER", "TRUST_VALIDATED",
    "VERDICT_BOGUS", "VERDICT_INDETERMINATE", "VERDICT_INSECURE", "VERDICT_SECURE", "Trust", "Verdict",
]


class Verdict(IntEnum):
    """The result of DNSSEC validation (RFC 4035 section 4.3), worst first."""

    INDETERMINATE = 0
    """Not validated, or a part of the chain of trust could not be obtained."""
    BOGUS = 1
    """A chain of trust should exist, and validation failed."""
    INSECURE = 2
    """Proved to be in a zone without a chain of trust."""
    SECURE = 3
    """Validated by signatures up to a trust anchor."""


class Trust(IntEnum):
    """Where data came from, least credible first (RFC 2181 section 5.4.1)."""

    NONE = 0
    ADDITIONAL = 1
    """Additional section of an authoritative or other answer."""
    GLUE = 2
    """Address or NS records of a referral: used to reach servers, never to answer clients."""
    NONAUTH_ANSWER = 4
    """Answer section of an answer without AA."""
    AUTHORITY = 5
    """Authority section of an authoritative answer."""
    ANSWER = 6
    """Answer section of an authoritative answer."""
    VALIDATED = 7
    """Answer or authority data whose signatures were verified."""
    CONFIGURED = 8
    """Local data of the configuration."""


# The members by names of the module, because an attribute of an enumeration costs some 900 instructions on Python 3.11.
VERDICT_INDETERMINATE = Verdict.INDETERMINATE
VERDICT_BOGUS = Verdict.BOGUS
VERDICT_INSECURE = Verdict.INSECURE
VERDICT_SECURE = Verdict.SECURE
TRUST_ADDITIONAL = Trust.ADDITIONAL
TRUST_GLUE = Trust.GLUE
TRUST_NONAUTH_ANSWER = Trust.NONAUTH_ANSWER
TRUST_AUTHORITY = Trust.AUTHORITY
TRUST_ANSWER = Trust.ANSWER
TRUST_VALIDATED = Trust.VALIDATED
