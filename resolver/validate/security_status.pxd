# Layout of findings when finding.py is compiled as it stands: the class becomes an extension type, whose
# attributes are read and written without a dictionary or a descriptor. Without compilation nothing reads this file.
# tests/unit/resolver/test_effects.py holds the names here against ``__slots__`` there.

from resolver.validate.fields cimport Rrsig


cdef class SecurityStatus:
    cdef public object ede
    cdef public object keys
    cdef public object open
    cdef public object proof
    cdef public Rrsig signature
    cdef public object text
    cdef public object verdict
