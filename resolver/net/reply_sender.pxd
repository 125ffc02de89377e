# Attributes of the classes in reply_sender.py when it is compiled: the classes become extension types, whose attributes are
# accessed without a dictionary or a descriptor. Without compilation this file is not used.
# tests/unit/resolver/test_effects.py checks that the names agree.

from resolver.net.fastpath cimport ClientQuery, FastPath


cdef class ReplySender:
    cdef public object _clock
    cdef public object _cookies
    cdef public FastPath _fast
    cdef public object _limits_replies
    cdef public object _nsid
    cdef public object _payload
    cdef public object _subnets
    cdef public long denied
    cdef public long malformed
    cdef public object observed
    cdef public long refused
    cdef public long replies
    cdef public object samples
    cpdef _client_limit(self, ClientQuery query, sink)
    cpdef _has_valid_cookie(self, ClientQuery query, peer)
