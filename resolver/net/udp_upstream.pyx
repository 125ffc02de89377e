"""Queries to name servers over UDP: source ports, ids, letter case, matching of replies, timeouts.

A query has no task, future or timer of its own, because a datagram endpoint and a task per query cost twenty times as
much as sockets with callbacks. An ICMP error counts only when the packet it quotes is a pending query to that server.

Each query has its own port, on a socket that is connected to its server. The kernel then drops datagrams from other
addresses, and probing cannot distinguish an open port from a closed one. States of such a socket:

* idle: disconnected (connect to AF_UNSPEC), without a port, so nothing can reach it. Its receive queue is empty.
* taken: it belongs to a query that is not sent yet.
* connected: the kernel has assigned a random port of net.ipv4.ip_local_port_range; `pending` holds the one query.

It becomes idle again when the query ends. Datagrams received before the disconnect stay queued and are discarded
(`disconnect`), and the rest of a batch that was read together with the reply is skipped (`uses`): otherwise guesses
sent to an old port could answer the next query. Idle sockets that were not needed for a while are closed.

The number of sockets is limited, and any client can make the resolver query servers that do not reply. When no socket
is free, the query takes that of the oldest query of the network or zone that has the most (`shares`), and that one
waits; or it waits itself, until its own timeout, in `wait_queue` of its address family, where the network and zone with
the fewest sockets come first. A waiting query has no socket. One that was sent before is sent once more, and its
timeout runs on. Its timeout counts against the server only when it had a socket for all of that time. Shares are
counted only while sockets are scarce: from the first query that finds none until none waits and half of the sockets are
free. Networks without a recent reply are counted as one (`RepliedNetworks`).

When there is no memory to pass a socket on, it is closed (`give_back`): this needs no memory and loses no reply.

The pool (`port_per_query` False) has unconnected sockets on random ports of the whole range. Each is retired after some
hundred uses or some seconds. It needs fewer system calls, but a port lives long enough to be found by probing, and then
a dozen forged packets push its queries to TCP. The number of queries on its ports, including retired ones, is limited
to what the ports that are not retired may have outstanding. These slots are shared and waited for like sockets.
"""

import errno as errno_module
import logging

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport (EACCES, EAGAIN, ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, EINTR, ENETDOWN, ENETUNREACH, ENOBUFS,
                         ENOMEM, ENOPROTOOPT, EPROTO, errno)
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from resolver import limits
from resolver.effects import Failure, FailureKind, Reply
from resolver.wire.errors import WireError
from resolver.wire.message import MessageView

from resolver.net.clock_random cimport Entropy, monotonic_now
from resolver.net.libc cimport (AF_INET, AF_INET6, AF_UNSPEC, CMSG_DATA, CMSG_FIRSTHDR, CMSG_NXTHDR, IP_RECVERR,
                                IPPROTO_IP, IPPROTO_IPV6, IPV6_RECVERR, MSG_DONTWAIT, MSG_ERRQUEUE, MSG_NOSIGNAL,
                                MSG_TRUNC, SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, SO_EE_ORIGIN_LOCAL, cmsghdr, iovec,
                                mmsghdr, msghdr, recv, recvmmsg, recvmsg, sendto, sock_extended_err, sockaddr,
                                sockaddr_in, sockaddr_storage, socklen_t)
from resolver.net.libc cimport connect as connect_socket
from resolver.net.match cimport MATCH_NO_QUESTION, MATCH_REPLY, MATCH_WRONG_CASE, encode_query, check_upstream_cookie, match_reply
from resolver.net.sockaddr cimport PeerAddress, parse_peer
from resolver.wire.consts cimport COOKIE_CLIENT_SIZE
from resolver.wire.octets cimport get16

from resolver.log_limit import LimitedWarning
from resolver.net.local_errors import EDES, kind_of_error
from resolver.net.match import truncated_stub
from resolver.net.subnet_option import with_subnet
from resolver.net.sockaddr import open_socket
from resolver.net.routes import RouteChecker
from resolver.net.upstream_slots import RepliedNetworks, WaitQueue, UpstreamSlots

logger = logging.getLogger("resolver.net.udp_upstream")

parse_message = MessageView.parse

cdef enum:
    # The timeout wheel: 1024 slots of 10 ms. Longer timeouts take several rounds. Slots are dictionaries: a set with
    # no memory to grow keeps the new element, fills up, and then a lookup in it never ends (set_add_entry).
    SLOTS = 1024
    FLAG_RD = 0x0100
    FLAG_CD = 0x0010

cdef double TICK = 0.01
cdef int ERROR_ROUNDS = limits.UDP_ERRORS
cdef int LEFTOVERS = limits.UDP_DRAIN_PACKETS
cdef int64_t NEVER = 0x7fffffffffffffff


