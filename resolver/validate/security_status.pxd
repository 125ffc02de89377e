# C layout of the class of security_status.py, for its compilation by Cython: it becomes an extension type, whose
# attributes are accessed without a dictionary or a descriptor. Without compilation this file is not used.
# tests/unit/resolver/test_effects.py compares the names here with ``__slots__`` there.

from resolver.validate.fields cimport Rrsig


cdef class SecurityStatus:
    cdef public object ede
    cdef public object keys
    cdef public object open
    cdef public object proof
    cdef public Rrsig signature
    cdef public object text
    cdef public object verdict
