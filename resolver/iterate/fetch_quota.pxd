# C layout of the classes of fetch_quota.py, for its compilation by Cython, as that of delegation.pxd.

from resolver.cache.infra cimport InfraCache


cdef class ServerUse:
    cdef public long count
    cdef public dict zones


cdef class FetchQuota:
    cdef public InfraCache infra
    cdef public object _per_zone
    cdef public object _per_server
    cdef public long _least
    cdef public dict _zones
    cdef public dict _servers
    cdef public object _zone_share
    cdef public dict _refused
    cdef public long _falls
    cdef public long _rises
    cdef public object _lines
    cdef public object smallest
    cpdef _quota(self, key)
    cpdef bint is_full(self, key, bytes zone)
    cpdef bint _is_used_up(self, key, ServerUse use)
    cpdef note_result(self, key, bint timed_out)
    cpdef take_server(self, key, bytes zone)
    cpdef give_server(self, key, bytes zone)
