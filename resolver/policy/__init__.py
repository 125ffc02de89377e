"""What is decided without asking anybody: who may ask, and which names are answered from configuration or by law.

Everything here is pure: settings and questions go in, decisions and answers come out. `plan` is the one place that
says in which order the policies apply; `access` is compiled to a table that the fast path reads without the GIL.
"""

from resolver.policy.access import ALLOW, DROP, REFUSE, AccessTable
from resolver.policy.discovery import describe, designations
from resolver.policy.pipeline import PolicyPipeline

__all__ = ["ALLOW", "DROP", "REFUSE", "AccessTable", "PolicyPipeline", "describe", "designations"]
