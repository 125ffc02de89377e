"""Answers queries from the cache in C without the GIL: parse, check access, look up, render.

A query that is not plain, or has no cached answer, goes to `Service` in Python. The fast path also sends FORMERR,
REFUSED, and BADCOOKIE or TC to clients without a required cookie, limits rates of queries and replies
(`resolver.net.rate_limit`), and drops messages, because floods consist of such queries. The same function serves
batches of datagrams and single TCP messages. It never takes the GIL. The counters belong to the calling loop, so they
need no lock. A cached answer costs one increment in a table of replies, from which all other numbers about cached
answers are made when statistics are read; one of 256 is timed. An observer, if there is one, records each answer given
here, and samples of them are taken while there are watchers (`start_samples`).
"""

import os

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from resolver import limits
from resolver.observe.histogram import BOUNDS, BUCKETS, SampledHistogram
from resolver.observe.labels import OTHER, RCODE_LABELS, TRANSPORTS, TYPE_SLOTS, TYPES
from resolver.observe.observer import PROTOCOLS
from resolver.wire.errors import reason_of

from resolver.cache.arena cimport atomic_get32, atomic_put32
from resolver.cache.answers cimport (AnswerCache, AnswerContext, AnswerKey, answers_add_option, answers_claim_prefetch,
                                     answers_prepare, answers_render_key)
from resolver.net.clock_random cimport monotonic_now, realtime_seconds
from resolver.net.cookies cimport (COOKIE_GOOD, COOKIE_OPTION_SIZE, COOKIE_SIZE, ServerCookies, CookieState, CookieVerdict,
                                   make_server_cookie, verify_server_cookie)
from resolver.net.libc cimport AF_INET, AF_INET6, htons, ntohs, sockaddr_in, sockaddr_in6, sockaddr_storage
from resolver.net.rate_limit cimport (RATE_DROP, RATE_PASS, RATE_TRUNCATE, RateLimits, rate_of_query,
                                      rate_of_reply)
from resolver.net.sockaddr cimport fill_sockaddr
from resolver.observe.event cimport OVER_UDP
from resolver.observe.observer cimport Observer, observe_fast, set_time
from resolver.observe.samples cimport Samples, sample_reply
from resolver.policy.access cimport (ACCESS_ALLOW, ACCESS_DECISION, ACCESS_DROP, ACCESS_UNCACHED, ACCESS_VIEW_SHIFT,
                                     AccessTable, access_lookup)
from resolver.wire.consts cimport (HEADER_SIZE, MESSAGE_MAX, O_COOKIE, O_EDE, O_KEEPALIVE, O_PADDING, OPT_SIZE, PAYLOAD_MIN,
                                   T_SOA)
from resolver.wire.message cimport QueryInfo, parse_query
from resolver.wire.octets cimport get16, put16, put_opt

# Octets of replies made for one stream in one turn. The buffer has space for one more of maximal size and its prefix.
cdef Py_ssize_t STREAM_TURN_OCTETS = limits.STREAM_TURN_OCTETS

cdef enum:
    FLAG_QR_HIGH = 0x80
    FLAG_RD_HIGH = 0x01
    FLAG_TC_HIGH = 0x02
    FLAG_AD_LOW = 0x20
    OPCODE_HIGH = 0x78
    NOTIFY_HIGH = 4 << 3        # the opcode NOTIFY in its place
    T_IXFR = 251
    T_AXFR = 252
    RCODE_FORMERR = 1
    RCODE_NXDOMAIN = 3
    RCODE_REFUSED = 5
    RCODE_BADCOOKIE = 23
    EDE_PROHIBITED = 18
    PROHIBITED_SIZE = 6         # an extended error without text, as an option
    OPTION_HEAD = 4             # code and length of an EDNS option
    KEEPALIVE_SIZE = 2
    LARGEST_BLOCK = 4096

cdef uint8_t[LARGEST_BLOCK] ZEROS   # the content of padding; never written

cdef enum:
    TYPES_WITH_SLOT = 512       # only types below it may have a slot of their own
    NO_TYPE_SLOT = 1

cdef uint8_t[TYPES_WITH_SLOT] SLOTS         # position in `TYPES`; 0, "other", for most
cdef int64_t[FAST_BUCKETS] BOUNDS_NS
cdef int BOUND_COUNT = len(BOUNDS)

assert len(TRANSPORTS) == FAST_TRANSPORTS and len(TYPES) == FAST_TYPES and len(BUCKETS) <= FAST_BUCKETS
for _number, _slot in TYPE_SLOTS.items():
    SLOTS[_number] = _slot
for _number, _bound in enumerate(BOUNDS):
    BOUNDS_NS[_number] = <int64_t>(_bound * 1e9)


cdef inline void count_reply(FastState *state, unsigned int rtype, unsigned int rcode) noexcept nogil:
    """Count a reply to a query of type `rtype`. `rcode` is below FAST_RCODES, see `FastCounters.replies`."""
    cdef unsigned int slot = SLOTS[rtype] if rtype < TYPES_WITH_SLOT else 0
    state.replies[slot << FAST_TYPE_SHIFT | rcode] += 1


cdef void note_time(FastCounters *counters, int64_t nanoseconds) noexcept nogil:
    """Count the time that a cached answer took. A negative one, after a step of the clock, is ignored."""
    cdef int bucket = 0
    if nanoseconds < 0:
        return
    while bucket < BOUND_COUNT and nanoseconds > BOUNDS_NS[bucket]:
        bucket += 1
    counters.timed[bucket] += 1
    counters.timed_ns += nanoseconds


