"""Limits of the rate of queries of a client prefix, and of replies to it (response rate limiting), without the GIL.

A key is a client prefix with what is counted: its queries, or its replies of one kind for one name. Each key has a
bucket of tokens: it gets `rate` tokens each second, up to `rate`, and each query or reply takes one. A key without
tokens is limited. With a window, what is sent although it is limited adds to a debt of at most `window` seconds, so a
flood is limited until it pauses, as in BIND and NSD.

Invariants: the buckets are a table of fixed size, four to a set; the set is chosen by a hash with a random key, so a
client cannot choose collisions. When a set is full, the bucket that limits nothing is used again first, and of those
the one unused for longest: a client with many prefixes cannot end the limit of one. The threads of a worker, its event
loop and its lanes, share the table; its users hold `lock`. It outlives a reload of the settings, so limits hold
on.
"""

import ipaddress
import os

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from corenet.core.libc cimport (
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)

from resolver import limits
from resolver.settings.quotas import QUERY_ACTIONS

from resolver.policy.access cimport ACCESS_ALLOW, ACCESS_DECISION, AccessTable, access_lookup_ip
from resolver.wire.consts cimport HEADER_SIZE, NAME_MAX
from resolver.wire.hash cimport siphash13
from resolver.wire.name cimport name_expand, name_length, name_lower
from resolver.wire.octets cimport get16, simple_ip

cdef enum:
    WAYS = 4                    # buckets in a set, which is one cache line
    KEY_HEAD = 3                # kind, view, size of the address
    LONGEST_IP = 16
    RECORD_HEAD = 10            # type, class, TTL and length of a record
    TC_HIGH = 0x02
    RCODE_NXDOMAIN = 3
    TYPE_NS = 2

cdef int64_t MOST_DEBT = 0x7fffffff

KINDS = ("answers", "referrals", "nodata", "nxdomain", "errors", "all", "unverified", "verified")
VERDICTS = ("logged", "dropped", "truncated", "refused")
ACTIONS = {"drop": RATE_DROP, "truncate": RATE_TRUNCATE, "refuse": RATE_REFUSE}
assert set(ACTIONS) == set(QUERY_ACTIONS)


cdef RateBucket *find_bucket(RateTable *table, uint64_t hashed, int32_t rate, uint32_t now) noexcept nogil:
    """The bucket of the key with this hash, made when there is none."""
    cdef RateBucket *first = table.buckets + (hashed & table.mask) * WAYS
    cdef RateBucket *chosen = NULL
    cdef uint32_t tag = <uint32_t>(hashed >> 32) | 1
    cdef uint32_t age, oldest = 0
    cdef bint limiting, spare = False
    cdef int i
    for i in range(WAYS):
        if first[i].tag == tag:
            return first + i
    for i in range(WAYS):
        if first[i].tag == 0:
            chosen = first + i
            break
        age = now - first[i].second
        limiting = first[i].balance < 0
        # A bucket without debt goes before one with debt; of equal ones the oldest goes.
        if chosen is NULL or (spare < (not limiting)) or (spare == (not limiting) and age > oldest):
            chosen, oldest, spare = first + i, age, not limiting
    if chosen.tag and chosen.balance < 0:
        table.evicted += 1
    chosen[0] = RateBucket(tag, now, rate, 0)
    return chosen


cdef uint32_t take_token(RateTable *table, uint64_t hashed, int32_t rate, int64_t window,
                         int64_t seconds) noexcept nogil:
    """Take one token of a key: 0 when it had one, else how often in a row it has been limited."""
    cdef uint32_t now = <uint32_t>seconds
    cdef RateBucket *bucket = find_bucket(table, hashed, rate, now)
    cdef int64_t balance = bucket.balance
    cdef uint32_t elapsed = now - bucket.second
    if elapsed > <uint32_t>MOST_DEBT:
        bucket.second = now                                # the clock was set back
    elif elapsed:
        balance += <int64_t>elapsed * rate
        bucket.second = now
    balance = min(balance, <int64_t>rate) - 1
    if balance >= 0:
        bucket.balance = <int32_t>balance
        bucket.limited = 0
        return 0
    bucket.balance = <int32_t>max(balance, -min(window * rate, MOST_DEBT))
    bucket.limited += 1
    return bucket.limited


