# Layout of a delegation when cut.py is compiled as it stands: the classes become extension types, whose
# attributes are read and written without a dictionary or a descriptor. Without compilation nothing reads this file.
# tests/unit/resolver/test_effects.py holds the names here against ``__slots__`` there.

cdef class Cut:
    cdef public object configured
    cdef public object expires
    cdef public object first
    cdef public object labels
    cdef public object learned
    cdef public object missing
    cdef public object names
    cdef public object recursive
    cdef public object servers
    cdef public object until
    cdef public object zone
