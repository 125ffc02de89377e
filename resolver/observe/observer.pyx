"""Records queries and answers for the query log and for dnstap, in the thread of the loop and in lanes.

`Observer` is one object for both outputs; where nothing is observed there is None, or NULL in C. The fast path calls
`observe_fast` without the GIL. The slow path gives each query to `Observer.watch` and continues with the sink that it
returns: that records the reply which passes through it. Queries to servers are recorded by `upstream_query` and
`upstream_response`.

Nothing here waits for a writer: a record is encoded into memory (`pieces`), or dropped and counted when there is none.
Each lane has an observer of its own (`for_lane`) with the same outputs, whose buffers have a lock then. Each output
chooses its samples for itself, by a generator with a small state; a query and its answer are recorded both or not at
all. Which addresses are masked, and what is recorded at all, belongs to the configuration, so a reload makes a new
observer for the same outputs.
"""

from socket import AF_INET, AF_INET6, inet_pton

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from resolver.observe.dnstap import dnstap_head

from resolver.observe.dnstap cimport FRAME_OVERHEAD, write_frame
from resolver.observe.event cimport (AUTH_QUERY, AUTH_RESPONSE, CLIENT_QUERY, CLIENT_RESPONSE, FORWARDER_QUERY,
                                     FORWARDER_RESPONSE, OVER_HTTPS, OVER_QUIC, OVER_TCP, OVER_TLS, OVER_UDP,
                                     RESOLVER_QUERY, RESOLVER_RESPONSE, Event)
from resolver.observe.log_line cimport LINE_SPACE, end_of_question, form_line, write_line
from resolver.observe.pieces cimport Pieces, begin_records, commit, end_records, room_for
from resolver.wire.consts cimport HEADER_SIZE
from resolver.wire.octets cimport get16, simple_ip

PROTOCOLS = {"udp": OVER_UDP, "tcp": OVER_TCP, "tls": OVER_TLS, "https": OVER_HTTPS, "quic": OVER_QUIC}
"""The numbers of dnstap for transports, by their names in `Query`."""

MESSAGES = {
    "auth-query": AUTH_QUERY, "auth-response": AUTH_RESPONSE, "resolver-query": RESOLVER_QUERY,
    "resolver-response": RESOLVER_RESPONSE, "client-query": CLIENT_QUERY, "client-response": CLIENT_RESPONSE,
    "forwarder-query": FORWARDER_QUERY, "forwarder-response": FORWARDER_RESPONSE,
}
"""The message types of dnstap, by their names in the configuration."""

cdef int64_t SECOND = 1_000_000_000


cdef void set_time(ObserverState *state) noexcept nogil:
    """Set the time of the messages that follow."""
    cdef timespec ts
    clock_gettime(CLOCK_REALTIME, &ts)
    state.now = <int64_t>ts.tv_sec * SECOND + ts.tv_nsec


cdef inline bint chosen(ObserverState *state, const Output *output) noexcept nogil:
    """Whether the next query is one of the samples of `output`, which is on or off."""
    if output.queue is NULL:
        return False
    if output.sample == 1:
        return True
    # xorshift64 (Marsaglia 2003): a weak generator, because guessing it has no use for an attacker.
    state.random ^= state.random << 13
    state.random ^= state.random >> 7
    state.random ^= state.random << 17
    return (state.random >> 32) % output.sample == 0


cdef inline void mask_address(Event *event, const Output *output, uint8_t *masked) noexcept nogil:
    """Let `event` have the first bits of its address, in `masked`, and no port, unless all bits are recorded."""
    cdef size_t bits = output.bits_v4 if event.address_size == 4 else output.bits_v6
    cdef size_t whole = bits // 8
    if bits >= 8 * event.address_size:
        return
    memset(masked, 0, 16)
    memcpy(masked, event.address, whole)
    if bits % 8:
        masked[whole] = event.address[whole] & <uint8_t>(0xff00 >> bits % 8)
    event.address = masked
    event.port = 0


