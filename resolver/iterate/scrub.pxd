# C layout of the classes of scrub.py, for its compilation by Cython: they become extension types, whose attributes are
# accessed without a dictionary or a descriptor. Without compilation this file is not used.
# tests/unit/resolver/test_effects.py compares the names here with ``__slots__`` there.

from resolver.wire.message cimport MessageView
from resolver.wire.rrset cimport RRset


cdef class Scrubbed:
    cdef public bint alias
    cdef public list answer
    cdef public bint out_of_bailiwick
    cdef public bint complete
    cdef public list ds
    cdef public object kind
    cdef public bytes name
    cdef public RRset ns
    cdef public bint upward_referral
    cdef public list proofs
    cdef public object server
    cdef public RRset soa
    cdef public bint upward_soa
    cdef public bint dname_overflow
    cdef public MessageView view
    cdef public object scope