cdef inline int short_reply(const uint8_t *data, size_t keep, int rcode, uint8_t *out, size_t capacity,
                            QueryInfo *query) noexcept nogil:
    """Write an error reply with the first `keep` bytes of `data` (header, or header and question), and OPT when the
    query had one.

    REFUSED goes only to clients without access: RA is clear, and OPT has EDE 18 (RFC 8914 section 4.19).
    """
    cdef size_t size = keep
    if keep > capacity or keep < HEADER_SIZE:
        return FAST_DROP
    memcpy(out, data, keep)
    out[2] = FLAG_QR_HIGH | (data[2] & (OPCODE_HIGH | FLAG_RD_HIGH))
    out[3] = (0 if rcode == RCODE_REFUSED else 0x80) | (data[3] & 0x10) | rcode
    memset(out + 4, 0, 8)
    if keep > HEADER_SIZE:
        out[5] = 1
    if query is not NULL and query.has_edns and size + OPT_SIZE + PROHIBITED_SIZE <= capacity:
        out[11] = 1
        put_opt(out + size, PAYLOAD_MIN, 0, query.do_bit, PROHIBITED_SIZE)
        size += OPT_SIZE
        put16(out + size, O_EDE)
        put16(out + size + 2, 2)
        put16(out + size + 4, EDE_PROHIBITED)
        size += PROHIBITED_SIZE
    return <int>size


cdef inline const uint8_t *client_ip(const FastState *state, const void *peer, size_t *size) noexcept nogil:
    """The client's address in network order: the sender of a datagram, or, without `peer`, the stream's client."""
    cdef const sockaddr_storage *name = <const sockaddr_storage *>peer
    if name is NULL:
        size[0] = state.stream_ip_size
        return state.stream_ip
    if name.ss_family == AF_INET:
        size[0] = 4
        return <const uint8_t *>&(<const sockaddr_in *>name).sin_addr
    if name.ss_family == AF_INET6:
        size[0] = 16
        return <const uint8_t *>&(<const sockaddr_in6 *>name).sin6_addr
    size[0] = 0
    return state.stream_ip


cdef int short_answer(const uint8_t *data, const QueryInfo *query, int ext_rcode, bint truncated, const uint8_t *cookie,
                      uint8_t *out, size_t capacity) noexcept nogil:
    """Write a reply without records, with TC if `truncated`, and with `cookie` (NULL for none) if the query has EDNS.

    It makes a client verify its address by its next query, over TCP or with the cookie (RFC 7873 section 5.2.3).
    Nothing larger than the query and a cookie is sent to an unverified address.
    """
    cdef size_t size = query.question_end
    if size + OPT_SIZE + COOKIE_OPTION_SIZE > capacity:
        return FAST_DROP
    memcpy(out, data, size)
    out[2] = FLAG_QR_HIGH | (data[2] & (OPCODE_HIGH | FLAG_RD_HIGH))
    out[3] = 0x80 | (data[3] & 0x10) | (ext_rcode & 0xf)
    memset(out + 4, 0, 8)
    out[5] = 1
    if truncated:
        out[2] |= FLAG_TC_HIGH
    if not query.has_edns:
        return <int>size
    out[11] = 1
    put_opt(out + size, PAYLOAD_MIN, ext_rcode >> 4, query.do_bit, 0 if cookie is NULL else COOKIE_OPTION_SIZE)
    size += OPT_SIZE
    if cookie is NULL:
        return <int>size
    put16(out + size, O_COOKIE)
    put16(out + size + 2, COOKIE_SIZE)
    memcpy(out + size + 4, cookie, COOKIE_SIZE)
    return <int>size + COOKIE_OPTION_SIZE


cdef int reply_badcookie(CookieState *server_cookies, const uint8_t *data, const QueryInfo *query, const uint8_t *cookie,
                         uint8_t *out, size_t capacity) noexcept nogil:
    """Write the reply to a UDP client without a valid cookie: BADCOOKIE with a new one, or TC when it sent no
    cookie."""
    server_cookies.challenged += 1
    return short_answer(data, query, 0 if cookie is NULL else RCODE_BADCOOKIE, cookie is NULL, cookie, out, capacity)


cdef bint has_good_cookie(const FastState *state, const QueryInfo *query, const uint8_t *ip, size_t ip_size,
                          int64_t now) noexcept nogil:
    """Whether a valid cookie verifies the client's address. False also while the secrets have expired."""
    return (state.cookies is not NULL and query.cookie is not NULL and state.cookies.since <= now < state.cookies.until
            and verify_server_cookie(state.cookies, query.cookie, query.cookie_len, ip, ip_size, now) == COOKIE_GOOD)


cdef int reply_truncated(FastState *state, const uint8_t *data, const QueryInfo *query, const uint8_t *ip,
                         size_t ip_size, int64_t now, uint8_t *out, size_t capacity) noexcept nogil:
    """Write a truncated reply, with a cookie for a client that sent one, whose next query is then not limited."""
    cdef uint8_t cookie[COOKIE_SIZE]
    cdef CookieVerdict verdict
    if state.cookies is NULL or query.cookie is NULL or not state.cookies.since <= now < state.cookies.until:
        return short_answer(data, query, 0, True, NULL, out, capacity)
    verdict = verify_server_cookie(state.cookies, query.cookie, query.cookie_len, ip, ip_size, now)
    make_server_cookie(state.cookies, verdict, query.cookie, ip, ip_size, now, cookie)
    return short_answer(data, query, 0, True, cookie, out, capacity)