cdef void log_event(ObserverState *state, const Event *event) noexcept nogil:
    cdef Event shown = event[0]
    cdef uint8_t masked[16]
    cdef uint8_t *out
    if not state.every_view and not state.logs_view[event.view]:
        return
    mask_address(&shown, &state.log, masked)
    begin_records(state.log.queue)
    out = room_for(state.log.queue, LINE_SPACE)
    if out is not NULL:
        commit(state.log.queue, write_line(state.form, &shown, out))
    end_records(state.log.queue)


cdef void tap_event(ObserverState *state, Event *event, int kind) noexcept nogil:
    """Record `event` as a message of type `kind`."""
    cdef uint8_t *out
    cdef size_t size
    if not state.tap_types >> kind & 1:
        return
    event.type = kind
    size = FRAME_OVERHEAD + state.head_size + event.zone_size + (event.query_size if kind & 1 else event.reply_size)
    begin_records(state.tap.queue)
    out = room_for(state.tap.queue, <uint32_t>size)
    if out is not NULL:
        commit(state.tap.queue, write_frame(event, state.head, state.head_size, out))
    end_records(state.tap.queue)


cdef void observe_fast(ObserverState *state, const uint8_t *query, size_t query_size, const uint8_t *reply, size_t reply_size,
                       const uint8_t *address, size_t address_size, uint16_t port, int protocol, int view) noexcept nogil:
    """A query of a client and the answer that it got at once."""
    cdef Event event
    cdef uint8_t masked[16]
    cdef bint logged = chosen(state, &state.log)
    cdef bint tapped = chosen(state, &state.tap)
    if not (logged or tapped):
        return
    simple_ip(&address, &address_size)  # the log masks and shows an IPv4 client as one
    event.protocol = protocol
    event.upstream = False
    event.address = address
    event.address_size = address_size
    event.port = port
    event.asked = event.answered = state.now
    event.query = query
    event.query_size = query_size
    event.reply = reply
    event.reply_size = reply_size
    event.zone_size = 0
    event.view = view
    event.cached = True
    if logged:
        log_event(state, &event)
    if tapped:
        mask_address(&event, &state.tap, masked)
        tap_event(state, &event, CLIENT_QUERY)
        tap_event(state, &event, CLIENT_RESPONSE)


cdef size_t parse_address(str text, uint8_t *out) except? 0:
    """The address `text` in network order; its size, 0 when it is none."""
    cdef bytes packed
    try:
        packed = inet_pton(AF_INET6 if ":" in text else AF_INET, text.partition("%")[0])
    except OSError:
        return 0
    memcpy(out, PyBytes_AS_STRING(packed), PyBytes_GET_SIZE(packed))
    return PyBytes_GET_SIZE(packed)


