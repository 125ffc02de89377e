# C layout of the classes of clients.py, for its compilation by Cython, as that of resolver/effects.pxd.

from resolver.effects cimport Outcome
from resolver.observe.counters cimport LabelledCounter
from resolver.observe.histogram cimport Histogram


cdef class ClientCounters:
    cdef public LabelledCounter queries
    cdef public LabelledCounter replies
    cdef public dict latency
