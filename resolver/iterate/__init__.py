"""From the closest known delegation to a raw reply: the walk down the tree, and what of a reply may be believed.

The room does no I/O and reads no clock: `iterate` is a generator that yields effects (`resolver.effects`) and is
resumed with their results. What it leaves behind is a scrubbed `RawReply` for the
validator, and delegations in the cache.
"""

from resolver.iterate.delegation import DelegationCache, DelegationPoint
from resolver.iterate.iterate import iterate

__all__ = ["DelegationCache", "DelegationPoint", "iterate"]
