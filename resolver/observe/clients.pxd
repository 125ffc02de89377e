# C layout of the classes of clients.py, for its compilation by Cython, as that of resolver/effects.pxd.

from resolver.effects cimport Outcome
from resolver.observe.counters cimport PairCounter
from resolver.observe.histogram cimport Histogram


cdef class ClientCounters:
    cdef public PairCounter queries
    cdef public PairCounter replies
    cdef public dict latency
