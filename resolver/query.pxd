# C layout of the classes of query.py, for its compilation by Cython, as that of effects.pxd.

cdef class Query:
    cdef public object address
    cdef public object alias
    cdef public object arrived
    cdef public object deadline
    cdef public object listener
    cdef public object network
    cdef public object subnet
    cdef public object transport
    cdef public object tsig_key
    cdef public object verified
    cdef public object view


cdef class Applied:
    cdef public object detail
    cdef public bint follow
    cdef public object kind
    cdef public object module
    cdef public object point
    cdef public object reason
