"""Iterative resolution: from the closest known delegation to a raw reply, and the choice of usable records in it.

The package does no I/O and reads no clock: `iterate` is a generator that yields effects (`resolver.effects`) and is
resumed with their results. It returns a scrubbed `RawReply` for the validator and stores delegations in the cache.
"""

from resolver.iterate.delegation import DelegationCache, DelegationPoint
from resolver.iterate.delegation_path import known_path, last_known_path
from resolver.iterate.iterate import iterate, refuse_without_room

__all__ = ["DelegationCache", "DelegationPoint", "iterate", "known_path", "last_known_path", "refuse_without_room"]
