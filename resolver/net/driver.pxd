# C layout of the classes of driver.py, for its compilation by Cython, as that of resolver/effects.pxd.

cdef class MeshTimer:
    cdef public object _clock
    cdef public bint _closed
    cdef public double _due
    cdef public object _loop
    cdef public object _mesh
    cdef public object _timer
