# Declarations of udp_upstream for the compiler; no other module uses them.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t

from resolver.net.clock_random cimport Entropy
from resolver.net.libc cimport iovec, mmsghdr, sockaddr_storage
from resolver.net.sockaddr cimport PeerAddress


cdef class UpstreamSocket:
    cdef object sock
    cdef object on_readable
    cdef dict pending            # id -> UdpQuery
    cdef double born
    cdef int fd
    cdef int family
    cdef int uses
    cdef bint retired


cdef class FamilySockets:
    cdef int family
    cdef list idle               # sockets without a port
    cdef int min_idle            # the fewest of them since the last `_trim`: so many were not needed
    cdef int count               # sockets that are open
    cdef int busy                # queries that have one
    cdef object wait_queue       # queries without a socket; empty while there are no `shares`
    cdef object shares           # the queries that have sockets, while these are scarce; else None
    cdef int peak_users          # the largest size of `shares` since it was made


cdef class UdpQuery:
    cdef UdpUpstream owner
    cdef UpstreamSocket socket
    cdef PeerAddress peer
    cdef object ask
    cdef object network          # the network that it counts for, from the first call of `network_of` on; else None
    cdef object on_reply
    cdef object failure_handle   # handle of the callback that delivers a failure
    cdef bytes packet
    cdef bytes cookie            # content of the COOKIE option that was sent, or None
    cdef double sent_at          # 0 until it is sent from the port it has
    cdef double deadline         # when its timeout ends, counted from the first time it was sent; 0 before
    cdef double socket_seconds   # seconds for which it had earlier ports, which other queries took
    cdef int64_t due             # tick at which it times out
    cdef int unwanted_replies
    cdef bint malformed_seen
    cdef bint unsent             # it is in the list `unsent` of its owner
    cdef bint due_unsent         # it was due once before it was sent
    cdef uint16_t identity
    cdef bint done


cdef class UdpUpstream:
    cdef object loop
    cdef object source_v4
    cdef object source_v6
    cdef object log
    cdef object replied_networks  # RepliedNetworks
    cdef object routes           # RouteChecker
    cdef public object after_batch
    cdef public object observer  # Observer, or None
    cdef Entropy entropy
    cdef FamilySockets v4
    cdef FamilySockets v6
    cdef int sockets
    cdef int kept
    cdef object idle_timer       # timer of `_trim`
    cdef list ports_v4
    cdef list ports_v6
    cdef dict peers
    cdef dict all_sockets
    cdef list wheel
    cdef object timer
    cdef list unsent
    cdef int64_t armed_tick
    cdef int64_t last_tick
    cdef int outstanding
    cdef bint port_per_query
    cdef bint randomise_case
    cdef bint closed
    cdef int port_uses
    cdef double port_age
    cdef int unwanted_reply_threshold
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
    cdef readonly uint64_t unwanted_replies
    cdef readonly uint64_t cookies
    cdef readonly uint64_t cookie_mismatches
    cdef readonly uint64_t unknown_replies
    cdef readonly uint64_t malformed
    cdef readonly uint64_t network_errors
    cdef readonly uint64_t no_question_errors
    cdef readonly uint64_t spoofing_suspected
    cdef readonly uint64_t sockets_opened
    cdef readonly uint64_t evicted

    cdef PeerAddress peer_of(self, str address, int port)
    cdef UpstreamSocket pool_socket(self, int family)
    cdef UpstreamSocket new_socket(self, int family)
    cdef UpstreamSocket acquire_socket(self, int family)
    cdef FamilySockets group_of(self, int family)
    cdef object network_of(self, UdpQuery query)
    cdef int wait_or_preempt(self, UdpQuery query) except -1
    cdef UpstreamSocket preempt(self, UdpQuery victim)
    cdef int assign(self, UpstreamSocket socket, UdpQuery query) except -1
    cdef int reuse_or_close(self, UpstreamSocket socket) except -1
    cdef int trim_later(self) except -1
    cdef bint disconnect(self, UpstreamSocket socket) noexcept
    cdef int release(self, UdpQuery query) except -1
    cdef int close_socket(self, UpstreamSocket socket) except -1
    cdef int transmit(self, UdpQuery query) except -1
    cdef int not_sent(self, UdpQuery query, int code, str what) except -1
    cdef int drain(self, UpstreamSocket socket) except -1
    cdef int drain_errors(self, UpstreamSocket socket) except -1
    cdef int receive(self, UpstreamSocket socket, const uint8_t *data, size_t size, const sockaddr_storage *source,
                     double now) except -1
    cdef int note_reply(self, UdpQuery query) except -1
    cdef int unwanted_reply(self, UpstreamSocket socket, const sockaddr_storage *source) except -1
    cdef int fail_spoof_suspected(self, UdpQuery query) except -1
    cdef int deliver(self, UdpQuery query, object result) except -1
    cdef int fail(self, UdpQuery query, object kind, str text) except -1
    cdef int schedule(self, UdpQuery query, double seconds) except -1
    cdef bint extend_if_late(self, UdpQuery query) except -1
    cdef bint used_full_timeout(self, UdpQuery query) except -1
    cdef int arm(self, int64_t tick) except -1
