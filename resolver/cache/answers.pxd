# C interface of the answer cache: from a query to its complete reply, without the GIL.
# For batches: call `answers_prepare` for all queries first, which prefetches their cache lines, then render each.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from resolver.cache.lookup cimport TableView
from resolver.cache.table cimport Table
from resolver.wire.message cimport QueryInfo

cdef enum:
    ANSWER_KEY = 272            # 255 of name, type (2), marks (1), 10 more for other classes or views, serial (4)

cdef enum:
    ANSWER_VIEWS = 0xFFFF       # bits of the key that hold the number of the view; the digest has the others

cdef enum:
    ANSWER_NONE = 0
    ANSWER_PYTHON = -1          # cannot be answered here: EDNS version above 0, or no space for header and question

ctypedef struct AnswerContext:
    TableView *table
    uint64_t rules              # digest of what the answers depend on besides the question, 0 in ANSWER_VIEWS; 0: none
    uint16_t payload
    bint rotate                 # whether the addresses of each reply begin with another one

ctypedef struct AnswerKey:
    uint64_t hash
    uint32_t size
    uint32_t opt_at             # offset of OPT in the rendered reply; 0 without
    uint32_t left               # remaining seconds of the rendered answer
    bint due                    # it expires soon: the caller that gets `answers_claim_prefetch` renews it
    uint64_t *slot
    uint64_t slot_value
    uint8_t data[272]

cdef void answers_prepare(const AnswerContext *context, const QueryInfo *q, uint64_t view,
                          AnswerKey *key) noexcept nogil
cdef int answers_render_key(const AnswerContext *context, AnswerKey *key, const QueryInfo *q,
                            int64_t now_seconds, uint8_t *out, size_t cap, size_t client_limit) noexcept nogil
cdef bint answers_claim_prefetch(const AnswerKey *key) noexcept nogil
cdef int answers_add_option(const AnswerKey *key, uint8_t *out, int length, size_t limit, uint16_t code,
                            const uint8_t *data, uint16_t size) noexcept nogil
cdef void rotate_addresses(uint8_t *body, uint32_t size, const uint8_t *offsets, uint32_t records,
                           uint64_t turn) noexcept nogil
cdef class AnswerCache:
    cdef AnswerContext context
    cdef readonly Table table
    cdef int find_left(self, const QueryInfo *q, uint64_t view, int64_t now) noexcept nogil
    cdef void *handle(self) noexcept
