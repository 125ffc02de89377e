"""C door of the socket operations: an Engine that also knows ``sock_recv`` and its relatives.

Nothing cimports it yet but its own module; it stands here so that the class has one declared layout.
"""

from corenet.core.engine cimport Engine

cdef class SocketEngine(Engine):
    cdef dict of_this_loop
    cdef object bound_soon      # the bound method `call_soon`

    cdef object new_future(self)
    cdef dict loop_kwargs(self)
    cdef object waiter(self, object sock, bint writing)
    cdef int check_socket(self, object sock) except -1
    cdef Py_ssize_t send_now(self, object sock, object data, Py_ssize_t offset) except -2
