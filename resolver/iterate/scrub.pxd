# Layout of one scrubbed reply when scrub.py is compiled as it stands: the classes become extension types, whose
# attributes are read and written without a dictionary or a descriptor. Without compilation nothing reads this file.
# tests/unit/resolver/test_effects.py holds the names here against ``__slots__`` there.

cdef class Scrubbed:
    cdef public object alias
    cdef public object answer
    cdef public object complete
    cdef public object ds
    cdef public object kind
    cdef public object name
    cdef public object ns
    cdef public object ns_elsewhere
    cdef public object proofs
    cdef public object server
    cdef public object soa
    cdef public object soa_above
    cdef public object too_long
    cdef public object view