@cython.final
cdef class Observer:
    """Records into `log` and `tap`, the buffers of the two outputs; None: that output is off.

    `log_settings` and `tap_settings` are the sections of the configuration, `views` the names of the views from 1 on.
    `is_own(qname, qtype)` tells which questions belong to zones of which this server has a copy. `identity` and
    `version` stand in each message of dnstap. `seed` (not 0) starts the generator that chooses samples.
    """

    def __init__(self, *, Pieces log=None, Pieces tap=None, log_settings=None, tap_settings=None, views=(), is_own=None,
                 bytes identity=b"", bytes version=b"", uint64_t seed=1):
        cdef ObserverState *state = &self.state
        memset(state, 0, sizeof(state[0]))
        state.random = seed | 1
        self.log_pieces, self.tap_pieces = log, tap
        self.is_own = is_own
        self.head = dnstap_head(identity, version)
        state.head = <const uint8_t *>PyBytes_AS_STRING(self.head)
        state.head_size = <uint32_t>PyBytes_GET_SIZE(self.head)
        state.form = &self.form
        if log is not None:
            names = ("", *views)
            form_line(&self.form, log_settings.format, log_settings.fields, names)
            state.log.queue = &log.queue
            state.log.sample = log_settings.sample
            state.log.bits_v4 = log_settings.client_prefix_v4
            state.log.bits_v6 = log_settings.client_prefix_v6
            state.every_view = not log_settings.views
            for number, name in enumerate(names):
                state.logs_view[number] = name in log_settings.views
        if tap is not None:
            state.tap.queue = &tap.queue
            state.tap.sample = tap_settings.sample
            state.tap.bits_v4 = tap_settings.client_prefix_v4
            state.tap.bits_v6 = tap_settings.client_prefix_v6
            for name in tap_settings.messages:
                state.tap_types |= <uint32_t>1 << <int>MESSAGES[name]

    def flush(self):
        """Hand over to the outputs what was recorded."""
        for pieces in (self.log_pieces, self.tap_pieces):
            if pieces is not None:
                pieces.flush()

    cdef Observer for_lane(self, uint64_t seed):
        """An observer with the same outputs for `observe_fast` in the thread of a lane. `seed` starts its choice of
        samples."""
        cdef Observer made = Observer.__new__(Observer)
        for pieces in (self.log_pieces, self.tap_pieces):
            if pieces is not None:
                pieces.share()
        made.state = self.state
        made.state.random = seed | 1
        made.form = self.form  # it keeps the second that it has shown last
        made.state.form = &made.form
        made.parent = self  # it owns what the state points to
        return made

    @property
    def observes_upstreams(self):
        """Whether any message of queries to servers is recorded."""
        return self.state.tap.queue is not NULL and (
            self.state.tap_types >> RESOLVER_QUERY & 3 or self.state.tap_types >> FORWARDER_QUERY & 3) != 0

    # --- clients -------------------------------------------------------------------------------------------------

    def watch(self, bytes data not None, peer, sink, int view):
        """A message that the slow path handles. Returns the sink through which its reply must go: `sink` itself when
        neither output records it."""
        cdef ObserverState *state = &self.state
        cdef bint logged = chosen(state, &state.log)
        cdef bint tapped = chosen(state, &state.tap)
        cdef ObservedSink watched
        cdef Event *event
        if not (logged or tapped):
            return sink
        set_time(state)
        watched = ObservedSink.__new__(ObservedSink)
        watched.owner = self
        watched.sink = sink
        watched.query = data
        watched.logged = logged
        watched.tapped = tapped
        event = &watched.event
        memset(event, 0, sizeof(event[0]))
        event.protocol = PROTOCOLS[sink.origin[0]]
        event.address = watched.address
        event.address_size = parse_address(peer[0], watched.address)
        simple_ip(&event.address, &event.address_size)
        event.port = <uint16_t>peer[1]
        event.asked = state.now
        event.query = <const uint8_t *>PyBytes_AS_STRING(data)
        event.query_size = PyBytes_GET_SIZE(data)
        event.view = view
        if tapped:
            event.type = AUTH_QUERY if self.is_for_own_zone(data) else CLIENT_QUERY
            self.tap_client(event, event.type)
        return watched

    cdef int tap_client(self, const Event *event, int kind) except -1:
        cdef Event shown = event[0]
        cdef uint8_t masked[16]
        mask_address(&shown, &self.state.tap, masked)
        tap_event(&self.state, &shown, kind)
        return 0

    cdef bint is_for_own_zone(self, bytes data) except -1:
        cdef const uint8_t *message = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef size_t end
        if self.is_own is None:
            return False
        end = end_of_question(message, PyBytes_GET_SIZE(data))
        return end != 0 and self.is_own(data[HEADER_SIZE:end - 4], get16(message + end - 4))

    # --- servers -------------------------------------------------------------------------------------------------

    def upstream_query(self, ask, bytes packet not None, str transport not None):
        """A query was sent to a server."""
        self.record_upstream(ask, packet, None, transport, 0.0)

    def upstream_response(self, ask, bytes packet not None, bytes message not None, str transport not None,
                          double seconds):
        """The reply `message` to `packet`, which was sent `seconds` ago, has come."""
        self.record_upstream(ask, packet, message, transport, seconds)

    cdef int record_upstream(self, object ask, bytes packet, bytes message, str transport, double seconds) except -1:
        cdef ObserverState *state = &self.state
        cdef Event event
        cdef uint8_t address[16]
        cdef bytes zone = ask.zone
        # The same choice for a query and its reply, which have the id and the name in common.
        if state.tap.sample > 1 and (hash(ask.qname) ^ hash(packet[:2])) % state.tap.sample:
            return 0
        set_time(state)
        memset(&event, 0, sizeof(event))
        event.upstream = True
        event.protocol = PROTOCOLS[transport]
        event.address = address
        event.address_size = parse_address(ask.server.address, address)
        event.port = <uint16_t>ask.server.port
        event.asked = state.now - <int64_t>(seconds * SECOND)
        event.query = <const uint8_t *>PyBytes_AS_STRING(packet)
        event.query_size = PyBytes_GET_SIZE(packet)
        event.zone = <const uint8_t *>PyBytes_AS_STRING(zone)
        event.zone_size = PyBytes_GET_SIZE(zone)
        if message is None:
            tap_event(state, &event, FORWARDER_QUERY if ask.rd else RESOLVER_QUERY)
            return 0
        event.answered = state.now
        event.reply = <const uint8_t *>PyBytes_AS_STRING(message)
        event.reply_size = PyBytes_GET_SIZE(message)
        tap_event(state, &event, FORWARDER_RESPONSE if ask.rd else RESOLVER_RESPONSE)
        return 0


