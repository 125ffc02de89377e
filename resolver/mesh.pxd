# Layout of jobs and tickets when mesh.py is compiled as it stands: the classes become extension types, whose
# attributes are read and written without a dictionary or a descriptor. Without compilation nothing reads this file.
# tests/unit/resolver/test_effects.py holds the names here against ``__slots__`` there.

cdef class Ticket:
    cdef public object _job
    cdef public object _on_done
    cdef public object done


cdef class _Job:
    cdef public object child
    cdef public object finished
    cdef public object handle
    cdef public object key
    cdef public object mesh
    cdef public object need
    cdef public object parents
    cdef public object pausing
    cdef public object slot
    cdef public object stale
    cdef public object steps
    cdef public object task
    cdef public object tickets
    cdef public object verifying
