# C interface of rate limits: one call for a query, and one for the reply to it, without the GIL.
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from corenet.core.libc cimport pthread_mutex_t
from resolver.policy.access cimport access_table

# What is counted: replies by kind, all replies, and queries without and with a verified address.
cdef enum:
    RATE_ANSWERS = 0
    RATE_REFERRALS = 1
    RATE_NODATA = 2
    RATE_NXDOMAIN = 3
    RATE_ERRORS = 4
    RATE_ALL = 5
    RATE_QUERIES = 6
    RATE_VERIFIED = 7
    RATE_KINDS = 8

cdef enum:
    RATE_PASS = 0
    RATE_DROP = 1
    RATE_TRUNCATE = 2
    RATE_REFUSE = 3
    RATE_VERDICTS = 4

# The tokens of one key. `tag` is a part of the key's hash, 0 for an unused bucket.
cdef struct RateBucket:
    uint32_t tag
    uint32_t second             # when `balance` was counted, seconds since 1970
    int32_t balance             # tokens left; below 0: the key is limited
    uint32_t limited            # how often in a row it was limited

# A prefix that newly exceeded a limit, for the log.
cdef struct RateEvent:
    uint8_t ip[16]
    uint8_t ip_size
    uint8_t kind
    uint8_t verdict

cdef struct RateTable:
    pthread_mutex_t lock        # of all that follows but `mask` and `key`
    RateBucket *buckets
    uint64_t mask               # number of sets of buckets, less one
    uint64_t key[2]             # of the hash
    uint64_t counts[4][8]       # what was limited, by verdict and kind; RATE_PASS: only counted
    uint64_t evicted            # buckets of limited keys that were used for others
    RateEvent *events
    size_t event_count
    size_t event_limit

cdef struct RateState:
    RateTable *table
    const int32_t *rates        # RATE_KINDS for each view
    size_t views
    const access_table *exempt
    bint limits_queries
    bint limits_replies
    int action                  # for queries, RATE_DROP, RATE_TRUNCATE or RATE_REFUSE
    int64_t window
    uint32_t slip
    int bits4
    int bits6
    bint log_only

cdef int rate_of_query(RateState *state, size_t view, bint verified, const uint8_t *ip, size_t ip_size,
                       int64_t now) noexcept nogil
cdef int rate_of_reply(RateState *state, size_t view, const uint8_t *ip, size_t ip_size, int64_t now,
                       const uint8_t *reply, size_t size) noexcept nogil


cdef class RateBuckets:
    cdef RateTable table

cdef class RateLimits:
    cdef RateState state
    cdef readonly RateBuckets buckets
    cdef int32_t *rates
    cdef object exempt

    cdef tuple describe(self, const RateEvent *event)
