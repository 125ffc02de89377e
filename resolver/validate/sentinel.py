"""The root key sentinel (RFC 8509): queries by which a user can find out which root keys this resolver trusts.

A name that begins with ``root-key-sentinel-is-ta-NNNNN`` or ``-not-ta-`` is resolved as any other. If the answer is
secure and the statement about key tag NNNNN is false, SERVFAIL replaces it. Length and type are compared first, because
this runs for each secure answer.
"""

from resolver.effects import Question
from resolver.validate.anchors import Anchors
from resolver.wire import consts as c
from resolver.wire import name as names

__all__ = ["Sentinel"]

IS = b"root-key-sentinel-is-ta-"
NOT = b"root-key-sentinel-not-ta-"
DIGITS = 5


class Sentinel:
    """Checks sentinel queries against the trust anchors of the root, which may change meanwhile (RFC 5011)."""

    def __init__(self, anchors: Anchors) -> None:
        self._anchors = anchors

    def tags(self, now: int) -> frozenset[int]:
        """The tags of the keys that are trusted for the root at the time `now`."""
        root = self._anchors.get(names.ROOT, now)
        if root is None:
            return frozenset()
        return frozenset([ds.tag for ds in root.ds] + [key.tag for key in root.keys])

    def forbids(self, question: Question, now: int) -> str | None:
        """Why a secure answer to `question` must be withheld, or None (RFC 8509 section 2.2)."""
        length = question.qname[0]
        if length != len(IS) + DIGITS and length != len(NOT) + DIGITS:
            return None
        if question.qtype not in (c.A, c.AAAA):
            return None
        label = question.qname[1 : 1 + length].lower()
        digits = label[-DIGITS:]
        if not digits.isdigit():
            return None
        tags = self.tags(now)
        if not tags:
            return None
        trusted = int(digits) in tags
        if label[:-DIGITS] == IS and not trusted:
            return f"root key sentinel: key tag {int(digits)} is not a trust anchor"
        if label[:-DIGITS] == NOT and trusted:
            return f"root key sentinel: key tag {int(digits)} is a trust anchor"
        return None
