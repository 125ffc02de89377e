"""QNAME minimisation (RFC 9156): show each server only as many labels as it needs to refer further.

Relaxed, as resolvers that must work are: probes ask for type A (section 2.1), at most ten of them, the first four one
label each and the rest in larger strides (section 2.3), and a server that answers a probe with an error or NXDOMAIN is
asked for the full name, since many deny empty non-terminals. The state is two numbers, kept by the iterator.
"""

from resolver import limits
from resolver.wire import consts as c

__all__ = ["PROBE_TYPE", "labels_to_show"]

PROBE_TYPE = c.A
STEPS = limits.MINIMISE_STEPS
ONE_LABEL = limits.MINIMISE_ONE_LABEL


def labels_to_show(known: int, total: int, steps: int) -> int:
    """How many labels of a name of `total` to show next, when `known` are known to exist and `steps` probes were sent.

    The result is above `known` and at most `total`; `total` means: ask the question itself.
    """
    if steps >= STEPS or total <= known + 1:
        return total
    if steps < ONE_LABEL:
        return known + 1
    # Spread what is left evenly over the probes that are left, rounding up.
    return min(total, known + -(-(total - known) // (STEPS - steps)))
