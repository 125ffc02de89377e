# C door: the final bytes object of a body while it is still being received.

from cpython.ref cimport PyObject


cdef class BodyBuffer:
    cdef PyObject *target           # a bytes object nobody else has seen
    cdef readonly Py_ssize_t size
    cdef readonly Py_ssize_t filled
    cdef Py_ssize_t exports
