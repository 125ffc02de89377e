# Attributes of the classes in service.py when it is compiled: the classes become extension types, whose attributes are
# accessed without a dictionary or a descriptor. Without compilation this file is not used.
# tests/unit/resolver/net/test_service.py checks that the names agree.

cdef class PendingLimit:
    cdef public object limit
    cdef public object limit_per_client
    cdef public object network_share
    cdef public object per_client
    cdef public object per_network
    cdef public object queries


cdef class PendingQuery:
    cdef public object account
    cdef public object client
    cdef public object host
    cdef public object key
    cdef public object network
    cdef public object peer
    cdef public object query
    cdef public object service
    cdef public object sink
    cdef public object ticket
    cdef public object waiting


cdef class Service:
    cdef public object _answers
    cdef public object _cache_only
    cdef public object _clock
    cdef public object _cookies
    cdef public object _discard
    cdef public object _drop_overflow
    cdef public object _failures
    cdef public object _fast
    cdef public object _limits_replies
    cdef public object _mesh
    cdef public object _minimal
    cdef public object _minimal_any
    cdef public object _nsid
    cdef public object _payload
    cdef public object _pending
    cdef public object _prefetch
    cdef public object _rotates
    cdef public object _verified
    cdef public object _views
    cdef public object _submitted
    cdef public object _subnets
    cdef public object _timeout
    cdef public object _unverified
    cdef public object denied
    cdef public object discarded
    cdef public object ended
    cdef public object failed
    cdef public object joined
    cdef public object malformed
    cdef public object observed
    cdef public object observer
    cdef public object overflowed
    cdef public object queries
    cdef public object refused
    cdef public object replies
    cdef public object samples
    cdef public object zone_server