cdef int limit_query(FastState *state, const uint8_t *data, size_t size, int parsed, QueryInfo *query, const void *peer,
                     size_t view, bint stream, int64_t now, uint8_t *out, size_t capacity) noexcept nogil:
    """Count a query of an allowed client: FAST_SLOW_PATH when it is within its rate, else the reply as `fast_answer`.

    `parsed` is the result of `parse_query`. Plain and signed queries can show a cookie.
    """
    cdef size_t ip_size
    cdef const uint8_t *ip = client_ip(state, peer, &ip_size)
    cdef bint verified = stream or (parsed >= 0 and has_good_cookie(state, query, ip, ip_size, now))
    cdef int verdict
    if size < HEADER_SIZE or data[2] & FLAG_QR_HIGH:
        return FAST_SLOW_PATH                              # it gets no reply, and its sender may be forged by anybody
    verdict = rate_of_query(state.rates, view, verified, ip, ip_size, now)
    if verdict == RATE_PASS:
        return FAST_SLOW_PATH
    if verdict == RATE_DROP and not stream:
        return FAST_DROP
    if parsed < 0:
        state.replies[NO_TYPE_SLOT << FAST_TYPE_SHIFT | FAST_NOT_CACHED | RCODE_REFUSED] += 1
        return short_reply(data, HEADER_SIZE, RCODE_REFUSED, out, capacity, NULL)
    if verdict == RATE_TRUNCATE and not stream and parsed == 0:
        count_reply(state, query.qtype, FAST_NOT_CACHED)
        return reply_truncated(state, data, query, ip, ip_size, now, out, capacity)
    if parsed != 0:
        state.replies[NO_TYPE_SLOT << FAST_TYPE_SHIFT | FAST_NOT_CACHED | RCODE_REFUSED] += 1
        return short_reply(data, HEADER_SIZE, RCODE_REFUSED, out, capacity, NULL)
    count_reply(state, query.qtype, FAST_NOT_CACHED | RCODE_REFUSED)
    return short_reply(data, query.question_end, RCODE_REFUSED, out, capacity, query)


cdef int limit_reply(FastState *state, const uint8_t *data, size_t size, size_t view, const uint8_t *ip, size_t ip_size,
                     int64_t now, uint8_t *out, int length, size_t capacity) noexcept nogil:
    """Count the reply of `length` bytes in `out` to the UDP query `data` of an unverified client.

    Returns its size, that of the truncated reply that replaces it, or FAST_DROP.
    """
    cdef int verdict = rate_of_reply(state.rates, view, ip, ip_size, now, out, length)
    cdef int rcode = out[3] & 0xf
    cdef QueryInfo query
    if verdict == RATE_PASS:
        return length
    if verdict == RATE_DROP:
        return FAST_DROP
    if (rcode != 0 and rcode != RCODE_NXDOMAIN) or parse_query(data, size, &query) != 0:
        return length                                      # a client does not ask again over TCP after an error
    return reply_truncated(state, data, &query, ip, ip_size, now, out, capacity)


cdef inline int add_padding(const AnswerKey *key, uint8_t *out, int length, size_t limit, size_t block) noexcept nogil:
    """Add the option that fills the reply up to a multiple of `block` bytes, as far as `limit` permits; the length."""
    cdef size_t begun = <size_t>length + OPTION_HEAD
    cdef size_t fill
    if begun > limit:
        return length
    fill = (block - begun % block) % block
    return answers_add_option(key, out, length, limit, O_PADDING, ZEROS, <uint16_t>min(fill, limit - begun))


cdef void record_reply(FastState *state, const uint8_t *data, size_t size, const void *peer, const uint8_t *reply,
                       size_t reply_size) noexcept nogil:
    """Let those of `recorders` record a message and the reply to it."""
    cdef size_t ip_size
    cdef const uint8_t *ip = client_ip(state, peer, &ip_size)
    cdef uint16_t port = state.stream_port
    cdef int protocol = state.stream_protocol
    cdef uint32_t recorders = atomic_get32(&state.recorders)
    if recorders & BY_SAMPLES:
        sample_reply(state.samples, data, size, reply, ip, ip_size, state.found >> ACCESS_VIEW_SHIFT)
    if not recorders & BY_OBSERVER:
        return
    if peer is not NULL:
        port = ntohs((<const sockaddr_in *>peer).sin_port)  # it has the same place in an IPv6 address
        protocol = OVER_UDP
    observe_fast(state.observer, data, size, reply, reply_size, ip, ip_size, port, protocol,
                 state.found >> ACCESS_VIEW_SHIFT)


cdef int fast_answer(FastState *state, const uint8_t *data, size_t size, const void *peer, size_t peer_size,
                     int64_t now, uint8_t *out, size_t capacity, bint stream, size_t block) noexcept nogil:
    """As `make_reply`, within the limits of replies, and recorded by `recorders`. The caller has set the time of the
    observer."""
    cdef int code = make_limited_reply(state, data, size, peer, peer_size, now, out, capacity, stream, block)
    if state.recorders and code > 0:
        record_reply(state, data, size, peer, out, code)
    return code


cdef inline int make_limited_reply(FastState *state, const uint8_t *data, size_t size, const void *peer, size_t peer_size,
                                   int64_t now, uint8_t *out, size_t capacity, bint stream, size_t block) noexcept nogil:
    cdef int code, found = ACCESS_ALLOW
    cdef size_t ip_size
    cdef const uint8_t *ip
    if state.rates is NULL:
        return make_reply(state, data, size, peer, peer_size, now, out, capacity, stream, block)
    state.verified = False
    code = make_reply(state, data, size, peer, peer_size, now, out, capacity, stream, block)
    if code <= 0 or stream or state.verified or not state.rates.limits_replies:
        return code                                        # FAST_DROP and FAST_SLOW_PATH are no replies
    ip = client_ip(state, peer, &ip_size)
    if state.access is not NULL and peer is not NULL and state.rates.views > 1:
        found = access_lookup(state.access, peer, peer_size)
    return limit_reply(state, data, size, <size_t>(found >> ACCESS_VIEW_SHIFT), ip, ip_size, now, out, code, capacity)


cdef inline bint is_zone_peer(const access_table *table, const void *peer, size_t peer_size) noexcept nogil:
    return access_lookup(table, peer, peer_size) & ACCESS_DECISION == ACCESS_ALLOW