@cython.final
cdef class UpstreamSocket:
    """One socket and its pending queries."""


@cython.final
cdef class FamilySockets:
    """The sockets of one address family, and the queries that wait for one."""

    def __init__(self, int family):
        self.family = family
        self.idle = []
        self.wait_queue = WaitQueue()
        self.shares = None


@cython.final
@cython.freelist(256)
cdef class UdpQuery:
    """One query in flight or waiting; returned by `start`."""

    def cancel(self):
        """Cancel the query without calling back. A second call does nothing."""
        if self.soon is not None:
            self.soon.cancel()
            self.soon = None
        if not self.done:
            self.owner.release(self)
        self.on_reply = None

    def _fail_soon(self, kind, text):
        self.soon = None
        if self.on_reply is not None:
            self.owner.deliver(self, Failure(kind, EDES[kind], text))
            if self.owner.after_batch is not None:
                self.owner.after_batch()


@cython.final
cdef class UdpUpstream:
    """The outgoing UDP sockets and their queries.

    With `port_per_query` each query has its own port, on one of at most `sockets` sockets per address family, of which
    at most `kept` stay open while idle. Otherwise `ports`, `port_uses` and `port_age` (seconds) describe the pool.

    `after_batch()` is called once after each batch of replies or timeouts. `observer`, an attribute, records queries and
    replies. `replied_networks` and `routes` may be
    shared with other upstreams.
    """

    def __cinit__(self):
        self.buffers = NULL
        self.messages = NULL
        self.vectors = NULL
        self.names = NULL

    def __init__(self, loop, *, Entropy entropy, str source_v4="", str source_v6="", bint port_per_query=True,
                 bint randomise_case=True, int sockets=limits.UDP_SOCKETS,
                 int kept=limits.UDP_SOCKETS_KEPT, int ports=limits.UDP_PORTS,
                 int port_uses=limits.UDP_PORT_USES, double port_age=limits.UDP_PORT_AGE,
                 int near_miss_limit=limits.UNWANTED_REPLY_THRESHOLD, replied_networks=None, routes=None,
                 after_batch=None):
        cdef int i
        self.loop = loop
        self.entropy = entropy
        self.source_v4 = source_v4
        self.source_v6 = source_v6
        self.sockets = sockets
        self.kept = kept
        self.v4 = FamilySockets(AF_INET)
        self.v6 = FamilySockets(AF_INET6)
        self.idle_timer = None
        self.port_per_query = port_per_query
        self.randomise_case = randomise_case
        self.port_uses = port_uses
        self.port_age = port_age
        self.near_miss_limit = near_miss_limit
        self.after_batch = after_batch
        self.log = LimitedWarning(logger)
        self.replied_networks = RepliedNetworks() if replied_networks is None else replied_networks
        self.routes = RouteChecker((), source_v4, source_v6) if routes is None else routes
        self.ports_v4 = [None] * ports
        self.ports_v6 = [None] * ports
        self.peers = {}
        self.open_ports = {}
        self.wheel = [{} for _ in range(SLOTS)]
        self.timer = None
        self.bound_turn = self._turn
        self.bound_flush = self._flush
        self.unsent = []
        self.armed = NEVER
        self.turned = <int64_t>(monotonic_now() / TICK)
        self.batch = limits.UDP_BATCH
        self.capacity = limits.UDP_RECEIVE
        self.rounds = limits.UDP_ROUNDS
        self.buffers = <uint8_t *>calloc(self.batch, self.capacity)
        self.messages = <mmsghdr *>calloc(self.batch, sizeof(mmsghdr))
        self.vectors = <iovec *>calloc(self.batch, sizeof(iovec))
        self.names = <sockaddr_storage *>calloc(self.batch, sizeof(sockaddr_storage))
        if self.buffers is NULL or self.messages is NULL or self.vectors is NULL or self.names is NULL:
            raise MemoryError("buffers of the UDP upstream")
        for i in range(self.batch):
            self.vectors[i].iov_base = self.buffers + i * self.capacity
            self.vectors[i].iov_len = self.capacity
            self.messages[i].msg_hdr.msg_iov = &self.vectors[i]
            self.messages[i].msg_hdr.msg_iovlen = 1
            self.messages[i].msg_hdr.msg_name = &self.names[i]

    def __dealloc__(self):
        free(self.buffers)
        free(self.messages)
        free(self.vectors)
        free(self.names)

    # --- sending and ending a query ----------------------------------------------------------------------------

    def start(self, ask, on_reply):
        """Send `ask`; `on_reply` gets a `Reply` or a `Failure` later, never from inside this call.

        Returns an object with ``cancel()``.

        Raises:
            ValueError: the qname is not a valid name.
        """
        cdef UdpQuery entry = UdpQuery.__new__(UdpQuery)
        cdef UpstreamSocket port
        cdef uint16_t identity
        cdef int flags = 0, payload
        cdef object server = ask.server
        cdef object edns_payload = ask.edns_payload
        cdef bytes cookie = ask.cookie
        cdef FamilySockets own
        entry.owner = self
        entry.ask = ask
        entry.on_reply = on_reply
        if self.closed:
            return self._refuse(entry, FailureKind.LOCAL_RESOURCE, "the upstream is closed")
        identity = self.entropy.take16()
        try:
            entry.peer = self.peer_of(server.address, server.port)
        except ValueError as error:
            return self._refuse(entry, FailureKind.NO_ROUTE, str(error))
        except OSError as error:
            return self._no_port(entry, error)
        if ask.rd:
            flags |= FLAG_RD
        if ask.checking_disabled:
            flags |= FLAG_CD
        payload = -1 if edns_payload is None else min(<int>edns_payload, <int>self.capacity)
        if cookie is not None and not cookie:
            cookie = self.entropy.take_bytes(COOKIE_CLIENT_SIZE)
        entry.cookie = cookie
        entry.packet = encode_query(ask.qname, ask.qtype, identity, flags, payload, ask.do,
                                    self.entropy if self.randomise_case and ask.randomise_case else None, cookie)
        if ask.subnet is not None:
            entry.packet = with_subnet(entry.packet, ask.subnet, cookie)
        entry.identity = identity
        try:
            port = self.acquire_socket(entry.peer.family)
        except OSError as error:
            return self._no_port(entry, error)
        if port is None:
            own = self.family_of(entry.peer.family)
            if not own.wait_queue.admits(self.network_of(entry), limits.UDP_WAITING,
                                         limits.UDP_WAITING_SHARE):
                return self._refuse(entry, FailureKind.LOCAL_RESOURCE, "all outgoing ports are in use")
        self.outstanding += 1
        try:
            self.schedule(entry, ask.timeout)
            if port is None:
                self.wait(entry)
            else:
                self.give(port, entry)
        except MemoryError:
            self.release(entry)  # it may have no timeout
            if self.port_per_query and port is not None:
                self.give_back(port)
            raise
        return entry

    def _no_port(self, UdpQuery entry, error):
        kind = self.routes.classify_datagram_error(error.errno, entry.ask.server.address)
        return self._refuse(entry, kind, f"no outgoing port: {error.strerror or error}")

    cdef int give(self, UpstreamSocket port, UdpQuery entry) except -1:
        """Send `entry` from `port`, with other queries of this iteration; on MemoryError nothing changes."""
        cdef FamilySockets own = self.family_of(port.family)
        cdef object shares = own.shares
        while entry.identity in port.pending:  # only on ports of the pool
            entry.identity = self.entropy.take16()
            entry.packet = bytes((entry.identity >> 8, entry.identity & 255)) + entry.packet[2:]
        if shares is not None:
            shares.add(entry, self.network_of(entry), entry.ask.zone)
            own.peak_users = max(own.peak_users, <int>len(shares))
        try:
            port.pending[entry.identity] = entry
            if not entry.unsent:  # else it is queued already, and had another port before
                # Packets of one iteration are sent one straight after the other. Each that is sent alone wakes a local
                # receiver again, which costs more than the packet.
                if not self.unsent:
                    self.loop.call_soon(self.bound_flush)
                self.unsent.append(entry)
                entry.unsent = True
        except MemoryError:
            # The caller gives the port to another query, which may have the same identity.
            port.pending.pop(entry.identity, None)
            if shares is not None:
                shares.remove(entry)
            raise
        entry.port = port
        port.uses += 1
        own.busy += 1
        return 0

    def _refuse(self, UdpQuery entry, kind, str text):
        entry.done = True
        self.network_errors += 1
        entry.soon = self.loop.call_soon(entry._fail_soon, kind, text)
        return entry

    def _flush(self):
        """Send the queries that got a port since the last call."""
        cdef list unsent = self.unsent
        cdef UdpQuery ask
        if not unsent:
            return
        self.unsent = []
        for entry in unsent:
            ask = <UdpQuery>entry
            ask.unsent = False
            if not ask.done and ask.port is not None:
                self.transmit(ask)

    cdef int transmit(self, UdpQuery ask) except -1:
        """Send the packet. A full send buffer is a local shortage, which fails the query."""
        cdef UpstreamSocket port = ask.port
        cdef ssize_t rc
        cdef int _attempt, code = 0
        cdef const sockaddr *peer = <const sockaddr *>&ask.peer.storage
        cdef socklen_t peer_size = ask.peer.size
        ask.sent_at = monotonic_now()
        if ask.deadline == 0:
            ask.deadline = ask.sent_at + <double>ask.ask.timeout
        if self.port_per_query:
            if connect_socket(port.fd, peer, peer_size) < 0:
                code = errno
                return self.not_sent(ask, code, "connect")
            peer = NULL
            peer_size = 0
        for _attempt in range(3):
            rc = sendto(port.fd, PyBytes_AS_STRING(ask.packet), PyBytes_GET_SIZE(ask.packet),
                        MSG_DONTWAIT | MSG_NOSIGNAL, peer, peer_size)
            if rc >= 0:
                self.sent += 1
                if self.observer is not None:
                    self.observer.upstream_query(ask.ask, ask.packet, "udp")
                return 0
            code = errno
            if code == EAGAIN or code == ENOBUFS or code == ENOMEM:
                break
            # With IP_RECVERR a call may return the error of an earlier packet, which `_errors_soon` handles.
            if code != EINTR:
                self.loop.call_soon(self._errors_soon, port)
        return self.not_sent(ask, code, "send")

    cdef int not_sent(self, UdpQuery ask, int code, str what) except -1:
        kind = self.routes.classify_datagram_error(code, ask.ask.server.address)
        self.release(ask)
        self._refuse(ask, kind, f"cannot {what}: {errno_module.errorcode.get(code, code)}")
        return 0

    def _errors_soon(self, UpstreamSocket port):
        if port.fd >= 0:
            self.drain_errors(port)

    cdef int release(self, UdpQuery ask) except -1:
        """End `ask`: free its id, its wheel entry and its port, or remove it from the wait queue."""
        cdef UpstreamSocket port = ask.port
        cdef FamilySockets own
        if ask.done:
            return 0
        ask.done = True
        self.outstanding -= 1
        (<dict>self.wheel[ask.due % SLOTS]).pop(ask, None)
        if port is None:
            if ask.network is not None:
                self.family_of(ask.peer.family).wait_queue.remove(ask, ask.network, ask.ask.zone)
            return 0
        ask.port = None
        del port.pending[ask.identity]
        own = self.family_of(port.family)
        own.busy -= 1
        if own.shares is not None:
            own.shares.remove(ask)
            if not len(own.wait_queue) and 2 * len(own.shares) <= own.peak_users:
                own.shares = None
        return self.give_back(port)

    cdef int deliver(self, UdpQuery ask, object result) except -1:
        on_reply = ask.on_reply
        ask.on_reply = None
        try:
            on_reply(result)
        except Exception as error:  # noqa: BLE001 - an error in one query must not lose the rest of the batch
            self.loop.call_exception_handler({"message": "handling an upstream reply failed", "exception": error})
        return 0

    cdef int fail(self, UdpQuery ask, object kind, str text) except -1:
        failure = Failure(kind, EDES[kind], text)
        self.release(ask)
        if ask.on_reply is not None:
            self.deliver(ask, failure)
        return 0

    # --- ports -------------------------------------------------------------------------------------------------

    cdef PeerAddress peer_of(self, str address, int port):
        cdef PeerAddress peer = self.peers.get((address, port))
        if peer is None:
            peer = parse_peer(address, port)
            if len(self.peers) >= limits.UPSTREAM_ADDRESSES:
                self.peers.clear()
            self.peers[(address, port)] = peer
        return peer

    cdef UpstreamSocket pool_socket(self, int family):
        """A port of the pool for one more query; None when all are full, or the limit of queries is reached.

        Raises OSError when none is open and none can be opened.
        """
        cdef list ports = self.ports_v4 if family == AF_INET else self.ports_v6
        cdef UpstreamSocket port
        cdef Py_ssize_t index, i, count = len(ports)
        if self.family_of(family).busy >= count * limits.UDP_PORT_PENDING:
            return None
        index = self.entropy.take32() % <uint32_t>count
        port = ports[index]
        if port is not None and (port.uses >= self.port_uses or monotonic_now() - port.born > self.port_age):
            port.retired = True
            ports[index] = None
            if not port.pending:
                self.close_port(port)
            port = None
        if port is None:
            try:
                port = self.new_socket(family)
                ports[index] = port
            except OSError:
                if not any(ports):
                    raise
        if port is None or len(port.pending) >= limits.UDP_PORT_PENDING:
            for i in range(count):
                port = ports[(index + i) % count]
                if port is not None and len(port.pending) < limits.UDP_PORT_PENDING:
                    return port
            return None
        return port

    cdef FamilySockets family_of(self, int family):
        return self.v4 if family == AF_INET else self.v6

    cdef object network_of(self, UdpQuery ask):
        """The network that `ask` counts for. It stays the same until `ask` ends, even when the network replies."""
        if ask.network is None:
            ask.network = self.replied_networks.network(ask.ask.server.address)
        return ask.network

    cdef UpstreamSocket acquire_socket(self, int family):
        """An idle or new socket, or a port of the pool; None when all are in use.

        Raises OSError when no socket is open and none can be opened.
        """
        cdef FamilySockets own = self.family_of(family)
        cdef UpstreamSocket port
        if not self.port_per_query:
            return self.pool_socket(family)
        if own.idle:
            port = <UpstreamSocket>own.idle.pop()
            own.min_idle = min(own.min_idle, <int>len(own.idle))
            return port
        if own.count >= self.sockets:
            return None
        try:
            return self.new_socket(family)
        except OSError:
            if not own.count:
                raise
            return None

    cdef int wait(self, UdpQuery entry) except -1:
        """No socket is free for `entry`: take that of another query, or append `entry` to the wait queue."""
        cdef FamilySockets own = self.family_of(entry.peer.family)
        cdef UdpQuery holder
        cdef UpstreamSocket port
        network, zone = self.network_of(entry), entry.ask.zone
        if own.shares is None:
            shares = UpstreamSlots()
            holders = []
            for port in self.open_ports:
                if port.family == own.family:
                    holders.extend(port.pending.values())
            for holder in sorted(holders, key=_sent_at):
                shares.add(holder, self.network_of(holder), holder.ask.zone)
            own.shares = shares
            own.peak_users = len(shares)
        victim = own.shares.choose_victim(network, zone)
        port = None if victim is None else self.preempt(<UdpQuery>victim)
        if port is None:
            own.wait_queue.add(entry, network, zone)
            return 0
        try:
            self.give(port, entry)
        except MemoryError:
            self.give_back(port)  # no other query uses the port that was taken from another query
            raise
        return 0

    cdef UpstreamSocket preempt(self, UdpQuery victim):
        """Let `victim` wait, and return its socket or another one; None when neither is available."""
        cdef UpstreamSocket port = victim.port
        cdef FamilySockets own = self.family_of(port.family)
        own.wait_queue.add(victim, self.network_of(victim), victim.ask.zone)
        victim.port = None
        if victim.sent_at != 0:
            victim.socket_seconds += monotonic_now() - victim.sent_at
            victim.sent_at = 0
        del port.pending[victim.identity]
        own.shares.remove(victim)
        self.evicted += 1
        own.busy -= 1
        if not self.port_per_query:
            if port.retired and not port.pending:
                self.close_port(port)
        elif self.disconnect(port):
            return port
        else:
            self.close_port(port)
        try:
            return self.acquire_socket(port.family)
        except OSError:
            return None

    cdef int give_back(self, UpstreamSocket port) except -1:
        """Give the socket of an ended query to a waiting one, or keep it idle, or close it; the pool keeps its sockets.

        A shortage of descriptors or memory is not raised: the caller still has to deliver the reply of the ended
        query. Waiting queries then fail at their timeout.
        """
        cdef FamilySockets own = self.family_of(port.family)
        if not self.port_per_query:
            if port.retired and not port.pending:
                self.close_port(port)
            port = None
        elif self.closed or not self.disconnect(port):
            self.close_port(port)
            port = None
        try:
            if len(own.wait_queue) and not self.closed:
                if port is None:
                    port = self.acquire_socket(own.family)
                    if port is None:
                        return 0
                self.give(port, <UdpQuery>own.wait_queue.next(own.shares))
            elif port is not None:
                if len(own.idle) < self.kept:
                    own.idle.append(port)
                    self.trim_later()
                else:
                    self.close_port(port)
        except OSError:
            pass  # `new_socket` has logged it
        except MemoryError:
            # The query that has ended is called back after this, and the next one that waits has its timeout.
            if port is not None and self.port_per_query:
                self.close_port(port)
        return 0

    cdef int trim_later(self) except -1:
        if self.idle_timer is None:
            try:
                self.idle_timer = self.loop.call_later(limits.UDP_SOCKET_IDLE / 1000, self._trim)
            except MemoryError:
                pass  # retried when the next socket becomes idle
        return 0

    def _trim(self):
        """Close as many sockets as were idle all the time since the last call, the longest idle ones first."""
        cdef FamilySockets own
        self.idle_timer = None
        for own in (self.v4, self.v6):
            for port in own.idle[:own.min_idle]:
                self.close_port(<UpstreamSocket>port)
            del own.idle[:own.min_idle]
            own.min_idle = len(own.idle)
            if own.idle:
                self.trim_later()

    cdef bint disconnect(self, UpstreamSocket port) noexcept:
        """Release the port and empty the receive queue; False when the socket cannot be used again."""
        cdef sockaddr_storage unspecified
        cdef uint8_t octet
        cdef int _i
        memset(&unspecified, 0, sizeof(unspecified))
        unspecified.ss_family = AF_UNSPEC
        if connect_socket(port.fd, <const sockaddr *>&unspecified, sizeof(sockaddr_in)) < 0:
            return False
        for _i in range(LEFTOVERS):
            # Another error is that of an earlier packet, which is returned once.
            if recv(port.fd, &octet, 1, MSG_DONTWAIT) < 0 and errno == EAGAIN:
                return True
        return False

    cdef UpstreamSocket new_socket(self, int family):
        """Open a socket: without a port with `port_per_query`, else on a random port of the whole range."""
        cdef UpstreamSocket port
        cdef FamilySockets own
        source = self.source_v4 if family == AF_INET else self.source_v6
        try:
            if self.port_per_query:
                sock = open_socket(family, source)
            else:
                sock = open_socket(family, source or ("0.0.0.0" if family == AF_INET else "::"), self.entropy)
        except OSError as error:
            self.log.warn("upstream: cannot open a UDP socket: %s", error.strerror)
            raise
        port = UpstreamSocket.__new__(UpstreamSocket)
        port.sock = sock
        port.fd = sock.fileno()
        port.family = family
        port.pending = {}
        port.born = monotonic_now()
        try:
            self.open_ports[port] = None
            self.loop.add_reader(port.fd, self._readable, port)
        except MemoryError:
            # A closed descriptor in the table would be closed again when it belongs to another socket.
            self.open_ports.pop(port, None)
            sock.close()
            raise
        self.ports_opened += 1
        own = self.family_of(family)
        own.count += 1
        return port

    cdef int close_port(self, UpstreamSocket port) except -1:
        cdef FamilySockets own
        if port.fd < 0:
            return 0
        self.loop.remove_reader(port.fd)
        self.open_ports.pop(port, None)
        own = self.family_of(port.family)
        own.count -= 1
        port.fd = -1
        port.sock.close()
        return 0

    # --- receiving ---------------------------------------------------------------------------------------------

    def _readable(self, UpstreamSocket port):
        self.drain(port)
        if self.after_batch is not None:
            self.after_batch()

    cdef int drain(self, UpstreamSocket port) except -1:
        cdef int got, i, _turn_number, uses = port.uses
        cdef double now
        for _turn_number in range(self.rounds):
            if port.fd < 0 or (self.port_per_query and port.uses != uses):
                return 0
            for i in range(self.batch):
                self.messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_storage)
                self.messages[i].msg_hdr.msg_flags = 0
            got = recvmmsg(port.fd, self.messages, self.batch, MSG_DONTWAIT, NULL)
            if got < 0:
                if errno == EAGAIN:
                    # Readable without data: there is an entry in the error queue.
                    self.drain_errors(port)
                    return 0
                if errno != EINTR:
                    self.drain_errors(port)
                continue
            now = monotonic_now()
            for i in range(got):
                if port.fd < 0 or (self.port_per_query and (port.uses != uses or not port.pending)):
                    return 0
                if self.messages[i].msg_hdr.msg_flags & MSG_TRUNC:
                    self.malformed += 1
                    continue
                self.receive(port, self.buffers + i * self.capacity, self.messages[i].msg_len, &self.names[i], now)
            if got < self.batch:
                return 0
        return 0

    cdef int receive(self, UpstreamSocket port, const uint8_t *data, size_t size, const sockaddr_storage *source,
                     double now) except -1:
        cdef UdpQuery ask
        cdef int code
        cdef bytes packet, qname
        cdef bytes cookie = b""
        cdef object found
        if size < 12:
            return self.unwanted_reply(port, source)
        found = port.pending.get(get16(data))
        if found is None:
            return self.unwanted_reply(port, source)
        ask = <UdpQuery>found
        if not ask.peer.matches(source):
            return self.unwanted_reply(port, source)
        code = match_reply(<const uint8_t *>PyBytes_AS_STRING(ask.packet), PyBytes_GET_SIZE(ask.packet), data, size)
        if code != MATCH_REPLY:
            if code == MATCH_WRONG_CASE:
                # A server that changes the letter case could never reply. The caller decides how to go on.
                self.unwanted_replies += 1
                return self.fail(ask, FailureKind.CASE_MISMATCH, "the reply changes the letter case of the question")
            if code == MATCH_NO_QUESTION:
                # Its sender may not have seen the letter case. The query is repeated over TCP.
                self.no_question_errors += 1
                return self.fail_spoof_suspected(ask)
            return self.unwanted_reply(port, source)
        packet = PyBytes_FromStringAndSize(<const char *>data, size)
        if self.observer is not None:
            self.observer.upstream_response(ask.ask, ask.packet, data[:size], "udp", now - ask.sent_at)
        # Restore the letter case of the qname: names compressed against the question would carry the random case to
        # the cache and to clients. The match has shown that the lengths agree.
        qname = <bytes>ask.ask.qname
        memcpy(PyBytes_AS_STRING(packet) + 12, PyBytes_AS_STRING(qname), PyBytes_GET_SIZE(qname))
        try:
            view = parse_message(packet)
        except WireError:
            packet = truncated_stub(packet)
            if packet is None:
                # A malformed reply is ignored (TuDoor): the right one may still come.
                self.malformed += 1
                ask.malformed_seen = True
                return 0
            view = parse_message(packet)
        if ask.cookie is not None:
            cookie = check_upstream_cookie(ask.cookie, view.edns)
            if cookie is None:
                self.cookie_mismatches += 1
                return self.unwanted_reply(port, source)
            if cookie:
                self.cookies += 1
        self.replies += 1
        reply = Reply(view, now - ask.sent_at, False, ask.ask.server, cookie)
        self.replied_networks.add_reply(ask.ask.server.address)
        self.release(ask)
        return self.deliver(ask, reply)

    cdef int unwanted_reply(self, UpstreamSocket port, const sockaddr_storage *source) except -1:
        """Count a packet that matches no query for all queries to its sender; one with too many of them fails."""
        cdef UdpQuery ask
        cdef bint known = False
        for found in list(port.pending.values()):
            ask = <UdpQuery>found
            if not ask.done and ask.peer.matches(source):
                known = True
                ask.unwanted_replies += 1
                if ask.unwanted_replies >= self.near_miss_limit:
                    self.fail_spoof_suspected(ask)
        if known:
            self.unwanted_replies += 1
        else:
            self.unknown_replies += 1
        return 0

    cdef int fail_spoof_suspected(self, UdpQuery ask) except -1:
        """Fail a query whose replies may be forged. The caller repeats it over TCP, at the cost of another packet."""
        self.unproved += 1
        return self.fail(ask, FailureKind.SPOOF_SUSPECTED, "the replies may be forged")

    cdef int drain_errors(self, UpstreamSocket port) except -1:
        """Read the socket's error queue and fail the queries whose packets could not be delivered."""
        cdef msghdr message
        cdef iovec vector
        cdef sockaddr_storage name
        cdef cmsghdr *control
        cdef sock_extended_err *report
        cdef uint8_t quoted[512]
        cdef uint8_t ancillary[512]
        cdef ssize_t size
        cdef int _turn_number, code
        cdef UdpQuery ask
        for _turn_number in range(ERROR_ROUNDS):
            if port.fd < 0:
                return 0
            memset(&message, 0, sizeof(message))
            memset(&name, 0, sizeof(name))
            vector.iov_base = quoted
            vector.iov_len = sizeof(quoted)
            message.msg_name = &name
            message.msg_namelen = sizeof(name)
            message.msg_iov = &vector
            message.msg_iovlen = 1
            message.msg_control = ancillary
            message.msg_controllen = sizeof(ancillary)
            size = recvmsg(port.fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT)
            if size < 0:
                if errno == EINTR:
                    continue
                return 0
            code = 0
            kind = FailureKind.NETWORK
            control = CMSG_FIRSTHDR(&message)
            while control is not NULL:
                if (control.cmsg_level == IPPROTO_IP and control.cmsg_type == IP_RECVERR) or \
                        (control.cmsg_level == IPPROTO_IPV6 and control.cmsg_type == IPV6_RECVERR):
                    report = <sock_extended_err *>CMSG_DATA(control)
                    if report.ee_origin in (SO_EE_ORIGIN_LOCAL, SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6):
                        code = report.ee_errno
                        if report.ee_origin == SO_EE_ORIGIN_LOCAL:
                            kind = kind_of_error(code)
                control = CMSG_NXTHDR(&message, control)
            if code not in (ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EHOSTDOWN, ENETDOWN, EACCES, ENOPROTOOPT, EPROTO):
                continue
            # Routers may quote as little as eight octets of the datagram; without a DNS header it is ignored.
            if size < 12:
                continue
            found = port.pending.get(get16(quoted))
            if found is None:
                continue
            ask = <UdpQuery>found
            if not ask.peer.matches(&name) or size > PyBytes_GET_SIZE(ask.packet) \
                    or memcmp(quoted, PyBytes_AS_STRING(ask.packet), size) != 0:
                continue
            self.network_errors += 1
            self.fail(ask, kind, error_text(code))
        return 0

    # --- timeouts ----------------------------------------------------------------------------------------------

    cdef int schedule(self, UdpQuery ask, double seconds) except -1:
        cdef int64_t now = <int64_t>(monotonic_now() / TICK)
        if self.timer is None and self.outstanding == 1:
            self.turned = now
        ask.due = now + 1 + <int64_t>(max(seconds, 0.0) / TICK)
        (<dict>self.wheel[ask.due % SLOTS])[ask] = None
        if ask.due < self.armed:
            self.arm(ask.due)
        return 0

    cdef int arm(self, int64_t tick) except -1:
        cdef double delay
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.armed = NEVER  # if there is no memory for a timer, the next query tries again
        delay = tick * TICK - monotonic_now()
        self.timer = self.loop.call_later(max(delay, 0.0), self.bound_turn)
        self.armed = tick
        return 0

    def _turn(self):
        """Fail the queries that are due, then arm the timer for the next slot that is not empty."""
        cdef int64_t now = <int64_t>(monotonic_now() / TICK)
        cdef int64_t tick, stop
        cdef UdpQuery ask
        cdef dict slot
        self.timer = None
        self.armed = NEVER
        stop = min(now, self.turned + SLOTS)
        tick = self.turned
        while tick <= stop:
            slot = <dict>self.wheel[tick % SLOTS]
            if slot:
                for entry in list(slot):
                    ask = <UdpQuery>entry
                    if ask.due <= now and not ask.done and not self.extend_if_late(ask):
                        if not self.used_full_timeout(ask):
                            self.network_errors += 1
                            self.fail(ask, FailureKind.LOCAL_RESOURCE, "no outgoing port was free in time")
                            continue
                        self.timeouts += 1
                        if ask.malformed_seen:
                            self.fail(ask, FailureKind.MALFORMED, "only malformed replies")
                        else:
                            self.fail(ask, FailureKind.TIMEOUT, "no reply")
            tick += 1
        self.turned = now
        if self.outstanding:
            for tick in range(now, now + SLOTS):
                if self.wheel[tick % SLOTS]:
                    if max(tick, now + 1) < self.armed:
                        self.arm(max(tick, now + 1))
                    break
        if self.after_batch is not None:
            self.after_batch()

    cdef bint extend_if_late(self, UdpQuery ask) except -1:
        """Whether a query that is due must not time out yet: when the loop was delayed, it was sent late, or its reply
        is still in the socket.

        Reading the socket may end this query and others.
        """
        cdef double left
        if ask.port is None:
            return False
        if ask.deadline != 0:
            left = ask.deadline - monotonic_now()
        elif ask.due_unsent:
            return False  # it will never be sent: `_flush` failed for lack of memory
        else:
            left = ask.ask.timeout
            ask.due_unsent = True
        if left > 0:
            (<dict>self.wheel[ask.due % SLOTS]).pop(ask, None)
            self.schedule(ask, left)
            return True
        self.drain(ask.port)
        return ask.done

    cdef bint used_full_timeout(self, UdpQuery ask) except -1:
        """Whether `ask`, which is due, could have received a reply during its whole timeout."""
        cdef double now = monotonic_now()
        cdef double since = now if ask.port is None or ask.sent_at == 0 else ask.sent_at
        return ask.deadline != 0 and since + <double>ask.ask.timeout - ask.socket_seconds <= now

    # --- end and inspection --------------------------------------------------------------------------------------

    def close(self):
        """Close every socket. Queries in flight end without a callback."""
        cdef UpstreamSocket port
        self.closed = True
        for port in list(self.open_ports):
            for ask in list(port.pending.values()):
                (<UdpQuery>ask).cancel()
            self.close_port(port)
        for own in (self.v4, self.v6):
            for ask in (<FamilySockets>own).wait_queue.members():
                (<UdpQuery>ask).cancel()
            (<FamilySockets>own).idle.clear()
        if self.idle_timer is not None:
            self.idle_timer.cancel()
            self.idle_timer = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    @property
    def pending(self):
        """Number of queries in flight or waiting."""
        return self.outstanding

    @property
    def max_sockets(self):
        """Maximum number of sockets of one address family."""
        return self.sockets

    @property
    def open_sockets(self):
        """Number of open sockets, including those without a port."""
        return len(self.open_ports)

    @property
    def open_port_numbers(self):
        """Port numbers in use, including retired ones with pending queries."""
        numbers = sorted((<UpstreamSocket>port).sock.getsockname()[1] for port in self.open_ports)
        return [number for number in numbers if number]

    def statistics(self):
        """Counters since the start, by name."""
        return {
            "sent": self.sent,
            "replies": self.replies,
            "timeouts": self.timeouts,
            "unwanted_replies": self.unwanted_replies,
            "cookie_replies": self.cookies,
            "cookie_mismatches": self.cookie_mismatches,
            "unknown_replies": self.unknown_replies,
            "malformed": self.malformed,
            "network_errors": self.network_errors,
            "no_question_errors": self.no_question_errors,
            "spoofing_suspected": self.unproved,
            "sockets_opened": self.ports_opened,
            "evicted": self.evicted,
        }


def _sent_at(UdpQuery ask):
    """Sort key: when `ask` was sent; unsent ones last."""
    return ask.sent_at if ask.sent_at else float("inf")


cdef str error_text(int code):
    name = errno_module.errorcode.get(code, str(code))
    return {"ECONNREFUSED": "connection refused", "EHOSTUNREACH": "host unreachable",
            "ENETUNREACH": "network unreachable"}.get(name, name)
