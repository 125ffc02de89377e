# C layout of the classes of jobs.py, for its compilation by Cython, as that of mesh.pxd.

from resolver.effects cimport Need, Outcome, Task
from resolver.query cimport Query
from resolver.query_quota cimport QueryQuota, QueryUsage


cdef class MeshRequest:
    cdef public bint _cd
    cdef public bint _follows
    cdef public Job _job
    cdef public object _on_done
    cdef public Query _query
    cdef public object _trace
    cdef public object deadline
    cdef public object done
    cdef public object restarts
    cdef public object subnet


cdef class Job:
    cdef public QueryUsage usage
    cdef public Job child
    cdef public bint finished
    cdef public object handle
    cdef public object key
    cdef public Need need
    cdef public list parents
    cdef public MeshRequest payer
    cdef public object serial
    cdef public object slot
    cdef public Outcome stale
    cdef public object steps
    cdef public JobTable table
    cdef public Task task
    cdef public list requests
    cdef public object waits_for


cdef class JobTable:
    cdef public dict _jobs
    cdef public long _octets
    cdef public object _order
    cdef public QueryQuota _quota
    cdef public object _ready
    cdef public object _serial
    cdef public list _slot_heap
    cdef public dict _slots
    cdef public list _timers
    cdef public dict _unfinished
    cpdef _queue(self, Job job, value)
    cpdef _unregister(self, Job job)
    cpdef on_fetched(self, Job job, result)
    cpdef on_verified(self, Job job, results)
    cpdef _register(self, Job job, QueryUsage usage, MeshRequest request, Job parent)
    cpdef _drop_deadline(self, Job job)
    cpdef double _first_timer(self)
    cpdef Job _joinable(self, tuple key)
