# C layout of the classes of mesh.py, for its compilation by Cython: they become extension types, whose attributes are
# accessed without a dictionary or a descriptor. Without compilation this file is not used.
# tests/unit/resolver/test_effects.py compares the names here with ``__slots__`` there.

from resolver.effects cimport (
    Ask, Budget, Context, Failure, Need, Outcome, Pause, Question, Reply, Task, TraceStep, Verify,
)


cdef class MeshRequest:
    cdef public _Job _job
    cdef public object _network
    cdef public object _on_done
    cdef public object deadline
    cdef public object done


cdef class _Job:
    cdef public object usage
    cdef public _Job child
    cdef public bint finished
    cdef public object handle
    cdef public object key
    cdef public Mesh mesh
    cdef public Need need
    cdef public list parents
    cdef public MeshRequest payer
    cdef public object serial
    cdef public object slot
    cdef public Outcome stale
    cdef public object steps
    cdef public Task task
    cdef public list requests
    cdef public object waits_for


cdef class Mesh:
    cdef public object _delegations
    cdef public object _clock
    cdef public bint _closed
    cdef public Context _context
    cdef public dict _counts
    cdef public object _crypto
    cdef public object _deadline
    cdef public bint _draining
    cdef public object _exchange
    cdef public object _fault_lines
    cdef public object _stale_timers
    cdef public object _is_short
    cdef public dict _jobs
    cdef public long _octets
    cdef public long _octets_limit
    cdef public object _order
    cdef public object _packets
    cdef public object _stale_delay
    cdef public object _quota
    cdef public object _ready
    cdef public bint _shedding
    cdef public object _prefetched_in
    cdef public object _prefetching
    cdef public object _rewriter
    cdef public object _rrsets
    cdef public object _serial
    cdef public bint _serve_stale
    cdef public object _shortage_lines
    cdef public list _slot_heap
    cdef public dict _slots
    cdef public object _stale_ttl
    cdef public long _steps_left
    cdef public object _table
    cdef public list _timers
    cdef public dict _unfinished
    cdef public object validation
    cpdef _update_time(self)
    cpdef _Job _start(self, tuple key, Task task, usage, serial, MeshRequest request, _Job parent)
    cpdef _queue(self, _Job job, value)
    cpdef _drain(self)
    cpdef _run(self, _Job job, value)
    cpdef _resume_job(self, _Job job, value)
    cpdef _need(self, _Job job, Need need)
    cpdef _unregister(self, _Job job)
    cpdef _count(self, Budget budget)
    cpdef _finish(self, _Job job, Failure failure)
    cpdef _finish_with(self, _Job job, Outcome outcome)
    cpdef _resume_parent(self, _Job parent, _Job job, Outcome outcome)
    cpdef _deliver_all(self, _Job job, Outcome outcome)
    cpdef _deliver(self, MeshRequest request, Outcome outcome, serial)
