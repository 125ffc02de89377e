# C layout of the classes of counters.py, for its compilation by Cython, as that of resolver/effects.pxd.

cdef class LabelledCounter:
    cdef public dict _counts
    cdef public tuple _sets
    cpdef add_pair(self, str first, str second)