cdef size_t begin_key(const RateState *state, int kind, size_t view, const uint8_t *ip, size_t ip_size,
                      uint8_t *key) noexcept nogil:
    """Write kind, view and client prefix; the size of what was written."""
    cdef int bits = state.bits4 if ip_size == 4 else state.bits6
    cdef size_t whole = bits >> 3
    key[0] = kind
    key[1] = <uint8_t>view
    key[2] = <uint8_t>ip_size
    memset(key + KEY_HEAD, 0, ip_size)
    memcpy(key + KEY_HEAD, ip, whole)
    if bits & 7:
        key[KEY_HEAD + whole] = ip[whole] & (0xff << (8 - (bits & 7)))
    return KEY_HEAD + ip_size


cdef Py_ssize_t first_authority(const uint8_t *reply, size_t size, size_t at) noexcept nogil:
    """The offset of the first authority record of a reply whose answer section begins at `at`; below 0 without one."""
    cdef int left = get16(reply + 6)
    if get16(reply + 8) == 0:
        return -1
    while True:
        if left == 0:
            return <Py_ssize_t>at if at < size else -1
        left -= 1
        while at < size and 0 < reply[at] < 64:
            at += reply[at] + 1
        if at >= size:
            return -1
        at += 1 if reply[at] == 0 else 2
        if at + RECORD_HEAD > size:
            return -1
        at += RECORD_HEAD + get16(reply + at + 8)


cdef int kind_of(const uint8_t *reply, size_t size, uint8_t *name, size_t *name_size) noexcept nogil:
    """The kind of a reply, and for what it counts: lower-case name and type of the question, or the zone."""
    cdef int rcode = reply[3] & 0xf
    cdef Py_ssize_t length, after = 0, at
    cdef int kind
    name_size[0] = 0
    if rcode != 0 and rcode != RCODE_NXDOMAIN:
        return RATE_ERRORS
    if get16(reply + 4) != 1:
        return RATE_ERRORS
    length = name_length(reply + HEADER_SIZE, size - HEADER_SIZE)
    if length < 0 or HEADER_SIZE + <size_t>length + 4 > size:
        return RATE_ERRORS
    if rcode == 0 and (get16(reply + 6) or reply[2] & TC_HIGH):
        name_lower(name, reply + HEADER_SIZE, length)
        memcpy(name + length, reply + HEADER_SIZE + length, 2)
        name_size[0] = length + 2
        return RATE_ANSWERS
    kind = RATE_NODATA if rcode == 0 else RATE_NXDOMAIN
    at = first_authority(reply, size, HEADER_SIZE + length + 4)
    if at < 0:
        return kind
    length = name_expand(reply, size, at, size, name, &after)
    if length > 0:
        name_lower(name, name, length)
        name_size[0] = length
        if rcode == 0 and <size_t>after + 2 <= size and get16(reply + after) == TYPE_NS:
            kind = RATE_REFERRALS
    return kind


cdef bint is_exempt(const RateState *state, const uint8_t *ip, size_t ip_size) noexcept nogil:
    return (state.exempt is not NULL
            and access_lookup_ip(state.exempt, ip, ip_size) & ACCESS_DECISION == ACCESS_ALLOW)


cdef int note(RateState *state, int verdict, int kind, uint32_t limited, const uint8_t *key) noexcept nogil:
    """Count a query or reply that exceeds a limit, and note its prefix when it is the first in a row, once until
    `take_events`."""
    cdef RateTable *table = state.table
    cdef RateEvent *event
    cdef size_t at
    if state.log_only:
        verdict = RATE_PASS
    table.counts[verdict][kind] += 1
    if limited == 1:
        for at in range(table.event_count):
            event = table.events + at
            if event.kind == kind and event.ip_size == key[2] and not memcmp(event.ip, key + KEY_HEAD, key[2]):
                return verdict
    if limited == 1 and table.event_count < table.event_limit:
        event = table.events + table.event_count
        table.event_count += 1
        event.kind, event.verdict, event.ip_size = kind, verdict, key[2]
        memcpy(event.ip, key + KEY_HEAD, key[2])
    return verdict


