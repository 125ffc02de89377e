"""The cache room: one position-independent arena shared by workers, and the views of it that the resolver uses.

It stands above `wire` and below everything that decides something; it does no network I/O, reads no clock and draws no
random number: time and the hash's seed are arguments.
"""

from resolver.cache.answers import AnswerCache
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
]
