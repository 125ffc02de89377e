"""Policies: which clients may send queries, which names are answered locally, and how answers are rewritten.

All of it is sans-IO: the input is settings and questions, the output decisions and answers. `module` defines what a
policy is, `pipeline` the order of the policies of a view, `policies` the views; `access` makes a table that the fast
path reads without the GIL.
"""

from resolver.policy.access import ALLOW, DECISION, DROP, REFUSE, VIEW_SHIFT, AccessTable
from resolver.policy.balance import Balance, Balancer
from resolver.policy.discovery import describe, designations
from resolver.policy.module import Action, Hooks, PolicyModule, WaitsForHooks
from resolver.policy.pipeline import Pipeline
from resolver.policy.policies import PolicyPipeline
from resolver.policy.zones import OwnZones

__all__ = [
    "ALLOW", "DECISION", "DROP", "REFUSE", "VIEW_SHIFT", "AccessTable", "Action", "Balance", "Balancer", "Hooks",
    "OwnZones", "Pipeline", "PolicyModule", "PolicyPipeline", "WaitsForHooks", "describe", "designations",
]