cdef int charge(RateState *state, int kind, const uint8_t *key, size_t size, int32_t rate, int64_t window, uint32_t slip,
                int verdict, int64_t now) noexcept nogil:
    """Take a token of a key; RATE_PASS, or when it has none `verdict`, for each `slip`-th time RATE_TRUNCATE."""
    cdef uint64_t hashed = siphash13(state.table.key[0], state.table.key[1], key, size)
    cdef uint32_t limited
    cdef int found = RATE_PASS
    pthread_mutex_lock(&state.table.lock)
    limited = take_token(state.table, hashed, rate, window, now)
    if limited:
        found = note(state, RATE_TRUNCATE if slip and limited % slip == 0 else verdict, kind, limited, key)
    pthread_mutex_unlock(&state.table.lock)
    return found


cdef int rate_of_query(RateState *state, size_t view, bint verified, const uint8_t *ip, size_t ip_size,
                       int64_t now) noexcept nogil:
    """What to do with a query of the client `ip` (4 or 16 octets; of another size it is not limited)."""
    cdef int kind = RATE_VERIFIED if verified else RATE_QUERIES
    cdef int32_t rate = state.rates[(view if view < state.views else 0) * RATE_KINDS + kind]
    cdef uint8_t key[KEY_HEAD + LONGEST_IP]
    cdef size_t size
    if rate == 0 or not simple_ip(&ip, &ip_size) or is_exempt(state, ip, ip_size):
        return RATE_PASS
    size = begin_key(state, kind, view, ip, ip_size, key)
    return charge(state, kind, key, size, rate, 0, 0, state.action, now)


cdef int rate_of_reply(RateState *state, size_t view, const uint8_t *ip, size_t ip_size, int64_t now,
                       const uint8_t *reply, size_t size) noexcept nogil:
    """What to do with a reply to the unverified client `ip`. RATE_TRUNCATE for an error means to send it as it is."""
    cdef const int32_t *rates = state.rates + (view if view < state.views else 0) * RATE_KINDS
    cdef uint8_t key[KEY_HEAD + LONGEST_IP + NAME_MAX + 2]
    cdef uint8_t name[NAME_MAX + 2]
    cdef size_t key_size, name_size
    cdef int kind, verdict
    if size < HEADER_SIZE or not simple_ip(&ip, &ip_size) or is_exempt(state, ip, ip_size):
        return RATE_PASS
    if rates[RATE_ALL]:
        key_size = begin_key(state, RATE_ALL, view, ip, ip_size, key)
        verdict = charge(state, RATE_ALL, key, key_size, rates[RATE_ALL], state.window, 0, RATE_DROP, now)
        if verdict == RATE_DROP:
            return verdict
    kind = kind_of(reply, size, name, &name_size)
    if rates[kind] == 0:
        return RATE_PASS
    key_size = begin_key(state, kind, view, ip, ip_size, key)
    memcpy(key + key_size, name, name_size)
    key_size += name_size
    return charge(state, kind, key, key_size, rates[kind], state.window, state.slip, RATE_DROP, now)


@cython.final
cdef class RateBuckets:
    """The buckets and counters, which outlive the settings.

    `entries` is rounded up to a power of two; `seed` is the key of the hash (16 bytes), random when None.

    Raises:
        ValueError: `entries` is outside `limits.RATE_ENTRIES`.
    """

    def __cinit__(self, size_t entries=limits.RATE_ENTRIES.default, bytes seed=None):
        cdef size_t sets = 1
        limits.RATE_ENTRIES.check(entries, "table_entries")
        while sets * WAYS < entries:
            sets *= 2
        memset(&self.table, 0, sizeof(self.table))
        pthread_mutex_init(&self.table.lock, NULL)
        self.table.buckets = <RateBucket *>calloc(sets * WAYS, sizeof(RateBucket))
        self.table.event_limit = limits.RATE_EVENTS
        self.table.events = <RateEvent *>calloc(self.table.event_limit, sizeof(RateEvent))
        if self.table.buckets is NULL or self.table.events is NULL:
            raise MemoryError("table of rate limits")
        self.table.mask = sets - 1
        key = os.urandom(16) if seed is None else seed
        if len(key) != 16:
            raise ValueError("the key of the hash has 16 bytes")
        memcpy(self.table.key, PyBytes_AS_STRING(key), 16)

    def __dealloc__(self):
        free(self.table.buckets)
        free(self.table.events)
        pthread_mutex_destroy(&self.table.lock)

    @property
    def entries(self):
        """Number of buckets."""
        return (self.table.mask + 1) * WAYS