cdef bint is_zone_request(const FastState *state, const uint8_t *data, size_t size, const QueryInfo *query,
                          const void *peer, size_t peer_size) noexcept nogil:
    """Whether a datagram of a client without access is one that `ZoneServer` permits of a primary or secondary: NOTIFY,
    or a query for SOA, AXFR or IXFR. `query` was parsed, and is not malformed."""
    if state.notify_peers is NULL or peer is NULL or size < HEADER_SIZE:
        return False
    if data[2] & OPCODE_HIGH == NOTIFY_HIGH:
        return is_zone_peer(state.notify_peers, peer, peer_size)
    return (query.qname is not NULL and query.qtype in (T_SOA, T_IXFR, T_AXFR)
            and is_zone_peer(state.transfer_peers, peer, peer_size))


cdef inline int make_reply(FastState *state, const uint8_t *data, size_t size, const void *peer, size_t peer_size,
                           int64_t now, uint8_t *out, size_t capacity, bint stream, size_t block) noexcept nogil:
    """Returns the size of the reply in `out`; FAST_DROP: no reply; FAST_SLOW_PATH: `Service` handles the message.

    `peer` NULL means that access was checked before (streams: when they were accepted); `state.stream_access` has the
    result. The view of the client is part of its value, and of the key of the cached answer. With `block` above 0, on
    encrypted transports, the reply to a padded query is padded to a multiple of `block` bytes.
    """
    cdef QueryInfo query
    cdef AnswerKey key
    cdef const AnswerContext *context = <const AnswerContext *>state.answers
    cdef int code, access, limited, found = state.stream_access
    cdef size_t limit, ip_size
    cdef const uint8_t *ip
    cdef CookieVerdict verdict
    cdef uint8_t cookie[COOKIE_SIZE]
    cdef uint8_t idle[KEEPALIVE_SIZE]
    cdef bint with_cookie = False
    cdef bint with_keepalive = False
    cdef bint for_zone = False, may_be_signed = False
    state.counters.received += 1
    state.left = 0
    if peer is not NULL:
        found = access_lookup(state.access, peer, peer_size) if state.access is not NULL else ACCESS_ALLOW
    state.found = found
    access = found & ACCESS_DECISION
    if access == ACCESS_DROP and (state.notify_peers is NULL or peer is NULL
                                  or not (is_zone_peer(state.notify_peers, peer, peer_size)
                                          or is_zone_peer(state.transfer_peers, peer, peer_size))):
        state.counters.denied += 1
        return FAST_DROP
    code = parse_query(data, size, &query)
    if access != ACCESS_ALLOW:
        for_zone = code >= 0 and is_zone_request(state, data, size, &query, peer, peer_size)
        if access == ACCESS_DROP and not for_zone:
            state.counters.denied += 1
            return FAST_DROP
        # `Service` checks the signature. Such queries are counted here, because anybody can send them.
        may_be_signed = state.knows_keys and code > 0 and get16(data + 10) != 0
        if peer is NULL and not may_be_signed:
            state.counters.non_plain += 1
            return FAST_SLOW_PATH                          # of a stream: `Service` refuses it, or serves a secondary
    if (access == ACCESS_ALLOW or for_zone or may_be_signed) and state.rates is not NULL and state.rates.limits_queries:
        limited = limit_query(state, data, size, code, &query, peer, <size_t>(found >> ACCESS_VIEW_SHIFT), stream, now, out,
                              capacity)
        if limited != FAST_SLOW_PATH:
            return limited if access != ACCESS_DROP else FAST_DROP
    if for_zone or may_be_signed:
        state.counters.non_plain += 1
        return FAST_SLOW_PATH
    if code < 0:
        if -code < FAST_REASONS:
            state.counters.malformed[-code] += 1
        if size < HEADER_SIZE or data[2] & FLAG_QR_HIGH:
            state.counters.dropped += 1
            return FAST_DROP
        if access != ACCESS_ALLOW:
            state.counters.refused += 1
            state.replies[NO_TYPE_SLOT << FAST_TYPE_SHIFT | FAST_NOT_CACHED | RCODE_REFUSED] += 1
            return short_reply(data, HEADER_SIZE, RCODE_REFUSED, out, capacity, NULL)
        state.counters.format_errors += 1
        state.replies[NO_TYPE_SLOT << FAST_TYPE_SHIFT | FAST_NOT_CACHED | RCODE_FORMERR] += 1
        return short_reply(data, HEADER_SIZE, RCODE_FORMERR, out, capacity, NULL)
    if code > 0:
        if access != ACCESS_ALLOW:
            state.counters.refused += 1
            state.replies[NO_TYPE_SLOT << FAST_TYPE_SHIFT | FAST_NOT_CACHED | RCODE_REFUSED] += 1
            return short_reply(data, HEADER_SIZE, RCODE_REFUSED, out, capacity, NULL)
        state.counters.non_plain += 1
        return FAST_SLOW_PATH
    if access != ACCESS_ALLOW:
        state.counters.refused += 1
        count_reply(state, query.qtype, FAST_NOT_CACHED | RCODE_REFUSED)
        return short_reply(data, query.question_end, RCODE_REFUSED, out, capacity, &query)
    if found & ACCESS_UNCACHED or query.non_plain or (state.pass_without_rd and not data[2] & FLAG_RD_HIGH):
        state.counters.non_plain += 1
        return FAST_SLOW_PATH
    if stream:
        limit = MESSAGE_MAX
    else:
        limit = PAYLOAD_MIN
        if query.has_edns and query.payload > limit:
            limit = min(<size_t>query.payload, state.largest_reply)
    if state.cookies is not NULL and (query.cookie is not NULL or state.cookies.required):
        if now < state.cookies.since or now >= state.cookies.until:
            state.counters.non_plain += 1
            return FAST_SLOW_PATH                          # the secrets have expired: Python derives new ones
        if query.cookie is not NULL:
            ip = client_ip(state, peer, &ip_size)
            verdict = verify_server_cookie(state.cookies, query.cookie, query.cookie_len, ip, ip_size, now)
            if state.cookies.required and not stream and verdict != COOKIE_GOOD:
                make_server_cookie(state.cookies, verdict, query.cookie, ip, ip_size, now, cookie)
                count_reply(state, query.qtype, RCODE_BADCOOKIE)
                return reply_badcookie(state.cookies, data, &query, cookie, out, capacity)
            with_cookie = True
            if state.rates is not NULL:
                state.verified = verdict == COOKIE_GOOD
            limit -= COOKIE_OPTION_SIZE
        elif not stream:
            count_reply(state, query.qtype, FAST_NOT_CACHED)
            return reply_badcookie(state.cookies, data, &query, NULL, out, capacity)
    if query.keepalive and stream and state.keepalive >= 0:
        with_keepalive = True
        limit -= OPTION_HEAD + KEEPALIVE_SIZE
    answers_prepare(context, &query, <uint64_t>(found >> ACCESS_VIEW_SHIFT), &key)
    code = answers_render_key(context, &key, &query, now, out, capacity, limit)
    if code > 0:
        if key.due and state.prefetch and data[2] & FLAG_RD_HIGH and answers_claim_prefetch(&key):
            state.counters.due += 1
            return FAST_SLOW_PATH
        count_reply(state, query.qtype, out[3] & 0xf)
        if out[2] & 0x02:
            state.counters.truncated += 1
        if with_cookie:
            make_server_cookie(state.cookies, verdict, query.cookie, ip, ip_size, now, cookie)
            limit += COOKIE_OPTION_SIZE
            code = answers_add_option(&key, out, code, limit, O_COOKIE, cookie, COOKIE_SIZE)
        if with_keepalive:
            limit += OPTION_HEAD + KEEPALIVE_SIZE
            put16(idle, <uint32_t>state.keepalive)
            code = answers_add_option(&key, out, code, limit, O_KEEPALIVE, idle, KEEPALIVE_SIZE)
        if block and query.padded:
            code = add_padding(&key, out, code, min(capacity, <size_t>MESSAGE_MAX), block)
        state.left = key.left
        return code
    state.counters.passed += 1
    return FAST_SLOW_PATH


