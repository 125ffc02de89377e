"""Answers queries from the cache in C without the GIL: parse, check access, look up, render.

A query that is not plain, or has no cached answer, goes to `Service` in Python. The fast path also sends FORMERR,
REFUSED, and BADCOOKIE or TC to clients without a required cookie, and drops messages, because floods consist of such
queries. The same function serves batches of datagrams and single TCP messages. It never takes the GIL. The counters
belong to the calling loop, so they need no lock.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from resolver import limits
from resolver.wire.errors import reason_of

from resolver.cache.answers cimport (AnswerCache, AnswerContext, AnswerKey, answers_add_option, answers_claim_prefetch,
                                     answers_prepare, answers_render_key)
from resolver.net.clock_random cimport realtime_seconds
from resolver.net.cookies cimport (COOKIE_GOOD, COOKIE_OPTION_SIZE, COOKIE_SIZE, ServerCookies, CookieState, CookieVerdict,
                                   make_server_cookie, verify_server_cookie)
from resolver.net.libc cimport AF_INET, AF_INET6, sockaddr_in, sockaddr_in6, sockaddr_storage
from resolver.net.sockaddr cimport fill_sockaddr
from resolver.policy.access cimport ACCESS_ALLOW, ACCESS_DROP, AccessTable, access_lookup
from resolver.wire.consts cimport HEADER_SIZE, MESSAGE_MAX, O_COOKIE, O_EDE, O_KEEPALIVE, O_PADDING, OPT_SIZE, PAYLOAD_MIN
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
    RCODE_FORMERR = 1
    RCODE_REFUSED = 5
    RCODE_BADCOOKIE = 23
    EDE_PROHIBITED = 18
    PROHIBITED_SIZE = 6         # an extended error without text, as an option
    OPTION_HEAD = 4             # code and length of an EDNS option
    KEEPALIVE_SIZE = 2
    LARGEST_BLOCK = 4096

cdef uint8_t[LARGEST_BLOCK] ZEROS   # the content of padding; never written


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


cdef int reply_badcookie(CookieState *server_cookies, const uint8_t *data, const QueryInfo *query, const uint8_t *cookie, uint8_t *out,
                         size_t capacity) noexcept nogil:
    """Write the reply to a UDP client without a valid cookie: BADCOOKIE with a new one, or TC when it sent no cookie.

    Either way the client verifies its address by the next query (RFC 7873 section 5.2.3). Nothing larger than the query
    and a cookie is sent to an unverified address.
    """
    cdef size_t size = query.question_end
    if size + OPT_SIZE + COOKIE_OPTION_SIZE > capacity:
        return FAST_DROP
    server_cookies.challenged += 1
    memcpy(out, data, size)
    out[2] = FLAG_QR_HIGH | (data[2] & (OPCODE_HIGH | FLAG_RD_HIGH))
    out[3] = 0x80 | (data[3] & 0x10)
    memset(out + 4, 0, 8)
    out[5] = 1
    if cookie is NULL:
        out[2] |= FLAG_TC_HIGH
    else:
        out[3] |= RCODE_BADCOOKIE & 0xf
    if not query.has_edns:
        return <int>size
    out[11] = 1
    if cookie is NULL:
        put_opt(out + size, PAYLOAD_MIN, 0, query.do_bit, 0)
        return <int>size + OPT_SIZE
    put_opt(out + size, PAYLOAD_MIN, RCODE_BADCOOKIE >> 4, query.do_bit, COOKIE_OPTION_SIZE)
    size += OPT_SIZE
    put16(out + size, O_COOKIE)
    put16(out + size + 2, COOKIE_SIZE)
    memcpy(out + size + 4, cookie, COOKIE_SIZE)
    return <int>size + COOKIE_OPTION_SIZE


cdef inline int add_padding(const AnswerKey *key, uint8_t *out, int length, size_t limit, size_t block) noexcept nogil:
    """Add the option that fills the reply up to a multiple of `block` bytes, as far as `limit` permits; the length."""
    cdef size_t begun = <size_t>length + OPTION_HEAD
    cdef size_t fill
    if begun > limit:
        return length
    fill = (block - begun % block) % block
    return answers_add_option(key, out, length, limit, O_PADDING, ZEROS, <uint16_t>min(fill, limit - begun))


cdef int fast_answer(FastState *state, const uint8_t *data, size_t size, const void *peer, size_t peer_size,
                     int64_t now, uint8_t *out, size_t capacity, bint stream, size_t block) noexcept nogil:
    """Returns the size of the reply in `out`; FAST_DROP: no reply; FAST_SLOW_PATH: `Service` handles the message.

    `peer` NULL means that access was checked before (streams: when they were accepted). With `block` above 0, on
    encrypted transports, the reply to a padded query is padded to a multiple of `block` bytes.
    """
    cdef QueryInfo query
    cdef AnswerKey key
    cdef const AnswerContext *context = <const AnswerContext *>state.answers
    cdef int code, access = ACCESS_ALLOW
    cdef size_t limit, ip_size
    cdef const uint8_t *ip
    cdef CookieVerdict verdict
    cdef uint8_t cookie[COOKIE_SIZE]
    cdef uint8_t idle[KEEPALIVE_SIZE]
    cdef bint with_cookie = False
    cdef bint with_keepalive = False
    state.counters.received += 1
    state.left = 0
    if peer is not NULL and state.access is not NULL:
        access = access_lookup(state.access, peer, peer_size)
        if access == ACCESS_DROP:
            state.counters.denied += 1
            return FAST_DROP
    code = parse_query(data, size, &query)
    if code < 0:
        if -code < FAST_REASONS:
            state.counters.malformed[-code] += 1
        if size < HEADER_SIZE or data[2] & FLAG_QR_HIGH:
            state.counters.dropped += 1
            return FAST_DROP
        if access != ACCESS_ALLOW:
            state.counters.refused += 1
            return short_reply(data, HEADER_SIZE, RCODE_REFUSED, out, capacity, NULL)
        state.counters.format_errors += 1
        return short_reply(data, HEADER_SIZE, RCODE_FORMERR, out, capacity, NULL)
    if code > 0:
        if access != ACCESS_ALLOW:
            state.counters.refused += 1
            return short_reply(data, HEADER_SIZE, RCODE_REFUSED, out, capacity, NULL)
        state.counters.non_plain += 1
        return FAST_SLOW_PATH
    if access != ACCESS_ALLOW:
        state.counters.refused += 1
        return short_reply(data, query.question_end, RCODE_REFUSED, out, capacity, &query)
    if query.non_plain or (state.pass_without_rd and not data[2] & FLAG_RD_HIGH):
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
                return reply_badcookie(state.cookies, data, &query, cookie, out, capacity)
            with_cookie = True
            limit -= COOKIE_OPTION_SIZE
        elif not stream:
            return reply_badcookie(state.cookies, data, &query, NULL, out, capacity)
    if query.keepalive and stream and state.keepalive >= 0:
        with_keepalive = True
        limit -= OPTION_HEAD + KEEPALIVE_SIZE
    answers_prepare(context, &query, state.view, &key)
    code = answers_render_key(context, &key, &query, now, out, capacity, limit)
    if code > 0:
        if key.due and state.prefetch and data[2] & FLAG_RD_HIGH and answers_claim_prefetch(&key):
            state.counters.due += 1
            return FAST_SLOW_PATH
        state.counters.hits += 1
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


@cython.final
cdef class FastPath:
    """The state of `fast_answer`: its settings and counters.

    `largest_reply` limits UDP replies (bytes). With `pass_without_rd`, queries without RD go to Python. With
    `prefetch`, one query for each answer in the last tenth of its TTL goes to Python, which renews the answer. With
    `cookies` None the COOKIE option is ignored. `counters` is another fast path, whose counters this one uses.
    """

    def __cinit__(self):
        self.buffer = <uint8_t *>malloc(STREAM_TURN_OCTETS + MESSAGE_MAX + 2)
        if self.buffer is NULL:
            raise MemoryError("buffer of the fast path")
        memset(&self.state, 0, sizeof(self.state))
        memset(&self.own_counters, 0, sizeof(self.own_counters))
        self.state.keepalive = -1

    def __init__(self, AnswerCache answers, AccessTable access=None, *,
                 int largest_reply=limits.EDNS_PAYLOAD.default, bint pass_without_rd=True, int view=0,
                 bint prefetch=False, ServerCookies cookies=None, FastPath counters=None):
        self.answer_cache = answers
        self.state.answers = answers.handle()
        self.access_owner = access
        self.state.access = &access.table if access is not None else NULL
        self.state.largest_reply = limits.EDNS_PAYLOAD.check(largest_reply, "largest_reply")
        self.state.pass_without_rd = pass_without_rd
        self.state.view = view
        self.state.prefetch = prefetch
        self.counters_owner = counters
        self.state.counters = &counters.own_counters if counters is not None else &self.own_counters
        self.server_cookies = cookies
        self.state.cookies = &cookies.state if cookies is not None else NULL

    def __dealloc__(self):
        free(self.buffer)

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
        if peer is not None:
            name_size = fill_sockaddr(&name, peer[0])
        code = fast_answer(&self.state, <const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data),
                           &name if peer is not None else NULL, name_size, seconds, self.buffer, MESSAGE_MAX,
                           stream, 0)
        if code < 0:
            return None
        return (<char *>self.buffer)[:code]

    def answer_encrypted(self, bytes message not None, bytes client not None, size_t block, now=None):
        """One message of an encrypted stream. Returns (the reply as `answer` does, seconds for which it is valid).

        The seconds are 0 for a reply that is not from the cache. `client` is the client's address in network order; its
        access was checked before. `block` and `now` are as in `answer_frames`.
        """
        cdef int64_t seconds = realtime_seconds() if now is None else now
        cdef int code
        self.state.stream_ip_size = min(<size_t>PyBytes_GET_SIZE(client), sizeof(self.state.stream_ip))
        memcpy(self.state.stream_ip, PyBytes_AS_STRING(client), self.state.stream_ip_size)
        code = fast_answer(&self.state, <const uint8_t *>PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), NULL, 0,
                           seconds, self.buffer, MESSAGE_MAX, True, min(block, <size_t>LARGEST_BLOCK))
        if code < 0:
            return None, 0
        return (<char *>self.buffer)[:code], self.state.left

    def answer_frames(self, list frames, now=None, bytes client not None=b"", Py_ssize_t first=0, size_t block=0,
                      int keepalive=-1):
        """Answer the messages of a stream from index `first` on. Returns (replies with length prefixes, messages for
        `Service`, index of the first message not processed, whether the last processed one was malformed).

        It stops after a message that gets no reply because it is no query, and when the replies have reached
        `limits.STREAM_TURN_OCTETS` bytes. `now` is as in `answer`; `client` is the client's address in network order.
        `block` is the size (bytes, at most 4096) of the blocks to which replies to padded queries are padded on encrypted
        transports, 0 on others. `keepalive` is the idle timeout of the stream (100 ms, at most 65535) for clients that ask
        for it (RFC 7828); below 0 that option is ignored.
        """
        cdef list missed = []
        cdef bytes frame
        cdef Py_ssize_t used = 0, count = len(frames)
        cdef bint malformed = False
        cdef int code
        cdef int64_t seconds = realtime_seconds() if now is None else now
        self.state.stream_ip_size = min(<size_t>PyBytes_GET_SIZE(client), sizeof(self.state.stream_ip))
        memcpy(self.state.stream_ip, PyBytes_AS_STRING(client), self.state.stream_ip_size)
        self.state.keepalive = min(keepalive, 0xFFFF)
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
        self.state.keepalive = -1
        return (<char *>self.buffer)[:used], missed, first, malformed

    @property
    def cookies(self):
        """The server cookies; None when the COOKIE option is ignored."""
        return self.server_cookies

    def access_of(self, str address not None):
        """The access of a client: ALLOW, REFUSE or DROP of `resolver.policy`."""
        cdef sockaddr_storage name
        cdef size_t size
        if self.state.access is NULL:
            return ACCESS_ALLOW
        size = fill_sockaddr(&name, address)
        return access_lookup(self.state.access, &name, size)

    def cached(self, ClientQuery query not None, int64_t now, Py_ssize_t limit, bytes options=b""):
        """The cached reply to a query that the fast path passed on because of its RD bit or its EDNS options, or None.

        `now` is in seconds since 1970; `limit` is the largest reply that the client accepts (bytes); `options` are
        appended to the reply's OPT record.
        """
        cdef QueryInfo info
        cdef AnswerKey key
        cdef const AnswerContext *context = <const AnswerContext *>self.state.answers
        cdef int size
        cdef uint8_t *opt
        cdef Py_ssize_t extra = PyBytes_GET_SIZE(options)
        if parse_query(<const uint8_t *>PyBytes_AS_STRING(query.wire), PyBytes_GET_SIZE(query.wire), &info) != 0:
            return None
        answers_prepare(context, &info, self.state.view, &key)
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
        found = {
            "received": self.state.counters.received,
            "hits": self.state.counters.hits,
            "truncated": self.state.counters.truncated,
            "misses": self.state.counters.passed,
            "prefetch_due": self.state.counters.due,
            "non_plain": self.state.counters.non_plain,
            "refused": self.state.counters.refused,
            "access_dropped": self.state.counters.denied,
            "invalid_dropped": self.state.counters.dropped,
            "formerr": self.state.counters.format_errors,
            "malformed": {
                reason_of(-i): self.state.counters.malformed[i]
                for i in range(FAST_REASONS) if self.state.counters.malformed[i]
            },
        }
        if self.server_cookies is not None:
            found.update(self.server_cookies.statistics())
        return found


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