@cython.final
cdef class RateLimits:
    """The limits of one configuration: `settings` (`RateLimitSettings`), and those of each view by number.

    `views` has the settings of views 1, 2 and so on. `buckets` are those in use; others are made when their number
    differs from `settings.table_entries`.
    """

    def __cinit__(self, settings, views=(), RateBuckets buckets=None, bytes seed=None):
        cdef size_t number
        cdef int kind
        every = [settings, *views]
        if buckets is None or not buckets.entries // 2 < settings.table_entries <= buckets.entries:
            buckets = RateBuckets(settings.table_entries, seed)
        self.buckets = buckets
        memset(&self.state, 0, sizeof(self.state))
        self.rates = <int32_t *>calloc(len(every) * RATE_KINDS, sizeof(int32_t))
        if self.rates is NULL:
            raise MemoryError("rate limits")
        for number, one in enumerate(every):
            rates = (*one.of_replies, one.queries_per_second, one.verified_queries_per_second)
            for kind in range(RATE_KINDS):
                self.rates[number * RATE_KINDS + kind] = rates[kind]
                if kind in (RATE_QUERIES, RATE_VERIFIED):
                    self.state.limits_queries |= rates[kind] != 0
                else:
                    self.state.limits_replies |= rates[kind] != 0
        self.state.table = &buckets.table
        self.state.rates = self.rates
        self.state.views = len(every)
        if settings.exempt:
            self.exempt = AccessTable(settings.exempt)
            self.state.exempt = &(<AccessTable>self.exempt).table
        self.state.action = ACTIONS[settings.queries_action]
        self.state.window = settings.window
        self.state.slip = settings.slip
        self.state.bits4 = settings.ipv4_prefix
        self.state.bits6 = settings.ipv6_prefix
        self.state.log_only = settings.log_only

    def __dealloc__(self):
        free(self.rates)

    @property
    def active(self):
        """Whether anything is limited."""
        return self.state.limits_queries or self.state.limits_replies

    @property
    def limits_replies(self):
        """Whether replies are limited."""
        return self.state.limits_replies

    def statistics(self):
        """Counters since the start: what exceeded a limit, as ``replies_ACTION`` and ``queries_ACTION`` by kind, and
        ``buckets_evicted``."""
        cdef int verdict
        cdef uint64_t *counts
        found = {}
        for verdict in range(RATE_VERDICTS):
            counts = self.state.table.counts[verdict]
            word = VERDICTS[verdict]
            found[f"queries_{word}"] = {KINDS[i]: counts[i] for i in range(RATE_QUERIES, RATE_KINDS)}
            if verdict != RATE_REFUSE:
                found[f"replies_{word}"] = {KINDS[i]: counts[i] for i in range(RATE_QUERIES)}
        found["buckets_evicted"] = self.state.table.evicted
        return found

    def take_events(self):
        """The prefixes that newly exceeded a limit since the last call: (prefix, kind of `KINDS`, word of `VERDICTS`).

        At most `limits.RATE_EVENTS` are kept; the counters have all."""
        cdef size_t index, count
        cdef RateTable *table = self.state.table
        cdef RateEvent *events = <RateEvent *>malloc(table.event_limit * sizeof(RateEvent))
        if events is NULL:
            raise MemoryError("events of rate limits")
        pthread_mutex_lock(&table.lock)
        count = table.event_count
        memcpy(events, table.events, count * sizeof(RateEvent))
        table.event_count = 0
        pthread_mutex_unlock(&table.lock)
        try:
            return [self.describe(events + index) for index in range(count)]
        finally:
            free(events)

    cdef tuple describe(self, const RateEvent *event):
        bits = self.state.bits4 if event.ip_size == 4 else self.state.bits6
        address = ipaddress.ip_address((<char *>event.ip)[:event.ip_size])
        return f"{address}/{bits}", KINDS[event.kind], VERDICTS[event.verdict]