cdef void add_counters(FastCounters *total, const FastCounters *other) noexcept:
    """Add each counter of `other`; all fields have the same type."""
    cdef uint64_t *into = <uint64_t *>total
    cdef const uint64_t *more = <const uint64_t *>other
    cdef size_t i
    for i in range(sizeof(FastCounters) // sizeof(uint64_t)):
        into[i] += more[i]


cdef uint64_t count_hits(const FastCounters *counters) noexcept:
    """Cached answers since the start."""
    cdef int transport, at
    cdef uint64_t hits = 0
    for transport in range(FAST_TRANSPORTS):
        for at in range(FAST_TYPES * FAST_RCODES):
            if at % FAST_RCODES < FAST_NOT_CACHED:
                hits += counters.replies[transport][at]
    return hits


@cython.final
cdef class FastPath:
    """The state of `fast_answer`: its settings and counters.

    `largest_reply` limits UDP replies (bytes). With `pass_without_rd`, queries without RD go to Python. With
    `prefetch`, one query for each answer in the last tenth of its TTL goes to Python, which renews the answer. With
    `cookies` None the COOKIE option is ignored. `counters` is another fast path, whose counters this one uses. `rates`
    None limits no rates. `observer` records the answers; None: they are not recorded. `peers` are the primaries and
    secondaries of own zones; their requests for zones go to Python, whatever access they have.
    """

    def __cinit__(self):
        self.buffer = <uint8_t *>malloc(STREAM_TURN_OCTETS + MESSAGE_MAX + 2)
        if self.buffer is NULL:
            raise MemoryError("buffer of the fast path")
        memset(&self.state, 0, sizeof(self.state))
        memset(&self.own_counters, 0, sizeof(self.own_counters))
        self.state.keepalive = -1
        self.latency = SampledHistogram()

    def __init__(self, AnswerCache answers, AccessTable access=None, *,
                 int largest_reply=limits.EDNS_PAYLOAD.default, bint pass_without_rd=True,
                 bint prefetch=False, ServerCookies cookies=None, FastPath counters=None, RateLimits rates=None,
                 Observer observer=None, peers=None):
        cdef AccessTable notify, transfer
        self.answer_cache = answers
        self.state.answers = answers.handle()
        self.access_owner = access
        self.state.access = &access.table if access is not None else NULL
        self.state.knows_keys = access is not None and bool(access.keyed)
        self.state.largest_reply = limits.EDNS_PAYLOAD.check(largest_reply, "largest_reply")
        self.state.pass_without_rd = pass_without_rd
        self.state.stream_access = ACCESS_ALLOW
        self.state.prefetch = prefetch
        self.counters_owner = counters
        self.lanes = []
        self.state.counters = &counters.own_counters if counters is not None else &self.own_counters
        self.state.replies = self.state.counters.replies[0]
        self.server_cookies = cookies
        self.state.cookies = &cookies.state if cookies is not None else NULL
        self.rate_limits = rates
        self.state.rates = &rates.state if rates is not None and rates.active else NULL
        self.observer_owner = observer
        self.state.observer = &observer.state if observer is not None else NULL
        self.state.recorders = BY_OBSERVER if observer is not None else 0
        self.peers_owner = peers
        if peers is not None:
            notify, transfer = peers.notify, peers.transfer
            self.state.notify_peers, self.state.transfer_peers = &notify.table, &transfer.table

    def __dealloc__(self):
        free(self.buffer)

    def for_lane(self):
        """A fast path with the same settings for the thread of a lane, which runs beside this one without the GIL.

        It shares the answers (changed by atomic operations), the access tables (never changed), and the rates and the
        buffers of the observer (locked).
        Its counters are in the `statistics` of the fast path whose counters this one uses.
        """
        cdef FastPath made = FastPath.__new__(FastPath)
        cdef FastPath root = self if self.counters_owner is None else self.counters_owner
        made.state = self.state
        made.answer_cache = self.answer_cache
        made.access_owner = self.access_owner
        made.peers_owner = self.peers_owner
        made.rate_limits = self.rate_limits
        if self.observer_owner is not None:
            made.observer_owner = (<Observer>self.observer_owner).for_lane(int.from_bytes(os.urandom(8), "little"))
            made.state.observer = &(<Observer>made.observer_owner).state
            made.state.recorders = BY_OBSERVER
        else:
            made.state.recorders = 0
        made.state.samples = NULL
        made.lanes = []
        made.state.counters = &made.own_counters
        made.state.replies = made.own_counters.replies[0]
        if self.server_cookies is not None:
            made.server_cookies = (<ServerCookies>self.server_cookies).copy()
            made.state.cookies = &(<ServerCookies>made.server_cookies).state
        root.lanes.append(made)
        return made

    def start_samples(self, uint64_t seed):
        """Take samples of replies from now on. Returns the rings of this fast path and of its lanes, of which each has
        one producer. `seed` starts their generators."""
        cdef FastPath one
        cdef list found = []
        for number, one in enumerate((self, *self.lanes)):
            one.start_own_samples(seed + <uint64_t>number)
            found.append(one.samples_owner)
        return found

    def stop_samples(self):
        """Take no samples, here and in the lanes. The rings stay, because a lane may be writing into its ring."""
        cdef FastPath one
        for one in (self, *self.lanes):
            atomic_put32(&one.state.recorders, one.state.recorders & ~<uint32_t>BY_SAMPLES)

    cdef int start_own_samples(self, uint64_t seed) except -1:
        if self.samples_owner is None:
            self.samples_owner = Samples(seed)
        self.samples_owner.every = 1
        self.samples_owner.take()  # what was left when the last watch ended
        self.state.samples = &self.samples_owner.ring
        # This publishes the ring to the thread of a lane.
        atomic_put32(&self.state.recorders, self.state.recorders | BY_SAMPLES)
        return 0

    cdef int select_stream(self, int transport, int port) except -1:
        """Count replies for a transport, a position in `TRANSPORTS`, from now on. Tell the observer, if there is one,
        whose messages follow, and the time."""
        if not 0 <= transport < FAST_TRANSPORTS:
            raise IndexError(f"no transport has the number {transport}")
        self.state.replies = self.state.counters.replies[transport]
        if self.state.observer is not NULL:
            set_time(self.state.observer)
            self.state.stream_port = <uint16_t>port
            self.state.stream_protocol = PROTOCOLS[TRANSPORTS[transport]]
        return 0

    def answer(self, bytes data, peer=None, now=None, bint stream=False):
        """Answer one message: the reply, b"" for no reply, or None when `Service` must handle it.

        `peer` is (address, port, ...), or None when access was checked before; `now` is in seconds since 1970, None
        means the current time.
        """
        cdef sockaddr_storage name
        cdef size_t name_size = 0
        cdef int code
        cdef int64_t seconds = realtime_seconds() if now is None else now
        self.state.stream_ip_size = 0
        self.state.stream_access = ACCESS_ALLOW
        if peer is not None:
            name_size = fill_sockaddr(&name, peer[0])
            (<sockaddr_in *>&name).sin_port = htons(peer[1])
        if self.state.observer is not NULL:
            set_time(self.state.observer)
        code = fast_answer(&self.state, <const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data),
                           &name if peer is not None else NULL, name_size, seconds, self.buffer, MESSAGE_MAX,
                           stream, 0)
        if code < 0:
            return None
        return (<char *>self.buffer)[:code]

    def answer_encrypted(self, bytes message not None, bytes client not None, size_t block, now=None,
                         int access=ACCESS_ALLOW, int transport=1, int port=0):
        """One message of an encrypted stream. Returns (the reply as `answer` does, seconds for which it is valid).

        The seconds are 0 for a reply that is not from the cache. `client` is the client's address in network order; its
        access was checked before, and `access` is the result. The other arguments are as in `answer_frames`.
        """
        cdef int64_t seconds = realtime_seconds() if now is None else now
        cdef double began = monotonic_now()
        cdef int code
        self.select_stream(transport, port)
        self.state.stream_ip_size = min(<size_t>PyBytes_GET_SIZE(client), sizeof(self.state.stream_ip))
        memcpy(self.state.stream_ip, PyBytes_AS_STRING(client), self.state.stream_ip_size)
        self.state.stream_access = access
        code = fast_answer(&self.state, <const uint8_t *>PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), NULL, 0,
                           seconds, self.buffer, MESSAGE_MAX, True, min(block, <size_t>LARGEST_BLOCK))
        self.select_stream(0, 0)
        if code < 0:
            return None, 0
        if self.state.left:
            note_time(self.state.counters, <int64_t>((monotonic_now() - began) * 1e9))
        return (<char *>self.buffer)[:code], self.state.left

    def answer_frames(self, list frames, now=None, bytes client not None=b"", Py_ssize_t first=0, size_t block=0,
                      int keepalive=-1, int access=ACCESS_ALLOW, int transport=1, int port=0):
        """Answer the messages of a stream from index `first` on. Returns (replies with length prefixes, messages for
        `Service`, index of the first message not processed, whether the last processed one was malformed).

        It stops after a message that gets no reply because it is no query, and when the replies have reached
        `limits.STREAM_TURN_OCTETS` bytes. `now` is as in `answer`; `client` is the client's address in network order.
        `block` is the size (bytes, at most 4096) of the blocks to which replies to padded queries are padded on
        encrypted transports, 0 on others. `keepalive` is the idle timeout of the stream (100 ms, at most 65535) for
        clients that ask for it (RFC 7828); below 0 that option is ignored. `access` is the value of `AccessTable.find`
        for the client, which must be allowed. `transport` is the position of the stream's transport in
        `resolver.observe.labels.TRANSPORTS`, `port` the client's port, for the observer.

        Raises:
            IndexError: there is no such transport.
        """
        cdef list missed = []
        cdef bytes frame
        cdef Py_ssize_t used = 0, count = len(frames)
        cdef bint malformed = False
        cdef int code
        cdef int64_t seconds = realtime_seconds() if now is None else now
        cdef double began = monotonic_now()
        self.select_stream(transport, port)
        self.state.stream_ip_size = min(<size_t>PyBytes_GET_SIZE(client), sizeof(self.state.stream_ip))
        memcpy(self.state.stream_ip, PyBytes_AS_STRING(client), self.state.stream_ip_size)
        self.state.keepalive = min(keepalive, 0xFFFF)
        self.state.stream_access = access
        try:
            while first < count and used < STREAM_TURN_OCTETS:
                frame = frames[first]
                first += 1
                code = fast_answer(&self.state, <const uint8_t *>PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), NULL, 0,
                                   seconds, self.buffer + used + 2, MESSAGE_MAX, True, min(block, <size_t>LARGEST_BLOCK))
                if code > 0:
                    self.buffer[used] = code >> 8
                    self.buffer[used + 1] = code & 0xff
                    used += code + 2
                elif code < 0:
                    missed.append(frame)
                else:
                    malformed = True
                    break
        finally:
            self.state.keepalive = -1
            self.select_stream(0, 0)
        if used:
            note_time(self.state.counters, <int64_t>((monotonic_now() - began) * 1e9))
        return (<char *>self.buffer)[:used], missed, first, malformed

    @property
    def answers(self):
        """The cache of finished answers, `AnswerCache`."""
        return self.answer_cache

    @property
    def cookies(self):
        """The server cookies; None when the COOKIE option is ignored."""
        return self.server_cookies

    @property
    def knows_keys(self):
        """Whether a signature may permit what the address of a client does not."""
        return bool(self.state.knows_keys)

    @property
    def peers(self):
        """The primaries and secondaries of own zones, `ZonePeers`; None without zones."""
        return self.peers_owner

    @property
    def rates(self):
        """The limits of rates; None when there are none."""
        return self.rate_limits

    def limit_reply(self, bytes query not None, bytes reply not None, str address not None, int64_t now, size_t view=0):
        """Count a reply of `Service` to the UDP query `query` of the client at `address` in the view with this number.

        Returns it, the truncated reply to send instead, or None when none may be sent. `now` is in seconds since 1970.
        """
        cdef sockaddr_storage name
        cdef size_t ip_size
        cdef const uint8_t *ip
        cdef QueryInfo info
        cdef int length = <int>PyBytes_GET_SIZE(reply), code
        cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(query)
        if self.state.rates is NULL or not self.state.rates.limits_replies or length > MESSAGE_MAX:
            return reply
        fill_sockaddr(&name, address)
        ip = client_ip(&self.state, &name, &ip_size)
        if parse_query(data, PyBytes_GET_SIZE(query), &info) >= 0 and has_good_cookie(&self.state, &info, ip, ip_size, now):
            return reply
        memcpy(self.buffer, PyBytes_AS_STRING(reply), length)
        code = limit_reply(&self.state, data, PyBytes_GET_SIZE(query), view, ip, ip_size, now, self.buffer, length,
                           MESSAGE_MAX)
        if code <= 0:
            return None
        return (<char *>self.buffer)[:code]

    def access_of(self, str address not None):
        """The access and view of a client, as `AccessTable.find` gives them."""
        cdef sockaddr_storage name
        cdef size_t size
        if self.state.access is NULL:
            return ACCESS_ALLOW
        size = fill_sockaddr(&name, address)
        return access_lookup(self.state.access, &name, size)

    def cached(self, ClientQuery query not None, int64_t now, Py_ssize_t limit, bytes options=b"", int view=0):
        """The cached reply to a query that the fast path passed on because of its RD bit or its EDNS options, or None.

        `now` is in seconds since 1970; `limit` is the largest reply that the client accepts (bytes); `options` are
        appended to the reply's OPT record; `view` is the number of the client's view.
        """
        cdef QueryInfo info
        cdef AnswerKey key
        cdef const AnswerContext *context = <const AnswerContext *>self.state.answers
        cdef int size
        cdef uint8_t *opt
        cdef Py_ssize_t extra = PyBytes_GET_SIZE(options)
        if parse_query(<const uint8_t *>PyBytes_AS_STRING(query.wire), PyBytes_GET_SIZE(query.wire), &info) != 0:
            return None
        answers_prepare(context, &info, <uint64_t>view, &key)
        size = answers_render_key(context, &key, &info, now, self.buffer, MESSAGE_MAX, limit - extra)
        if size <= 0:
            return None
        if extra and key.opt_at:
            opt = self.buffer + key.opt_at
            extra += get16(opt + 9)
            opt[9] = extra >> 8
            opt[10] = extra & 0xff
            return (<char *>self.buffer)[:size] + options
        return (<char *>self.buffer)[:size]

    def statistics(self):
        """Counters since the start, by name; ``malformed`` maps the parser's reasons to counts."""
        cdef int i
        cdef FastCounters total
        cdef FastPath lane
        cookies = {} if self.server_cookies is None else self.server_cookies.statistics()
        self.sum_counters(&total)
        if cookies:
            for lane in self.lanes:
                for name, count in lane.server_cookies.statistics().items():
                    cookies[name] += count
        return {
            "received": total.received,
            "hits": count_hits(&total),
            "truncated": total.truncated,
            "misses": total.passed,
            "prefetch_due": total.due,
            "non_plain": total.non_plain,
            "refused": total.refused,
            "access_dropped": total.denied,
            "invalid_dropped": total.dropped,
            "formerr": total.format_errors,
            "malformed": {reason_of(-i): total.malformed[i] for i in range(FAST_REASONS) if total.malformed[i]},
            **cookies,
        }

    cdef void sum_counters(self, FastCounters *total) noexcept:
        """Write the sum of the counters of this fast path and its lanes to `total`."""
        cdef FastPath lane
        total[0] = self.state.counters[0]
        for lane in self.lanes:
            # Each counter is a machine word, so it is read whole while the lane counts on.
            add_counters(total, lane.state.counters)

    def count_clients(self):
        """What `ClientCounters` counts, for the replies that were made here: queries by transport and type, replies by
        transport and rcode, joined with dots."""
        cdef int transport, at
        cdef uint64_t count
        cdef FastCounters total
        self.sum_counters(&total)
        queries, replies = {}, {}
        for transport in range(FAST_TRANSPORTS):
            name = TRANSPORTS[transport]
            for at in range(FAST_TYPES * FAST_RCODES):
                count = total.replies[transport][at]
                if count:
                    of_type = f"{name}.{TYPES[at // FAST_RCODES]}"
                    rcode = at % FAST_RCODES
                    if rcode >= FAST_NOT_CACHED and rcode != RCODE_BADCOOKIE:
                        rcode -= FAST_NOT_CACHED
                    of_rcode = f"{name}.{RCODE_LABELS.get(rcode, OTHER)}"
                    queries[of_type] = queries.get(of_type, 0) + count
                    replies[of_rcode] = replies.get(of_rcode, 0) + count
        return {"queries": queries, "replies": replies}

    def hit_latency(self):
        """The histogram of the time that cached answers took, as `resolver.observe.histogram` describes it.

        Some are timed: with datagrams one of 256, from the reading of its batch; with streams the last of each turn,
        from the beginning of the turn.
        """
        cdef FastCounters total
        self.sum_counters(&total)
        samples = [total.timed[i] for i in range(len(BUCKETS))]
        self.latency.update(count_hits(&total), samples, total.timed_ns / 1e9)
        return self.latency.values()


