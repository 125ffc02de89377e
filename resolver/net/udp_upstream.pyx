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

When there is no memory to pass a socket on, it is closed (`reuse_or_close`): this needs no memory and loses no reply.

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
from resolver.net.upstream_slots import RepliedNetworks, UpstreamSlots, WaitQueue, server_network

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
cdef int MAX_DRAINED = limits.UDP_DRAIN_PACKETS
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
        if self.failure_handle is not None:
            self.failure_handle.cancel()
            self.failure_handle = None
        if not self.done:
            self.owner.release(self)
        self.on_reply = None

    def _deliver_failure(self, kind, text):
        self.failure_handle = None
        if self.on_reply is not None:
            self.owner.deliver(self, Failure(kind, EDES[kind], text))
            if self.owner.after_batch is not None:
                self.owner.after_batch()


@cython.final
cdef class UdpUpstream:
    """The outgoing UDP sockets and their queries.

    With `port_per_query` each query has its own port, on one of at most `sockets` sockets per address family, of which
    at most `kept` stay open while idle. Otherwise `ports`, `port_uses` and `port_age` (seconds) describe the pool.

    `after_batch()` is called once after each batch of replies or timeouts. `observer`, an attribute, records queries
    and replies. `replied_networks` and `routes` may be shared with other upstreams.
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
                 int unwanted_reply_threshold=limits.UNWANTED_REPLY_THRESHOLD, replied_networks=None, routes=None,
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
        self.unwanted_reply_threshold = unwanted_reply_threshold
        self.after_batch = after_batch
        self.log = LimitedWarning(logger)
        self.replied_networks = RepliedNetworks() if replied_networks is None else replied_networks
        self.routes = RouteChecker((), source_v4, source_v6) if routes is None else routes
        self.ports_v4 = [None] * ports
        self.ports_v6 = [None] * ports
        self.peers = {}
        self.all_sockets = {}
        self.wheel = [{} for _ in range(SLOTS)]
        self.timer = None
        self.unsent = []
        self.armed_tick = NEVER
        self.last_tick = <int64_t>(monotonic_now() / TICK)
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
        cdef UdpQuery query = UdpQuery.__new__(UdpQuery)
        cdef UpstreamSocket socket
        cdef uint16_t identity
        cdef int flags = 0, payload
        cdef object server = ask.server
        cdef object edns_payload = ask.edns_payload
        cdef bytes cookie = ask.cookie
        cdef FamilySockets group
        query.owner = self
        query.ask = ask
        query.on_reply = on_reply
        if self.closed:
            return self._refuse(query, FailureKind.LOCAL_RESOURCE, "the upstream is closed")
        identity = self.entropy.take16()
        try:
            query.peer = self.peer_of(server.address, server.port)
        except ValueError as error:
            return self._refuse(query, FailureKind.NO_ROUTE, str(error))
        except OSError as error:
            return self._refuse_without_socket(query, error)
        if ask.rd:
            flags |= FLAG_RD
        if ask.checking_disabled:
            flags |= FLAG_CD
        payload = -1 if edns_payload is None else min(<int>edns_payload, <int>self.capacity)
        if cookie is not None and not cookie:
            cookie = self.entropy.take_bytes(COOKIE_CLIENT_SIZE)
        query.cookie = cookie
        query.packet = encode_query(ask.qname, ask.qtype, identity, flags, payload, ask.do,
                                    self.entropy if self.randomise_case and ask.randomise_case else None, cookie)
        if ask.subnet is not None:
            query.packet = with_subnet(query.packet, ask.subnet, cookie)
        query.identity = identity
        try:
            socket = self.acquire_socket(query.peer.family)
        except OSError as error:
            return self._refuse_without_socket(query, error)
        if socket is None:
            group = self.group_of(query.peer.family)
            if not group.wait_queue.admits(self.network_of(query), limits.UDP_WAITING,
                                           limits.UDP_WAITING_SHARE):
                return self._refuse(query, FailureKind.LOCAL_RESOURCE, "all outgoing ports are in use")
        self.outstanding += 1
        try:
            self.schedule(query, ask.timeout)
            if socket is None:
                self.wait_or_preempt(query)
            else:
                self.assign(socket, query)
        except MemoryError:
            self.release(query)  # it may have no timeout
            if self.port_per_query and socket is not None:
                self.reuse_or_close(socket)
            raise
        return query

    def _refuse_without_socket(self, UdpQuery query, error):
        kind = self.routes.classify_datagram_error(error.errno, query.ask.server.address)
        return self._refuse(query, kind, f"no outgoing port: {error.strerror or error}")

    cdef int assign(self, UpstreamSocket socket, UdpQuery query) except -1:
        """Send `query` from `socket`, with other queries of this iteration; on MemoryError nothing changes."""
        cdef FamilySockets group = self.group_of(socket.family)
        cdef object shares = group.shares
        while query.identity in socket.pending:  # only on ports of the pool
            query.identity = self.entropy.take16()
            query.packet = bytes((query.identity >> 8, query.identity & 255)) + query.packet[2:]
        if shares is not None:
            shares.add(query, self.network_of(query), query.ask.zone)
            group.peak_users = max(group.peak_users, <int>len(shares))
        try:
            socket.pending[query.identity] = query
            if not query.unsent:  # else it is queued already, and had another port before
                # Packets of one iteration are sent one straight after the other. Each that is sent alone wakes a local
                # receiver again, which costs more than the packet.
                if not self.unsent:
                    self.loop.call_soon(self._flush)
                self.unsent.append(query)
                query.unsent = True
        except MemoryError:
            # The caller gives the port to another query, which may have the same identity.
            socket.pending.pop(query.identity, None)
            if shares is not None:
                shares.remove(query)
            raise
        query.socket = socket
        socket.uses += 1
        group.busy += 1
        return 0

    def _refuse(self, UdpQuery query, kind, str text):
        query.done = True
        self.network_errors += 1
        query.failure_handle = self.loop.call_soon(query._deliver_failure, kind, text)
        return query

    def _flush(self):
        """Send the queries that got a port since the last call."""
        cdef list unsent = self.unsent
        cdef UdpQuery query
        if not unsent:
            return
        self.unsent = []
        for query in unsent:
            query.unsent = False
            if not query.done and query.socket is not None:
                self.transmit(query)

    cdef int transmit(self, UdpQuery query) except -1:
        """Send the packet. A full send buffer is a local shortage, which fails the query."""
        cdef UpstreamSocket socket = query.socket
        cdef ssize_t rc
        cdef int _attempt, code = 0
        cdef const sockaddr *peer = <const sockaddr *>&query.peer.storage
        cdef socklen_t peer_size = query.peer.size
        query.sent_at = monotonic_now()
        if query.deadline == 0:
            query.deadline = query.sent_at + <double>query.ask.timeout
        if self.port_per_query:
            if connect_socket(socket.fd, peer, peer_size) < 0:
                code = errno
                return self.not_sent(query, code, "connect")
            peer = NULL
            peer_size = 0
        for _attempt in range(3):
            rc = sendto(socket.fd, PyBytes_AS_STRING(query.packet), PyBytes_GET_SIZE(query.packet),
                        MSG_DONTWAIT | MSG_NOSIGNAL, peer, peer_size)
            if rc >= 0:
                self.sent += 1
                if self.observer is not None:
                    self.observer.upstream_query(query.ask, query.packet, "udp")
                return 0
            code = errno
            if code == EAGAIN or code == ENOBUFS or code == ENOMEM:
                break
            # With IP_RECVERR a call may return the error of an earlier packet, which `_read_errors` handles.
            if code != EINTR:
                self.loop.call_soon(self._read_errors, socket)
        return self.not_sent(query, code, "send")

    cdef int not_sent(self, UdpQuery query, int code, str what) except -1:
        kind = self.routes.classify_datagram_error(code, query.ask.server.address)
        self.release(query)
        self._refuse(query, kind, f"cannot {what}: {errno_module.errorcode.get(code, code)}")
        return 0

    def _read_errors(self, UpstreamSocket socket):
        if socket.fd >= 0:
            self.drain_errors(socket)

    cdef int release(self, UdpQuery query) except -1:
        """End `query`: free its id, its wheel entry and its port, or remove it from the wait queue."""
        cdef UpstreamSocket socket = query.socket
        cdef FamilySockets group
        if query.done:
            return 0
        query.done = True
        self.outstanding -= 1
        (<dict>self.wheel[query.due % SLOTS]).pop(query, None)
        if socket is None:
            if query.network is not None:
                self.group_of(query.peer.family).wait_queue.remove(query, query.network, query.ask.zone)
            return 0
        query.socket = None
        del socket.pending[query.identity]
        group = self.group_of(socket.family)
        group.busy -= 1
        if group.shares is not None:
            group.shares.remove(query)
            if not len(group.wait_queue) and 2 * len(group.shares) <= group.peak_users:
                group.shares = None
        return self.reuse_or_close(socket)

    cdef int deliver(self, UdpQuery query, object result) except -1:
        on_reply = query.on_reply
        query.on_reply = None
        try:
            on_reply(result)
        except Exception as error:  # noqa: BLE001 - an error in one query must not lose the rest of the batch
            self.loop.call_exception_handler({"message": "handling an upstream reply failed", "exception": error})
        return 0

    cdef int fail(self, UdpQuery query, object kind, str text) except -1:
        failure = Failure(kind, EDES[kind], text)
        self.release(query)
        if query.on_reply is not None:
            self.deliver(query, failure)
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
        cdef UpstreamSocket socket
        cdef Py_ssize_t index, i, count = len(ports)
        if self.group_of(family).busy >= count * limits.UDP_PORT_PENDING:
            return None
        index = self.entropy.take32() % <uint32_t>count
        socket = ports[index]
        if socket is not None and (socket.uses >= self.port_uses or monotonic_now() - socket.born > self.port_age):
            socket.retired = True
            ports[index] = None
            if not socket.pending:
                self.close_socket(socket)
            socket = None
        if socket is None:
            try:
                socket = self.new_socket(family)
                ports[index] = socket
            except OSError:
                if not any(ports):
                    raise
        if socket is None or len(socket.pending) >= limits.UDP_PORT_PENDING:
            for i in range(count):
                socket = ports[(index + i) % count]
                if socket is not None and len(socket.pending) < limits.UDP_PORT_PENDING:
                    return socket
            return None
        return socket

    cdef FamilySockets group_of(self, int family):
        return self.v4 if family == AF_INET else self.v6

    cdef object network_of(self, UdpQuery query):
        """The network that `query` counts for. It stays the same until `query` ends, even when the network replies."""
        if query.network is None:
            query.network = self.replied_networks.network(query.ask.server.address)
        return query.network

    cdef UpstreamSocket acquire_socket(self, int family):
        """An idle or new socket, or a port of the pool; None when all are in use.

        Raises OSError when no socket is open and none can be opened.
        """
        cdef FamilySockets group = self.group_of(family)
        cdef UpstreamSocket socket
        if not self.port_per_query:
            return self.pool_socket(family)
        if group.idle:
            socket = <UpstreamSocket>group.idle.pop()
            group.min_idle = min(group.min_idle, <int>len(group.idle))
            return socket
        if group.count >= self.sockets:
            return None
        try:
            return self.new_socket(family)
        except OSError:
            if not group.count:
                raise
            return None

    cdef int wait_or_preempt(self, UdpQuery query) except -1:
        """No socket is free for `query`: take that of another query, or append `query` to the wait queue."""
        cdef FamilySockets group = self.group_of(query.peer.family)
        cdef UdpQuery holder
        cdef UpstreamSocket socket
        network, zone = self.network_of(query), query.ask.zone
        if group.shares is None:
            shares = UpstreamSlots()
            holders = []
            for socket in self.all_sockets:
                if socket.family == group.family:
                    holders.extend(socket.pending.values())
            for holder in sorted(holders, key=_sent_at):
                shares.add(holder, self.network_of(holder), holder.ask.zone)
            group.shares = shares
            group.peak_users = len(shares)
        victim = group.shares.choose_victim(network, zone)
        socket = None if victim is None else self.preempt(<UdpQuery>victim)
        if socket is None:
            group.wait_queue.add(query, network, zone)
            return 0
        try:
            self.assign(socket, query)
        except MemoryError:
            self.reuse_or_close(socket)  # no other query uses the port that was taken from another query
            raise
        return 0

    cdef UpstreamSocket preempt(self, UdpQuery victim):
        """Let `victim` wait, and return its socket or another one; None when neither is available."""
        cdef UpstreamSocket socket = victim.socket
        cdef FamilySockets group = self.group_of(socket.family)
        group.wait_queue.add(victim, self.network_of(victim), victim.ask.zone)
        victim.socket = None
        if victim.sent_at != 0:
            victim.socket_seconds += monotonic_now() - victim.sent_at
            victim.sent_at = 0
        del socket.pending[victim.identity]
        group.shares.remove(victim)
        self.evicted += 1
        group.busy -= 1
        if not self.port_per_query:
            if socket.retired and not socket.pending:
                self.close_socket(socket)
        elif self.disconnect(socket):
            return socket
        else:
            self.close_socket(socket)
        try:
            return self.acquire_socket(socket.family)
        except OSError:
            return None

    cdef int reuse_or_close(self, UpstreamSocket socket) except -1:
        """Give the socket of an ended query to a waiting one, or keep it idle, or close it; the pool keeps its sockets.

        A shortage of descriptors or memory is not raised: the caller still has to deliver the reply of the ended
        query. Waiting queries then fail at their timeout.
        """
        cdef FamilySockets group = self.group_of(socket.family)
        if not self.port_per_query:
            if socket.retired and not socket.pending:
                self.close_socket(socket)
            socket = None
        elif self.closed or not self.disconnect(socket):
            self.close_socket(socket)
            socket = None
        try:
            if group.shares is not None and len(group.wait_queue) and not self.closed:
                if socket is None:
                    socket = self.acquire_socket(group.family)
                    if socket is None:
                        return 0
                self.assign(socket, <UdpQuery>group.wait_queue.next(group.shares))
            elif socket is not None:
                if len(group.idle) < self.kept:
                    group.idle.append(socket)
                    self.trim_later()
                else:
                    self.close_socket(socket)
        except OSError:
            pass  # `new_socket` has logged it
        except MemoryError:
            # The query that has ended is called back after this, and the next one that waits has its timeout.
            if socket is not None and self.port_per_query:
                self.close_socket(socket)
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
        cdef FamilySockets group
        self.idle_timer = None
        for group in (self.v4, self.v6):
            for socket in group.idle[:group.min_idle]:
                self.close_socket(<UpstreamSocket>socket)
            del group.idle[:group.min_idle]
            group.min_idle = len(group.idle)
            if group.idle:
                self.trim_later()

    cdef bint disconnect(self, UpstreamSocket socket) noexcept:
        """Release the port and empty the receive queue; False when the socket cannot be used again."""
        cdef sockaddr_storage unspecified
        cdef uint8_t octet
        cdef int _i
        memset(&unspecified, 0, sizeof(unspecified))
        unspecified.ss_family = AF_UNSPEC
        if connect_socket(socket.fd, <const sockaddr *>&unspecified, sizeof(sockaddr_in)) < 0:
            return False
        for _i in range(MAX_DRAINED):
            # Another error is that of an earlier packet, which is returned once.
            if recv(socket.fd, &octet, 1, MSG_DONTWAIT) < 0 and errno == EAGAIN:
                return True
        return False

    cdef UpstreamSocket new_socket(self, int family):
        """Open a socket: without a port with `port_per_query`, else on a random port of the whole range."""
        cdef UpstreamSocket socket
        cdef FamilySockets group
        source = self.source_v4 if family == AF_INET else self.source_v6
        try:
            if self.port_per_query:
                sock = open_socket(family, source)
            else:
                sock = open_socket(family, source or ("0.0.0.0" if family == AF_INET else "::"), self.entropy)
        except OSError as error:
            self.log.warn("upstream: cannot open a UDP socket: %s", error.strerror)
            raise
        socket = UpstreamSocket.__new__(UpstreamSocket)
        socket.sock = sock
        socket.fd = sock.fileno()
        socket.family = family
        socket.pending = {}
        socket.born = monotonic_now()
        try:
            self.all_sockets[socket] = None
            self.loop.add_reader(socket.fd, self._readable, socket)
        except MemoryError:
            # A closed descriptor in the table would be closed again when it belongs to another socket.
            self.all_sockets.pop(socket, None)
            sock.close()
            raise
        self.sockets_opened += 1
        group = self.group_of(family)
        group.count += 1
        return socket

    cdef int close_socket(self, UpstreamSocket socket) except -1:
        cdef FamilySockets group
        if socket.fd < 0:
            return 0
        self.loop.remove_reader(socket.fd)
        self.all_sockets.pop(socket, None)
        group = self.group_of(socket.family)
        group.count -= 1
        socket.fd = -1
        socket.sock.close()
        return 0

    # --- receiving ---------------------------------------------------------------------------------------------

    def _readable(self, UpstreamSocket socket):
        self.drain(socket)
        if self.after_batch is not None:
            self.after_batch()

    cdef int drain(self, UpstreamSocket socket) except -1:
        cdef int got, i, _round, uses = socket.uses
        cdef double now
        for _round in range(self.rounds):
            if socket.fd < 0 or (self.port_per_query and socket.uses != uses):
                return 0
            for i in range(self.batch):
                self.messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_storage)
                self.messages[i].msg_hdr.msg_flags = 0
            got = recvmmsg(socket.fd, self.messages, self.batch, MSG_DONTWAIT, NULL)
            if got < 0:
                if errno == EAGAIN:
                    # Readable without data: there is an entry in the error queue.
                    self.drain_errors(socket)
                    return 0
                if errno != EINTR:
                    self.drain_errors(socket)
                continue
            now = monotonic_now()
            for i in range(got):
                if socket.fd < 0 or (self.port_per_query and (socket.uses != uses or not socket.pending)):
                    return 0
                if self.messages[i].msg_hdr.msg_flags & MSG_TRUNC:
                    self.malformed += 1
                    continue
                self.receive(socket, self.buffers + i * self.capacity, self.messages[i].msg_len, &self.names[i], now)
            if got < self.batch:
                return 0
        return 0

    cdef int receive(self, UpstreamSocket socket, const uint8_t *data, size_t size, const sockaddr_storage *source,
                     double now) except -1:
        cdef UdpQuery query
        cdef int code
        cdef bytes packet, qname
        cdef bytes cookie = b""
        cdef object found
        if size < 12:
            return self.unwanted_reply(socket, source)
        found = socket.pending.get(get16(data))
        if found is None:
            return self.unwanted_reply(socket, source)
        query = <UdpQuery>found
        if not query.peer.matches(source):
            return self.unwanted_reply(socket, source)
        code = match_reply(<const uint8_t *>PyBytes_AS_STRING(query.packet), PyBytes_GET_SIZE(query.packet), data, size)
        if code != MATCH_REPLY:
            if code == MATCH_WRONG_CASE:
                # A server that changes the letter case could never reply. The caller decides what to do next.
                self.unwanted_replies += 1
                return self.fail(query, FailureKind.CASE_MISMATCH, "the reply changes the letter case of the question")
            if code == MATCH_NO_QUESTION:
                # Its sender may not have seen the letter case. The query is repeated over TCP.
                self.no_question_errors += 1
                return self.fail_spoof_suspected(query)
            return self.unwanted_reply(socket, source)
        packet = PyBytes_FromStringAndSize(<const char *>data, size)
        if self.observer is not None:
            self.observer.upstream_response(query.ask, query.packet, data[:size], "udp", now - query.sent_at)
        # Restore the letter case of the qname: names compressed against the question would carry the random case to
        # the cache and to clients. The match has shown that the lengths agree.
        qname = <bytes>query.ask.qname
        memcpy(PyBytes_AS_STRING(packet) + 12, PyBytes_AS_STRING(qname), PyBytes_GET_SIZE(qname))
        try:
            view = parse_message(packet)
        except WireError:
            packet = truncated_stub(packet)
            if packet is None:
                # A malformed reply is ignored (TuDoor): the right one may still come.
                self.malformed += 1
                query.malformed_seen = True
                return 0
            view = parse_message(packet)
        if query.cookie is not None:
            cookie = check_upstream_cookie(query.cookie, view.edns)
            if cookie is None:
                self.cookie_mismatches += 1
                return self.unwanted_reply(socket, source)
            if cookie:
                self.cookies += 1
        self.replies += 1
        reply = Reply(view, now - query.sent_at, False, query.ask.server, cookie)
        self.note_reply(query)
        self.release(query)
        return self.deliver(query, reply)

    cdef int note_reply(self, UdpQuery query) except -1:
        """Record a reply from the network of the server, which nearly always has replied before."""
        cdef PeerAddress peer = query.peer
        try:
            if peer.network is None:
                peer.network = server_network(query.ask.server.address)
            self.replied_networks.by_last_reply.move_to_end(peer.network)
        except (KeyError, MemoryError):
            self.replied_networks.add_reply(query.ask.server.address)
        return 0

    cdef int unwanted_reply(self, UpstreamSocket socket, const sockaddr_storage *source) except -1:
        """Count a packet that matches no query for all queries to its sender; one with too many of them fails."""
        cdef UdpQuery query
        cdef bint known = False
        for found in list(socket.pending.values()):
            query = <UdpQuery>found
            if not query.done and query.peer.matches(source):
                known = True
                query.unwanted_replies += 1
                if query.unwanted_replies >= self.unwanted_reply_threshold:
                    self.fail_spoof_suspected(query)
        if known:
            self.unwanted_replies += 1
        else:
            self.unknown_replies += 1
        return 0

    cdef int fail_spoof_suspected(self, UdpQuery query) except -1:
        """Fail a query whose replies may be forged. The caller repeats it over TCP, at the cost of another packet."""
        self.spoofing_suspected += 1
        return self.fail(query, FailureKind.SPOOF_SUSPECTED, "the replies may be forged")

    cdef int drain_errors(self, UpstreamSocket socket) except -1:
        """Read the socket's error queue and fail the queries whose packets could not be delivered."""
        cdef msghdr message
        cdef iovec vector
        cdef sockaddr_storage name
        cdef cmsghdr *control
        cdef sock_extended_err *report
        cdef uint8_t quoted[512]
        cdef uint8_t ancillary[512]
        cdef ssize_t size
        cdef int _round, code
        cdef UdpQuery query
        for _round in range(ERROR_ROUNDS):
            if socket.fd < 0:
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
            size = recvmsg(socket.fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT)
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
            found = socket.pending.get(get16(quoted))
            if found is None:
                continue
            query = <UdpQuery>found
            if not query.peer.matches(&name) or size > PyBytes_GET_SIZE(query.packet) \
                    or memcmp(quoted, PyBytes_AS_STRING(query.packet), size) != 0:
                continue
            self.network_errors += 1
            self.fail(query, kind, error_text(code))
        return 0

    # --- timeouts ----------------------------------------------------------------------------------------------

    cdef int schedule(self, UdpQuery query, double seconds) except -1:
        cdef int64_t now = <int64_t>(monotonic_now() / TICK)
        if self.timer is None and self.outstanding == 1:
            self.last_tick = now
        query.due = now + 1 + <int64_t>(max(seconds, 0.0) / TICK)
        (<dict>self.wheel[query.due % SLOTS])[query] = None
        if query.due < self.armed_tick:
            self.arm(query.due)
        return 0

    cdef int arm(self, int64_t tick) except -1:
        cdef double delay
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.armed_tick = NEVER  # if there is no memory for a timer, the next query tries again
        delay = tick * TICK - monotonic_now()
        self.timer = self.loop.call_later(max(delay, 0.0), self._expire)
        self.armed_tick = tick
        return 0

    def _expire(self):
        """Fail the queries that are due, then arm the timer for the next slot that is not empty."""
        cdef int64_t now = <int64_t>(monotonic_now() / TICK)
        cdef int64_t tick, stop
        cdef UdpQuery query
        cdef dict slot
        self.timer = None
        self.armed_tick = NEVER
        stop = min(now, self.last_tick + SLOTS)
        tick = self.last_tick
        while tick <= stop:
            slot = <dict>self.wheel[tick % SLOTS]
            if slot:
                for query in list(slot):
                    if query.due <= now and not query.done and not self.extend_if_late(query):
                        if not self.used_full_timeout(query):
                            self.network_errors += 1
                            self.fail(query, FailureKind.LOCAL_RESOURCE, "no outgoing port was free in time")
                            continue
                        self.timeouts += 1
                        if query.malformed_seen:
                            self.fail(query, FailureKind.MALFORMED, "only malformed replies")
                        else:
                            self.fail(query, FailureKind.TIMEOUT, "no reply")
            tick += 1
        self.last_tick = now
        if self.outstanding:
            for tick in range(now, now + SLOTS):
                if self.wheel[tick % SLOTS]:
                    if max(tick, now + 1) < self.armed_tick:
                        self.arm(max(tick, now + 1))
                    break
        if self.after_batch is not None:
            self.after_batch()

    cdef bint extend_if_late(self, UdpQuery query) except -1:
        """Whether a query that is due must not time out yet: when the loop was delayed, it was sent late, or its reply
        is still in the socket.

        Reading the socket may end this query and others.
        """
        cdef double left
        if query.socket is None:
            return False
        if query.deadline != 0:
            left = query.deadline - monotonic_now()
        elif query.due_unsent:
            return False  # it will never be sent: `_flush` failed for lack of memory
        else:
            left = query.ask.timeout
            query.due_unsent = True
        if left > 0:
            (<dict>self.wheel[query.due % SLOTS]).pop(query, None)
            self.schedule(query, left)
            return True
        self.drain(query.socket)
        return query.done

    cdef bint used_full_timeout(self, UdpQuery query) except -1:
        """Whether `query`, which is due, could have received a reply during its whole timeout."""
        cdef double now = monotonic_now()
        cdef double since = now if query.socket is None or query.sent_at == 0 else query.sent_at
        return query.deadline != 0 and since + <double>query.ask.timeout - query.socket_seconds <= now

    # --- end and inspection --------------------------------------------------------------------------------------

    def close(self):
        """Close every socket. Queries in flight end without a callback."""
        cdef UpstreamSocket socket
        self.closed = True
        for socket in list(self.all_sockets):
            for query in list(socket.pending.values()):
                (<UdpQuery>query).cancel()
            self.close_socket(socket)
        for group in (self.v4, self.v6):
            for query in (<FamilySockets>group).wait_queue.members():
                (<UdpQuery>query).cancel()
            (<FamilySockets>group).idle.clear()
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
    def addresses(self):
        """Number of parsed server addresses that are kept."""
        return len(self.peers)

    @property
    def max_sockets(self):
        """Maximum number of sockets of one address family."""
        return self.sockets

    @property
    def open_sockets(self):
        """Number of open sockets, including those without a port."""
        return len(self.all_sockets)

    @property
    def open_port_numbers(self):
        """Port numbers in use, including retired ones with pending queries."""
        numbers = sorted((<UpstreamSocket>socket).sock.getsockname()[1] for socket in self.all_sockets)
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
            "spoofing_suspected": self.spoofing_suspected,
            "sockets_opened": self.sockets_opened,
            "evicted": self.evicted,
        }


def _sent_at(UdpQuery query):
    """Sort key: when `query` was sent; unsent ones last."""
    return query.sent_at if query.sent_at else float("inf")


cdef str error_text(int code):
    name = errno_module.errorcode.get(code, str(code))
    return {"ECONNREFUSED": "connection refused", "EHOSTUNREACH": "host unreachable",
            "ENETUNREACH": "network unreachable"}.get(name, name)
