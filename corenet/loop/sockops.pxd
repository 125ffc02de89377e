"""C declarations of the socket operations: an Engine with ``sock_recv`` and the other ``sock_*`` coroutines.

Only the module itself uses them now.
"""

from corenet.core.engine cimport Engine

cdef class SocketEngine(Engine):
    cdef dict loop_keyword
    cdef object bound_soon      # the bound method `call_soon`, created once

    cdef object new_future(self)
    cdef dict loop_kwargs(self)
    cdef object waiter(self, object sock, bint writing)
    cdef int check_socket(self, object sock) except -1
    cdef Py_ssize_t send_now(self, object sock, object data, Py_ssize_t offset) except -2
