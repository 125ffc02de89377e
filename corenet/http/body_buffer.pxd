# C declarations of `BodyBuffer`.

from cpython.ref cimport PyObject


cdef class BodyBuffer:
    cdef PyObject *target           # a bytes object that no other code has seen
    cdef readonly Py_ssize_t size
    cdef readonly Py_ssize_t filled
    cdef Py_ssize_t exports
