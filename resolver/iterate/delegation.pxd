# C layout of the classes of delegation.py, for its compilation by Cython: they become extension types, whose attributes
# are accessed without a dictionary or a descriptor. Without compilation this file is not used.
# tests/unit/resolver/test_effects.py compares the names here with ``__slots__`` there.

from resolver.effects cimport Context, Server
from resolver.iterate.fetch_quota cimport FetchQuota
from resolver.wire.rrset cimport RRset


cdef class DelegationPoint:
    cdef public bint configured
    cdef public double parent_confirmed_until
    cdef public object expires
    cdef public bint first
    cdef public int labels
    cdef public list missing
    cdef public list names
    cdef public bint recursive
    cdef public int referred_by
    cdef public list servers
    cdef public object until
    cdef public bytes zone


cdef class DelegationCache:
    cdef public dict _addresses
    cdef public object _case_exempt
    cdef public dict _configured
    cdef public dict _family_down_until
    cdef public list _forbidden
    cdef public dict _hints
    cdef public bint _loopback
    cdef public object _nat64
    cdef public set _own
    cdef public object _rrsets
    cdef public object addresses
    cdef public bint cookies
    cdef public object delegations
    cdef public FetchQuota fetches
    cdef public bint harden_glue
    cdef public bint minimising
    cdef public int part
    cdef public object payload
    cdef public int port
    cdef public bint priming
    cdef public bint randomise_case
    cdef public bint tcp_only
    cdef public tuple types
    cdef public object zones
    cpdef bint use_caps_for_id(self, bytes name)
    cpdef note_reachable(self, str address)
    cpdef int family_down(self, double now)
    cpdef DelegationPoint forward_or_stub_for(self, bytes name)


cpdef DelegationCache delegations_of(Context context)
