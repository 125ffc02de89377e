"""Finished answers, stored as templates: the records after the question, and the offsets of their TTLs.

Header and question are made from the query (id, RD, CD, letter case of the qname), so a template for an address record
has some 25 bytes. Its compression pointers stay valid, because the question has the same length. A cached answer is one
lookup and one copy without the GIL, for every transport.
Template: [counts of the three sections, 6 bytes] [length of stored EDNS options, 2 bytes, only if marked]
[16-bit offsets of TTLs from the start of the body, `aux` of them] [body] [options]. `meta` holds RCODE, AA, AD and the
mark. Only answers to client queries are stored here; other data is stored as RRsets (`rrsets`).

With `rotate`, the addresses of an answer are given in another order each time: the data of its A or AAAA records is
moved in the copy, which has the same records in the same places otherwise. The order in the cache does not change.

Invariant: the number of a view means something only under the configuration that has assigned it. Processes that share
the table switch to a new configuration one after the other, so each has an `AnswerCache` for its own one (`for_rules`),
and `fill_key` puts the digest of the configuration into every key that has a view.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy, memset

from resolver.cache.arena cimport atomic_add64, atomic_get32
from resolver.cache.lookup cimport (
    CLAIMED, KIND_ANSWER, Hit, read_is_consistent, read_attempts, remaining, table_claim_prefetch, table_find, table_hash,
    table_prefetch, table_touch,
)
from resolver.cache.table cimport Table
from resolver.cache.writers cimport PUT_STORED, Slice, table_put
from resolver.wire.consts cimport (
    C_IN, F_AA, F_AD, F_CD, F_OPCODE, F_QR, F_RA, F_RCODE, F_RD, F_TC, HEADER_SIZE, OPT_SIZE, T_A, T_AAAA, T_OPT,
)
from resolver.wire.message cimport QueryInfo, parse_query
from resolver.wire.name cimport name_length, name_lower
from resolver.wire.octets cimport get16, get32, put16, put32, put_opt

from resolver import limits

cdef enum:
    META_RCODE = 0x0F
    META_AD = 0x10
    META_OPTIONS = 0x20
    META_AA = 0x40
    MARK_DO = 0x01
    MARK_CD = 0x02
    MARK_ELSEWHERE = 0x04       # class, view and rules follow: the class is not IN, or there are views
    QUESTION_TAIL = 4
    MAX_RECORDS = 4096          # limits.MESSAGE_RECORDS, the limit of parsed messages; here the size of an array
    MAX_OPTIONS = 4096
    VIEW_BITS = 16              # as many as ANSWER_VIEWS has
    RULES_SIZE = 6              # the other octets of the number

assert limits.VIEWS <= ANSWER_VIEWS

cdef uint64_t MIXER = 0x9E3779B97F4A7C15    # 2**64 divided by the golden ratio: neighbours get distant upper bits

cdef uint64_t DUE_PERCENT = limits.PREFETCH_SHARE
cdef uint32_t DUE_TTL = limits.PREFETCH_TTL


# --------------------------------------------------------------------------------------------------------- keys

cdef inline void fill_key(AnswerKey *key, const AnswerContext *context, const uint8_t *name, uint32_t size,
                          uint16_t rtype, uint16_t rclass, bint do_bit, bint cd_bit, uint64_t view,
                          uint32_t serial) noexcept nogil:
    """`size` is at most 255: names come from checked messages. The sweep expects `serial` at the end of the key."""
    cdef uint8_t *p = key.data + size
    cdef uint64_t place = context.rules | view
    name_lower(key.data, name, size)
    put16(p, rtype)
    p[2] = (MARK_DO if do_bit else 0) | (MARK_CD if cd_bit else 0)
    key.size = size + 3
    if place != 0 or rclass != C_IN:
        p[2] |= MARK_ELSEWHERE
        put16(p + 3, rclass)
        memcpy(p + 5, &place, 8)
        key.size += 10
    memcpy(key.data + key.size, &serial, 4)
    key.size += 4
    key.hash = table_hash(context.table, KIND_ANSWER, key.data, key.size)


# ---------------------------------------------------------------------------------------------------------- render

cdef void answers_prepare(const AnswerContext *context, const QueryInfo *q, uint64_t view,
                          AnswerKey *key) noexcept nogil:
    """Make the key of a query and prefetch the cache line of its bucket."""
    fill_key(key, context, q.qname, q.qname_len, q.qtype, q.qclass, q.has_edns and q.do_bit,
             (q.flags & F_CD) != 0, view, atomic_get32(&context.table.head.serial))
    table_prefetch(context.table, key.hash)


cdef int answers_render_key(const AnswerContext *context, AnswerKey *key, const QueryInfo *q,
                            int64_t now_seconds, uint8_t *out, size_t cap, size_t client_limit) noexcept nogil:
    """Write the reply to `q`. Returns its length, ANSWER_NONE, or ANSWER_PYTHON.

    `client_limit` is the largest reply that the client accepts: 512 without EDNS, the lower of its payload and the
    configured one with EDNS, 65535 on a stream. A larger answer is sent with TC and without records (RFC 2181 section
    9). OPT is the last record, so that `answers_add_option` can extend it.
    """
    cdef Hit f
    cdef TableView *table = context.table
    cdef const uint8_t *value
    cdef uint8_t *p
    cdef uint32_t size, prefix, options, body, shown, question, i, offset, ttl, opt
    cdef int64_t left
    cdef uint32_t age
    cdef size_t limit = client_limit if client_limit < cap else cap
    cdef uint16_t flags
    cdef int _attempt
    cdef bint fits, with_options
    question = <uint32_t>q.qname_len + QUESTION_TAIL
    opt = OPT_SIZE if q.has_edns else 0
    if (q.has_edns and q.edns_version != 0) or limit < HEADER_SIZE + question + opt:
        return ANSWER_PYTHON
    for _attempt in range(read_attempts):
        if not table_find(table, key.hash, KIND_ANSWER, key.data, key.size, &f):
            break
        left = remaining(now_seconds, f.created, f.ttl)
        if left <= 0:
            if not read_is_consistent(&f):
                continue
            break
        age = f.ttl - <uint32_t>left
        value = f.value
        size = f.value_size
        options = 0
        prefix = 6
        if f.meta & META_OPTIONS:
            options = get16(value + 6) if size >= 8 else 0
            prefix = 8
        prefix += 2 * <uint32_t>f.aux
        if prefix + options > size:
            continue                                    # torn read; stored templates are consistent
        body = size - prefix - options
        fits = HEADER_SIZE + question + body + opt <= limit
        shown = body if fits else 0
        with_options = opt != 0 and HEADER_SIZE + question + shown + opt + options <= limit

        flags = F_QR | F_RA | (q.flags & (F_RD | F_CD)) | (f.meta & META_RCODE)
        if f.meta & META_AD and ((q.has_edns and q.do_bit) or q.flags & F_AD):
            flags |= F_AD                               # RFC 6840 sections 5.7 and 5.8
        if f.meta & META_AA:
            flags |= F_AA
        put16(out, q.id)
        memcpy(out + 4, &ONE_QUESTION, 2)
        memcpy(out + HEADER_SIZE, q.qname, q.qname_len)
        p = out + HEADER_SIZE + q.qname_len
        put16(p, q.qtype)
        put16(p + 2, q.qclass)
        p += QUESTION_TAIL
        if fits:
            memcpy(out + 6, value, 6)
            memcpy(p, value + prefix, body)
            if age:
                for i in range(f.aux):
                    offset = get16(value + prefix - 2 * (<uint32_t>f.aux - i))
                    if offset + 4 > body:
                        break                           # torn read
                    ttl = get32(p + offset)
                    put32(p + offset, ttl - age if ttl > age else 0)
            if context.rotate:
                # Each hit of this process counts up. Mixed, because clients ask for A and AAAA by turns.
                rotate_addresses(p, body, value + prefix - 2 * <uint32_t>f.aux,
                                 min(<uint32_t>f.aux, <uint32_t>get16(out + 6)),
                                 <uint64_t>table.hits[KIND_ANSWER] * MIXER)
            p += body
        else:
            flags |= F_TC
            memset(out + 6, 0, 6)
        put16(out + 2, flags)
        key.opt_at = <uint32_t>(p - out) if opt else 0
        if opt:
            i = get16(out + 10) + 1
            put16(out + 10, i)
            put_opt(p, context.payload, 0, q.do_bit, options if with_options else 0)
            p += OPT_SIZE
            if with_options:
                memcpy(p, value + prefix + body, options)
                p += options
        if read_is_consistent(&f):
            key.left = <uint32_t>left
            key.due = is_due(left, f.ttl)
            key.slot = f.slot
            key.slot_value = f.slot_value
            table_touch(&f)
            atomic_add64(&table.hits[KIND_ANSWER], 1)
            return <int>(p - out)
    atomic_add64(&table.misses[KIND_ANSWER], 1)
    return ANSWER_NONE


cdef void rotate_addresses(uint8_t *body, uint32_t size, const uint8_t *offsets, uint32_t records,
                           uint64_t turn) noexcept nogil:
    """Let the first A or AAAA set of the answer section begin with another address: the upper bits of `turn` choose it.

    `offsets` are those of the TTLs of the first `records` records of `body`. They may be torn, so each is checked. All
    records of a set have the same owner and TTL, so only their data is moved.
    """
    cdef uint32_t i, at, first = 0, count = 0, length = 0
    cdef uint32_t shift, value
    for i in range(records):
        at = get16(offsets + 2 * i)
        if at < 4 or at + 6 > size:
            return
        value = get16(body + at + 4)
        if ((get16(body + at - 4) == T_A and value == 4) or (get16(body + at - 4) == T_AAAA and value == 16)) and (
                at + 6 + value <= size and (count == 0 or value == length)):
            if count == 0:
                first, length = i, value
            count += 1
        elif count:
            break
    if count < 2:
        return
    shift = <uint32_t>((turn >> 32) % count)
    # Three reversals rotate in place.
    reverse_addresses(body, size, offsets, first, first + shift, length)
    reverse_addresses(body, size, offsets, first + shift, first + count, length)
    reverse_addresses(body, size, offsets, first, first + count, length)


cdef void reverse_addresses(uint8_t *body, uint32_t size, const uint8_t *offsets, uint32_t first, uint32_t end,
                            uint32_t length) noexcept nogil:
    """Reverse the order of the data of the records from `first` to before `end`, each of `length` octets."""
    cdef uint8_t held[16]
    cdef uint32_t low, high
    while first + 1 < end:
        end -= 1
        low, high = get16(offsets + 2 * first) + 6, get16(offsets + 2 * end) + 6
        if low + length > size or high + length > size:
            return
        memcpy(held, body + low, length)
        memcpy(body + low, body + high, length)
        memcpy(body + high, held, length)
        first += 1


def rotated(packet: bytes, turn: int) -> bytes:
    """The complete reply `packet` (without OPT), with another order of the addresses of its answer: that of `turn`. The
    packet itself when it is malformed or has no two addresses."""
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(packet)
    cdef uint32_t size = <uint32_t>PyBytes_GET_SIZE(packet)
    cdef uint8_t offsets[2 * MAX_RECORDS]
    cdef uint32_t body, records
    cdef Py_ssize_t name_size
    cdef bytes made
    if size < HEADER_SIZE or size > 65535 or get16(p + 4) != 1:
        return packet
    name_size = name_length(p + HEADER_SIZE, size - HEADER_SIZE)
    body = HEADER_SIZE + <uint32_t>name_size + QUESTION_TAIL
    if name_size < 0 or body > size:
        return packet
    records = <uint32_t>get16(p + 6) + get16(p + 8) + get16(p + 10)
    if find_ttls(p, size, body, records, offsets) < 0:
        return packet
    made = PyBytes_FromStringAndSize(<const char *>p, size)
    rotate_addresses(<uint8_t *>PyBytes_AS_STRING(made) + body, size - body, offsets, get16(p + 6),
                     <uint64_t>(turn & 0xFFFFFFFFFFFF) * MIXER)
    return made


cdef inline bint is_due(int64_t left, uint32_t ttl) noexcept nogil:
    """Whether an answer that is used now should be renewed before it expires. Answers with short TTLs are not."""
    return ttl >= DUE_TTL and <uint64_t>left * 100 <= ttl * DUE_PERCENT


cdef bint answers_claim_prefetch(const AnswerKey *key) noexcept nogil:
    """True for one caller of all processes, which then renews the rendered answer. An answer is claimed once."""
    return key.due and table_claim_prefetch(key.slot, key.slot_value)


cdef int answers_add_option(const AnswerKey *key, uint8_t *out, int length, size_t limit, uint16_t code,
                            const uint8_t *data, uint16_t size) noexcept nogil:
    """Append an EDNS option (a server cookie) to the rendered reply. Returns its length, unchanged when that is not
    possible."""
    cdef uint8_t *opt = out + key.opt_at
    cdef uint8_t *p = out + length
    if key.opt_at == 0 or <size_t>length + 4 + size > limit:
        return length
    put16(p, code)
    put16(p + 2, size)
    memcpy(p + 4, data, size)
    put16(opt + 9, <uint32_t>get16(opt + 9) + 4 + size)
    return length + 4 + size


cdef uint16_t ONE_QUESTION
put16(<uint8_t *>&ONE_QUESTION, 1)


# ----------------------------------------------------------------------------------------------------------- store

cdef int skip_name(const uint8_t *p, uint32_t size, uint32_t at) noexcept nogil:
    """The offset after the name at `at`, or -1. A pointer ends a name; it is not followed."""
    cdef uint32_t start = at
    while at < size and at - start < 255:
        if p[at] == 0:
            return <int>(at + 1)
        if p[at] >= 0xC0:
            return <int>(at + 2) if at + 2 <= size else -1
        if p[at] > 63:
            return -1
        at += <uint32_t>p[at] + 1
    return -1


cdef int find_ttls(const uint8_t *p, uint32_t size, uint32_t at, uint32_t records, uint8_t *offsets) noexcept nogil:
    """Write the offsets of all TTLs, relative to `at`. Returns their number, or -1 when the records are malformed."""
    cdef uint32_t start = at
    cdef uint32_t i
    cdef int end
    if records > MAX_RECORDS:
        return -1
    for i in range(records):
        end = skip_name(p, size, at)
        if end < 0 or <uint32_t>end + 10 > size or get16(p + end) == T_OPT:
            return -1
        put16(offsets + 2 * i, <uint32_t>end + 4 - start)
        at = <uint32_t>end + 10 + get16(p + end + 8)
        if at > size:
            return -1
    return <int>records if at == size else -1


@cython.final
cdef class AnswerCache:
    """Answers by question, DO, CD and view, made under no rules. `payload` is the UDP size announced in OPT (bytes).

    Raises:
        ValueError: the payload is outside `limits.EDNS_PAYLOAD`.
    """

    def __cinit__(self, table: Table, *, payload: int = limits.EDNS_PAYLOAD.default) -> None:
        self.table = table
        self.context.table = &table.view
        self.context.payload = limits.EDNS_PAYLOAD.check(payload, "EDNS payload")

    def for_rules(self, rules: bytes, *, rotate: bool = False) -> AnswerCache:
        """The answers in the same table that were made under `rules`: a digest, of which six octets are used, of all
        that the answers of views depend on; b"" when there are no views. `rotate` gives their addresses in another
        order each time.

        Raises:
            ValueError: the digest is too short.
        """
        cdef AnswerCache made = AnswerCache(self.table, payload=self.context.payload)
        made.context.rotate = rotate
        if rules:
            if len(rules) < RULES_SIZE:
                raise ValueError(f"a digest of rules has at least {RULES_SIZE} octets")
            made.context.rules = <uint64_t>int.from_bytes(rules[:RULES_SIZE], "big") << VIEW_BITS
        return made

    cdef void *handle(self) noexcept:
        """The `AnswerContext` for C callers. It is valid as long as this object."""
        return &self.context

    def put(self, packet: bytes, *, do: bool, cd: bool, view: int = 0, now: int, ttl: int,
            options: bytes = b"", serial: int = 0) -> bool:
        """Store the complete reply `packet` (without OPT) for `ttl` seconds. Returns whether it was stored.

        Not stored: truncated or malformed replies, replies without exactly one question or with OPT, a TTL of zero, and
        answers of queries that began before the last flush. `serial` is the table's serial when the query began, 0 the
        current one. `options` are EDNS options in wire form for replies to clients with EDNS.
        """
        cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(packet)
        cdef uint32_t size = <uint32_t>PyBytes_GET_SIZE(packet)
        cdef uint32_t options_size = <uint32_t>PyBytes_GET_SIZE(options)
        cdef uint32_t records, body
        cdef Py_ssize_t name_size
        cdef uint16_t flags
        cdef uint8_t length[2]
        cdef uint8_t meta
        cdef uint8_t offsets[2 * MAX_RECORDS]
        cdef AnswerKey key
        cdef Slice pieces[5]
        cdef int count
        cdef uint32_t begun = serial or atomic_get32(&self.table.view.head.serial)
        if size < HEADER_SIZE or size > 65535 or options_size > MAX_OPTIONS or ttl <= 0 or get16(p + 4) != 1:
            return False
        flags = get16(p + 2)
        if not flags & F_QR or flags & (F_TC | F_OPCODE):
            return False
        name_size = name_length(p + HEADER_SIZE, size - HEADER_SIZE)
        body = HEADER_SIZE + <uint32_t>name_size + QUESTION_TAIL
        if name_size < 0 or body > size:
            return False
        records = <uint32_t>get16(p + 6) + get16(p + 8) + get16(p + 10)
        count = find_ttls(p, size, body, records, offsets)
        if count < 0:
            return False
        fill_key(&key, &self.context, p + HEADER_SIZE, <uint32_t>name_size, get16(p + body - 4), get16(p + body - 2),
                 do, cd, view, begun)
        meta = <uint8_t>(flags & F_RCODE) | (META_AD if flags & F_AD else 0) | (META_AA if flags & F_AA else 0)
        pieces[0].data = p + 6
        pieces[0].size = 6
        pieces[1].data = length
        pieces[1].size = 0
        if options_size:
            meta |= META_OPTIONS
            put16(length, options_size)
            pieces[1].size = 2
        pieces[2].data = offsets
        pieces[2].size = 2 * count
        pieces[3].data = p + body
        pieces[3].size = size - body
        pieces[4].data = PyBytes_AS_STRING(options)
        pieces[4].size = options_size
        return table_put(&self.table.view, key.hash, KIND_ANSWER, key.data, key.size, pieces, 5, now,
                         min(ttl, 0x7FFFFFFF), meta, <uint16_t>count, 0, 0, begun) == PUT_STORED

    def render(self, query: bytes, now: int, limit: int, view: int = 0) -> bytes | None:
        """The reply to a plain query, at most `limit` bytes; None when none is cached or the query is not plain."""
        cdef QueryInfo q
        cdef AnswerKey key
        cdef Py_ssize_t cap = max(0, min(limit, 65535))
        cdef bytes out
        cdef int size
        if parse_query(<const uint8_t *>PyBytes_AS_STRING(query), PyBytes_GET_SIZE(query), &q) != 0:
            return None
        out = PyBytes_FromStringAndSize(NULL, cap)
        answers_prepare(&self.context, &q, view, &key)
        size = answers_render_key(&self.context, &key, &q, now, <uint8_t *>PyBytes_AS_STRING(out), cap, cap)
        return out[:size] if size > 0 else None

    cdef int find_left(self, const QueryInfo *q, uint64_t view, int64_t now) noexcept nogil:
        """Remaining seconds of the answer to `q` when it was claimed for a prefetch, else 0."""
        cdef AnswerKey key
        cdef Hit f
        cdef int64_t left
        answers_prepare(&self.context, q, view, &key)
        if not table_find(self.context.table, key.hash, KIND_ANSWER, key.data, key.size, &f):
            return 0
        left = remaining(now, f.created, f.ttl)
        return <int>left if f.slot_value & CLAIMED and left > 0 and read_is_consistent(&f) else 0

    def claimed(self, query: bytes, now: int, view: int = 0) -> int:
        """Remaining seconds of the answer to a plain query when it was claimed for a prefetch, else 0."""
        cdef QueryInfo q
        if parse_query(<const uint8_t *>PyBytes_AS_STRING(query), PyBytes_GET_SIZE(query), &q) != 0:
            return 0
        return self.find_left(&q, view, now)

    def claim(self, query: bytes, now: int, view: int = 0) -> bool:
        """Claim the answer to a plain query for a prefetch; False when it is not due or already claimed."""
        cdef QueryInfo q
        cdef AnswerKey key
        cdef uint8_t out[512]
        if parse_query(<const uint8_t *>PyBytes_AS_STRING(query), PyBytes_GET_SIZE(query), &q) != 0:
            return False
        answers_prepare(&self.context, &q, view, &key)
        return (answers_render_key(&self.context, &key, &q, now, out, sizeof(out), sizeof(out)) > 0
                and answers_claim_prefetch(&key))
