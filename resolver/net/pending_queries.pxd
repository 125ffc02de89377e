# Attributes of the classes in pending_queries.py when it is compiled: the classes become extension types, whose attributes are
# accessed without a dictionary or a descriptor. Without compilation this file is not used.
# tests/unit/resolver/test_effects.py checks that the names agree.

from resolver.effects cimport Outcome
from resolver.net.fastpath cimport ClientQuery
from resolver.query cimport Query


cdef class PendingLimit:
    cdef public long limit
    cdef public long limit_per_client
    cdef public long network_share
    cdef public dict per_client
    cdef public dict per_network
    cdef public dict queries
    cpdef take(self, PendingQuery pending)
    cpdef give_back(self, PendingQuery pending)


cdef class PendingQuery:
    cdef public PendingLimit account
    cdef public Query client
    cdef public object host
    cdef public object key
    cdef public object network
    cdef public object peer
    cdef public ClientQuery query
    cdef public object serial
    cdef public object service
    cdef public object sink
    cdef public object ticket
    cdef public object waiting
