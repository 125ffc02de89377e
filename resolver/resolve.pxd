# Layout of the growing outcome when resolve.py is compiled as it stands: the classes become extension types, whose
# attributes are read and written without a dictionary or a descriptor. Without compilation nothing reads this file.
# tests/unit/resolver/test_effects.py holds the names here against ``__slots__`` there.

cdef class _Story:
    cdef public object answer
    cdef public object authority
    cdef public object ede
    cdef public object from_cache
    cdef public object legs
    cdef public object seen
    cdef public object ttl
    cdef public object verdict
