# C layout of the classes of query_sharing.py, for its compilation by Cython, as that of mesh.pxd.

from resolver.effects cimport Ask, Reply


cdef class ReplyCopy:
    cdef public bytes qname
    cdef public Reply reply


cdef class Waiting:
    cdef public Ask ask
    cdef public object job
    cdef public _InFlight query
    cdef public double since


cdef class _InFlight:
    cdef public Waiting first
    cdef public object handle
    cdef public object key
    cdef public double sent
    cdef public QuerySharing sharing
    cdef public dict waiting
    cpdef double time_left(self, double now)


cdef class QuerySharing:
    cdef public object _exchange
    cdef public dict _in_flight
    cdef public object _monotonic
    cdef public object _on_results
    cdef public object _quota
    cdef public long sent
    cpdef Waiting start(self, Ask ask, job, serial)
    cpdef forget(self, _InFlight query)
    cpdef end(self, _InFlight query, result)
    cpdef _join_or_send(self, Waiting one, tuple key, double now, double least)
