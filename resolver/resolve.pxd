# Layout of the growing outcome when resolve.py is compiled as it stands: the classes become extension types, whose
# attributes are read and written without a dictionary or a descriptor. Without compilation nothing reads this file.
# tests/unit/resolver/test_effects.py holds the names here against ``__slots__`` there.

from resolver.effects cimport Context, Failure, Need, Outcome, Question, RawReply, Task
from resolver.wire.rrset cimport RRset


cdef class _PartialResponse:
    cdef public list answer
    cdef public list authority
    cdef public list ede
    cdef public bint from_cache
    cdef public int legs
    cdef public set seen
    cdef public object ttl
    cdef public object verdict
