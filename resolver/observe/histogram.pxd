# C layout of the classes of histogram.py, for its compilation by Cython, as that of resolver/effects.pxd.

from resolver.effects cimport Reply, Server


cdef class Histogram:
    cdef public list counts
    cdef public double seconds
    cpdef add(self, double seconds)


cdef class SampledHistogram(Histogram):
    cdef public object _total


cdef class UpstreamLatency:
    cdef public dict histograms
    cpdef note_reply(self, Reply reply)
