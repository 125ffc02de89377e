# Attributes of the classes in service.py when it is compiled: the classes become extension types, whose attributes are
# accessed without a dictionary or a descriptor. Without compilation this file is not used.
# tests/unit/resolver/test_effects.py checks that the names agree.

from resolver.effects cimport Outcome, Question
from resolver.net.fastpath cimport ClientQuery, FastPath
from resolver.net.pending_queries cimport PendingLimit, PendingQuery
from resolver.net.reply_sender cimport ReplySender
from resolver.query cimport Query


cdef class Service(ReplySender):
    cdef public object _access
    cdef public object _answers
    cdef public object _cache_only
    cdef public object _discard
    cdef public object _late
    cdef public object _drop_overflow
    cdef public object _failures
    cdef public object _mesh
    cdef public object _minimal
    cdef public object _minimal_any
    cdef public dict _pending
    cdef public object _prefetch
    cdef public object _rotates
    cdef public object _signed_queries
    cdef public PendingLimit _verified
    cdef public object _views
    cdef public object _submitted
    cdef public object _timeout
    cdef public PendingLimit _unverified
    cdef public long discarded
    cdef public long shortened
    cdef public long ended
    cdef public long failed
    cdef public long joined
    cdef public object observer
    cdef public long overflowed
    cdef public long queries
    cdef public long verified_signatures
    cdef public object zone_server
    cpdef _admit(self, ClientQuery query, Query client, peer, sink)
    cpdef _handle_admitted(self, ClientQuery query, Query client, peer, sink, PendingQuery pending)
    cpdef _submit(self, ClientQuery query, Query client, peer, sink, PendingQuery pending=*)
    cpdef bint _answered_by_policy(self, ClientQuery query, Query client, peer, sink, PendingQuery pending)
    cpdef _send_judged(self, ClientQuery query, Query client, Outcome outcome, bytes packet, peer, sink, bytes options)
    cpdef _resolve(self, PendingQuery pending)
    cpdef _release(self, PendingQuery pending)
    cpdef _reply(self, PendingQuery pending, Outcome outcome)
    cpdef _note_answer(self, Query client, Outcome outcome)
    cpdef finished(self, PendingQuery pending, Outcome outcome)