@cython.final
@cython.freelist(64)
cdef class ClientQuery:
    """A plain query, parsed for `Service`."""

    @property
    def rd(self):
        """RD: recursion desired."""
        return (self.flags & 0x0100) != 0

    @property
    def ad(self):
        """AD: the client understands AD in replies (RFC 6840 section 5.7)."""
        return (self.flags & 0x0020) != 0

    @property
    def cd(self):
        """CD: checking disabled."""
        return (self.flags & 0x0010) != 0


def read_query(bytes data):
    """The query in `data` when it is a plain one; else the parser's code: 1 not plain, below 0 malformed."""
    cdef QueryInfo info
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef size_t size = PyBytes_GET_SIZE(data)
    cdef int code = parse_query(p, size, &info)
    cdef ClientQuery query
    if code != 0:
        return code
    query = ClientQuery.__new__(ClientQuery)
    query.id = info.id
    query.flags = info.flags
    query.qtype = info.qtype
    query.qclass = info.qclass
    query.payload = info.payload
    query.question_end = info.question_end
    query.has_edns = info.has_edns
    query.edns_version = info.edns_version
    query.do = info.has_edns and info.do_bit
    query.padded = info.padded
    query.qname = PyBytes_FromStringAndSize(<const char *>info.qname, info.qname_len)
    query.wire = data
    # A plain query has only a question and OPT, whose options begin after its eleven fixed octets.
    query.options = data[info.question_end + OPT_SIZE:] if info.has_edns else b""
    return query


