# C layout of the classes of mesh.py, for its compilation by Cython: they become extension types, whose attributes are
# accessed without a dictionary or a descriptor. Without compilation this file is not used.
# tests/unit/resolver/test_effects.py compares the names here with ``__slots__`` there.

from resolver.effects cimport (
    Ask, Budget, Context, Failure, Fetch, Need, Outcome, Pause, Question, Reply, Task, TraceStep, Verify,
)
from resolver.jobs cimport Job, JobTable, MeshRequest
from resolver.observe.histogram cimport UpstreamLatency
from resolver.query cimport Query
from resolver.query_quota cimport QueryQuota, QueryUsage
from resolver.query_sharing cimport QuerySharing, ReplyCopy


cdef class Mesh(JobTable):
    cdef public object _delegations
    cdef public object _clock
    cdef public bint _closed
    cdef public Context _context
    cdef public list _contexts
    cdef public dict _counts
    cdef public object _crypto
    cdef public object _deadline
    cdef public bint _draining
    cdef public object _fault_lines
    cdef public object _following
    cdef public list _parts
    cdef public object _stale_timers
    cdef public object _needs_check
    cdef public object _is_short
    cdef public long _octets_limit
    cdef public object _packets
    cdef public object _stale_delay
    cdef public bint _shedding
    cdef public object _prefetched_in
    cdef public object _prefetching
    cdef public QuerySharing _queries
    cdef public object _rrsets
    cdef public bint _serve_stale
    cdef public object _shortage_lines
    cdef public object _stale_ttl
    cdef public long _steps_left
    cdef public object _table
    cdef public object _views
    cdef public UpstreamLatency latency
    cdef public object subnets
    cdef public object validation
    cpdef double next_timer(self)
    cpdef bint _memory_is_short(self)
    cpdef _update_time(self)
    cpdef Job _start(self, tuple key, Task task, QueryUsage usage, serial, MeshRequest request, Job parent)
    cpdef _drain(self)
    cpdef _run(self, Job job, value)
    cpdef _resume_job(self, Job job, value)
    cpdef _need(self, Job job, Need need)
    cpdef _count(self, Budget budget)
    cpdef _finish(self, Job job, Failure failure)
    cpdef _finish_with(self, Job job, Outcome outcome)
    cpdef _resume_parent(self, Job parent, Job job, Outcome outcome)
    cpdef _deliver_all(self, Job job, Outcome outcome)
    cpdef _deliver(self, MeshRequest request, Outcome outcome, serial)
    cpdef _queue_alias(self, MeshRequest request, Outcome alias)
    cpdef _follow(self, MeshRequest request)
    cpdef _answer(self, MeshRequest request, Outcome outcome)
