# C layout of the classes of partial_response.py, for its compilation by Cython: they become extension types, whose
# attributes are accessed without a dictionary or a descriptor. Without compilation this file is not used.
# tests/unit/resolver/test_effects.py compares the names here with ``__slots__`` there.

from resolver.effects cimport Failure, Outcome, Question, RawReply
from resolver.wire.rrset cimport RRset


cdef class PartialResponse:
    cdef public list additional
    cdef public list answer
    cdef public bint authoritative
    cdef public list authority
    cdef public list ede
    cdef public bint from_cache
    cdef public int steps
    cdef public set seen
    cdef public bint synthesised
    cdef public object ttl
    cdef public object verdict
    cdef public object scope
