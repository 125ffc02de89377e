"""C interface of listeners: the watcher that accepts connections of one listening socket.

The loop makes a `Listener` for each socket of a server; `stop` unregisters it.
"""

from libc.stdint cimport uint32_t

from corenet.core.engine cimport Engine
from corenet.core.handles cimport TimerHandle
from corenet.core.poller cimport Watcher
from corenet.transports.stream cimport ConnectionList

cdef class Listener(Watcher):
    cdef Engine loop
    cdef object sock
    cdef object protocol_factory
    cdef object accept_tls
    cdef object context
    cdef object capacity    # function that limits how many may be accepted, or None
    cdef ConnectionList connections
    cdef bytes local
    cdef TimerHandle retry
    cdef int fd
    cdef int family
    cdef int accept_budget
    cdef uint32_t events
    cdef bint holds_socket_ref       # we have incremented the `_io_refs` of `sock`
    cdef bint nodelay       # set TCP_NODELAY on each connection, because the listening socket does not have it

    cdef bint is_registered(self) noexcept
    cdef int pause(self) except -1
    cdef void unregister(self) noexcept
    cdef int accept_burst(self) except -1
    cdef int on_connection(self, int fd, void *address, unsigned int length) except -1
    cdef int accept_failed(self, int number) except -1
    cdef int pause_and_retry(self, str message, object error) except -1
