# Attributes of the classes in service.py when it is compiled: the classes become extension types, whose attributes are
# accessed without a dictionary or a descriptor. Without compilation this file is not used.
# tests/unit/resolver/net/test_service.py checks that the names agree.

from resolver.effects cimport Outcome, Question
from resolver.net.fastpath cimport ClientQuery, FastPath
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
    cdef public Service service
    cdef public object sink
    cdef public object ticket
    cdef public object waiting


cdef class Service:
    cdef public object _answers
    cdef public object _cache_only
    cdef public object _clock
    cdef public object _cookies
    cdef public object _discard
    cdef public object _late
    cdef public object _drop_overflow
    cdef public object _failures
    cdef public FastPath _fast
    cdef public object _limits_replies
    cdef public object _mesh
    cdef public object _minimal
    cdef public object _minimal_any
    cdef public object _nsid
    cdef public object _payload
    cdef public dict _pending
    cdef public object _prefetch
    cdef public object _rotates
    cdef public PendingLimit _verified
    cdef public object _views
    cdef public object _submitted
    cdef public object _subnets
    cdef public object _timeout
    cdef public PendingLimit _unverified
    cdef public long denied
    cdef public long discarded
    cdef public long shortened
    cdef public long ended
    cdef public long failed
    cdef public long joined
    cdef public long malformed
    cdef public object observed
    cdef public object observer
    cdef public long overflowed
    cdef public long queries
    cdef public long refused
    cdef public long replies
    cdef public object samples
    cdef public object zone_server
    cpdef _admit(self, ClientQuery query, Query client, peer, sink)
    cpdef _resolve(self, PendingQuery pending)
    cpdef _release(self, PendingQuery pending)
    cpdef _reply(self, PendingQuery pending, Outcome outcome)
    cpdef _note_answer(self, Query client, Outcome outcome)
    cpdef _client_limit(self, ClientQuery query, sink)
    cpdef _has_valid_cookie(self, ClientQuery query, peer)
    cpdef finished(self, PendingQuery pending, Outcome outcome)
