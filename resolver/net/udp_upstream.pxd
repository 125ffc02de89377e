# C door of udp_upstream; nothing outside `net` needs it, the declarations stand here for the compiler.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t

from resolver.net.ambient cimport Entropy
from resolver.net.libc cimport iovec, mmsghdr, sockaddr_storage
from resolver.net.peers cimport PeerAddress


cdef class OutgoingPort:
    cdef object sock
    cdef object on_readable
    cdef dict pending            # id -> UdpAsk
    cdef double born
    cdef int fd
    cdef int family
    cdef int uses
    cdef bint retired


cdef class Family:
    cdef int family
    cdef list idle               # sockets without a port
    cdef int least               # the fewest of them since the last look: so many were not needed
    cdef int count               # sockets that are open
    cdef int busy                # asks that have one
    cdef object line             # asks without a socket
    cdef object shares           # whose asks have the sockets, while they are scarce; else None
    cdef int crowd               # how many asks had one when `shares` was last made or was largest


cdef class UdpAsk:
    cdef UdpUpstream owner
    cdef OutgoingPort port
    cdef PeerAddress peer
    cdef object ask
    cdef object network          # what its place counts for, from its first need to its end; None while nobody asked
    cdef object on_reply
    cdef object soon             # handle of a failure that is on its way
    cdef bytes packet
    cdef bytes cookie            # content of the COOKIE option that was sent, or None
    cdef double sent_at          # 0 until it is sent from the port it has
    cdef double ends             # when its timeout is over, however often it was sent; 0 until it was
    cdef double listened         # seconds it had the ports that others have now
    cdef int64_t due             # tick at which it times out
    cdef int near_misses
    cdef bint malformed_seen
    cdef bint unsent             # it stands in `unsent` of its owner
    cdef bint overdue            # it was due once before anything was sent
    cdef uint16_t identity
    cdef bint done


cdef class UdpUpstream:
    cdef object loop
    cdef object source_v4
    cdef object source_v6
    cdef object log
    cdef object heard            # networks of servers that reply
    cdef object routes           # what errors say of an address
    cdef public object after_batch
    cdef Entropy entropy
    cdef Family v4
    cdef Family v6
    cdef int sockets
    cdef int kept
    cdef object trimmer          # timer that closes sockets nobody needs
    cdef list ports_v4
    cdef list ports_v6
    cdef dict peers
    cdef dict open_ports
    cdef list wheel
    cdef object timer
    cdef object bound_turn
    cdef object bound_flush
    cdef list unsent
    cdef int64_t armed
    cdef int64_t turned
    cdef int outstanding
    cdef bint fresh_ports
    cdef bint randomise_case
    cdef bint closed
    cdef int port_uses
    cdef double port_age
    cdef int near_miss_limit
    cdef uint8_t *buffers
    cdef mmsghdr *messages
    cdef iovec *vectors
    cdef sockaddr_storage *names
    cdef int batch
    cdef size_t capacity
    cdef int rounds
    cdef readonly uint64_t sent
    cdef readonly uint64_t replies
    cdef readonly uint64_t timeouts
    cdef readonly uint64_t near_misses
    cdef readonly uint64_t cookies
    cdef readonly uint64_t cookie_mismatches
    cdef readonly uint64_t strays
    cdef readonly uint64_t malformed
    cdef readonly uint64_t network_errors
    cdef readonly uint64_t bare_errors
    cdef readonly uint64_t unproved
    cdef readonly uint64_t ports_opened
    cdef readonly uint64_t evicted

    cdef PeerAddress peer_of(self, str address, int port)
    cdef OutgoingPort choose_port(self, int family)
    cdef OutgoingPort open_port(self, int family)
    cdef OutgoingPort take_socket(self, int family)
    cdef Family family_of(self, int family)
    cdef object network_of(self, UdpAsk ask)
    cdef int wait(self, UdpAsk entry) except -1
    cdef OutgoingPort take_from(self, UdpAsk victim)
    cdef int give(self, OutgoingPort port, UdpAsk entry) except -1
    cdef int give_back(self, OutgoingPort port) except -1
    cdef int trim_later(self) except -1
    cdef bint make_idle(self, OutgoingPort port) noexcept
    cdef int release(self, UdpAsk ask) except -1
    cdef int close_port(self, OutgoingPort port) except -1
    cdef int transmit(self, UdpAsk ask) except -1
    cdef int not_sent(self, UdpAsk ask, int code, str what) except -1
    cdef int drain(self, OutgoingPort port) except -1
    cdef int drain_errors(self, OutgoingPort port) except -1
    cdef int receive(self, OutgoingPort port, const uint8_t *data, size_t size, const sockaddr_storage *source,
                     double now) except -1
    cdef int near_miss(self, OutgoingPort port, const sockaddr_storage *source) except -1
    cdef int fail_unproved(self, UdpAsk ask) except -1
    cdef int deliver(self, UdpAsk ask, object result) except -1
    cdef int fail(self, UdpAsk ask, object kind, str text) except -1
    cdef int schedule(self, UdpAsk ask, double seconds) except -1
    cdef bint still_has_time(self, UdpAsk ask) except -1
    cdef bint had_its_time(self, UdpAsk ask) except -1
    cdef int arm(self, int64_t tick) except -1