@cython.final
@cython.freelist(64)
cdef class ObservedSink:
    """A `Sink` that records the reply to one query and passes everything on."""

    cdef int record(self, bytes packet) except -1:
        """Record a reply, or, with `packet` None, that there is none. The log has one line for each query."""
        cdef Event *event = &self.event
        cdef ObserverState *state = &self.owner.state
        set_time(state)
        event.answered = state.now
        event.reply_size = 0
        if packet is not None:
            event.reply = <const uint8_t *>PyBytes_AS_STRING(packet)
            event.reply_size = PyBytes_GET_SIZE(packet)
        if self.logged and not self.answered:
            log_event(state, event)
        if self.tapped and packet is not None:
            self.owner.tap_client(event, AUTH_RESPONSE if event.type == AUTH_QUERY else CLIENT_RESPONSE)
        self.answered = True
        return 0

    @property
    def stream(self):
        return self.sink.stream

    @property
    def idle_timeout(self):
        return self.sink.idle_timeout

    @property
    def padding_block(self):
        return self.sink.padding_block

    @property
    def origin(self):
        return self.sink.origin

    @property
    def takes_many(self):
        """As the sink's; others take none."""
        return getattr(self.sink, "takes_many", False)

    @property
    def send_many(self):
        """As the sink's, which only those of some streams have."""
        inner = self.sink.send_many
        return _Messages(self, inner).send

    def send(self, bytes packet not None, peer):
        self.record(packet)
        self.sink.send(packet, peer)

    def skip(self):
        self.record(None)
        self.sink.skip()

    def forget(self, pending):
        self.sink.forget(pending)

    def abort(self):
        self.sink.abort()


cdef class _Messages:
    """The messages of a zone transfer, which are recorded one by one as they are made."""

    cdef ObservedSink watched
    cdef object inner

    def __init__(self, ObservedSink watched, inner):
        self.watched = watched
        self.inner = inner

    def send(self, packets, peer):
        """Send `packets`, an iterator."""
        return self.inner(map(self.recorded, packets), peer)

    def recorded(self, bytes packet not None):
        """`packet` itself."""
        self.watched.record(packet)
        return packet
