# C interface of match: builds queries and compares replies with them.
from libc.stdint cimport uint8_t, uint16_t

from resolver.net.clock_random cimport Entropy

cdef enum Match:
    MATCH_REPLY = 0
    MATCH_SHORT = 1
    MATCH_NOT_REPLY = 2
    MATCH_WRONG_ID = 3
    MATCH_WRONG_QUESTION = 4
    MATCH_WRONG_CASE = 5
    MATCH_NO_QUESTION = 6              # an error without a question: accepted over TCP only

cdef bytes encode_query(bytes qname, uint16_t qtype, uint16_t identity, uint16_t flags, int payload, bint do_bit,
                        Entropy case_bits, bytes cookie)
cdef object check_upstream_cookie(bytes sent, object edns)
cdef int match_reply(const uint8_t *sent, size_t sent_size, const uint8_t *data, size_t size) noexcept nogil
