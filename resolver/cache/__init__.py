"""The cache: one position-independent arena shared by workers, and the caches in it that the resolver uses.

It uses `wire`, and is used by resolution and validation. It does no network I/O, reads no clock and draws no random
numbers: time and the seed of the hash are arguments.
"""

from resolver.cache.answers import AnswerCache, rotated
from resolver.cache.arena import Arena
from resolver.cache.infra import InfraCache, InfraEntry
from resolver.cache.rrsets import NegativeEntry, RRsetCache
from resolver.cache.store import Store
from resolver.cache.table import Entry, Table, TableStatistics

__all__ = [
    "AnswerCache",
    "Arena",
    "Entry",
    "InfraCache",
    "InfraEntry",
    "NegativeEntry",
    "RRsetCache",
    "Store",
    "Table",
    "TableStatistics",
    "rotated",
]
