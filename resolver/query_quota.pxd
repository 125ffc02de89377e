# C layout of the classes of query_quota.py, for its compilation by Cython, as that of mesh.pxd.

cdef class NetworkUsage:
    cdef public object network
    cdef public long held
    cdef public dict queries


cdef class QueryUsage:
    cdef public NetworkUsage share
    cdef public double since
    cdef public long jobs
    cdef public object root


cdef class QueryQuota:
    cdef public long capacity
    cdef public long held
    cdef public NetworkUsage own
    cdef public dict _shares
    cdef public dict _queries
    cpdef share_of(self, network)
    cpdef has_free_slot(self, NetworkUsage share)
    cpdef take(self, QueryUsage usage, job)
    cpdef give_back(self, QueryUsage usage, job)