def finish(ClientQuery query not None, bytes packet not None, Py_ssize_t limit, int payload, bytes options=b"",
           int ext_rcode=0):
    """Make a composed `packet` (without OPT) the reply to `query`, of at most `limit` bytes.

    AD is cleared for clients that do not understand it. When the query had OPT, the reply gets one that announces
    `payload` bytes and has `options`. A reply that does not fit is sent with TC and without records (RFC 2181 section
    9); options are dropped first.
    """
    cdef Py_ssize_t size = PyBytes_GET_SIZE(packet), extra = PyBytes_GET_SIZE(options)
    cdef Py_ssize_t opt_size = OPT_SIZE + extra if query.has_edns else 0
    cdef const uint8_t *source = <const uint8_t *>PyBytes_AS_STRING(packet)
    cdef uint8_t *out
    cdef bytes reply
    cdef bint cut = False
    if size < HEADER_SIZE or size < query.question_end:
        raise ValueError("packet is shorter than header and question")
    if size + opt_size > limit:
        if opt_size and size + OPT_SIZE <= limit:
            extra = 0
        else:
            cut = True
            size = query.question_end
            if opt_size and size + opt_size > limit:
                extra = 0
        opt_size = OPT_SIZE + extra if query.has_edns else 0
    reply = PyBytes_FromStringAndSize(NULL, size + opt_size)
    out = <uint8_t *>PyBytes_AS_STRING(reply)
    memcpy(out, source, size)
    if out[3] & FLAG_AD_LOW and not (query.do or query.flags & FLAG_AD_LOW):
        out[3] &= ~FLAG_AD_LOW
    if cut:
        out[2] |= FLAG_TC_HIGH
        memset(out + 6, 0, 6)
    if opt_size:
        put16(out + 10, get16(out + 10) + 1)
        put_opt(out + size, payload, ext_rcode, query.do, extra)
        memcpy(out + size + OPT_SIZE, PyBytes_AS_STRING(options), extra)
    return reply
