# C layout of the classes of histogram.py, for its compilation by Cython, as that of resolver/effects.pxd.

cdef class Histogram:
    cdef public list counts
    cdef public double seconds


cdef class SampledHistogram(Histogram):
    cdef public object _total
