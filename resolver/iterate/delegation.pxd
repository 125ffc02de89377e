# Layout of a delegation when cut.py is compiled as it stands: the classes become extension types, whose
# attributes are read and written without a dictionary or a descriptor. Without compilation nothing reads this file.
# tests/unit/resolver/test_effects.py holds the names here against ``__slots__`` there.

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
    cdef public list servers
    cdef public object until
    cdef public bytes zone
