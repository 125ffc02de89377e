"""QNAME minimisation (RFC 9156): send each server only as many labels as it needs for a referral.

It is relaxed: a probe has type A (section 2.1); there are at most ten probes, of which the first four add one label and
the others more (section 2.3); after an error or NXDOMAIN to a probe the full qname is sent, because many servers deny
empty non-terminals. Not after an NXDOMAIN whose proof is valid: then nothing exists below the name (RFC 8020). The
state is two numbers, kept by `iterate`.
"""

from resolver import limits
from resolver.wire import consts as c

__all__ = ["PROBE_TYPE", "labels_to_show"]

PROBE_TYPE = c.A
STEPS = limits.MINIMISE_STEPS
ONE_LABEL = limits.MINIMISE_ONE_LABEL


def labels_to_show(known: int, total: int, steps: int) -> int:
    """How many of `total` labels to send next, when `known` labels exist and `steps` probes were sent.

    The result is above `known` and at most `total`; `total` means the original query.
    """
    if steps >= STEPS or total <= known + 1:
        return total
    if steps < ONE_LABEL:
        return known + 1
    # The remaining labels are spread evenly over the remaining probes, rounded up.
    return min(total, known + -(-(total - known) // (STEPS - steps)))
