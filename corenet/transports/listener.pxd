"""C door of listeners: the watcher that accepts connections for one listening socket.

A `Listener` is made by the loop for each socket of a server; `stop` takes it out of the poller.
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
    cdef object room        # who says how many may be accepted, None: nobody
    cdef ConnectionList connections
    cdef bytes local
    cdef TimerHandle retry
    cdef int fd
    cdef int family
    cdef int accept_budget
    cdef uint32_t events
    cdef bint listening
    cdef bint holds_socket_ref       # `sock` counts us among those who need it open
    cdef bint nodelay       # to be set on each connection, since the listening socket does not hand it down

    cdef int pause(self) except -1
    cdef void unregister(self) noexcept
    cdef int accept_burst(self) except -1
    cdef int on_connection(self, int fd, void *address, unsigned int length) except -1
    cdef int accept_failed(self, int number) except -1
    cdef int pause_and_retry(self, str message, object error) except -1
