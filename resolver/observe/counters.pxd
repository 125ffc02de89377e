# C layout of the classes of counters.py, for its compilation by Cython, as that of resolver/effects.pxd.

cdef class LabelledCounter:
    cdef public dict _counts
    cdef public tuple _sets


cdef class PairCounter:
    cdef public dict _rows
    cpdef add(self, str first, str second)
