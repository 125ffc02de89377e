# C layout of the classes of delegation.py, for its compilation by Cython: they become extension types, whose attributes
# are accessed without a dictionary or a descriptor. Without compilation this file is not used.
# tests/unit/resolver/test_effects.py compares the names here with ``__slots__`` there.

from resolver.effects cimport Server
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
