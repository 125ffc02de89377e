"""Policies: which clients may send queries, which names are answered locally, and how answers are rewritten.

All of it is sans-IO: the input is settings and questions, the output decisions and answers. `pipeline` defines the
order of the policies; `access` makes a table that the fast path reads without the GIL.
"""

from resolver.policy.access import ALLOW, DROP, REFUSE, AccessTable
from resolver.policy.discovery import describe, designations
from resolver.policy.pipeline import PolicyPipeline

__all__ = ["ALLOW", "DROP", "REFUSE", "AccessTable", "PolicyPipeline", "describe", "designations"]
