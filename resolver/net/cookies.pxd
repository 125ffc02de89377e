# C interface of cookies: verify a client's cookie and make the one for the reply, without the GIL.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t

from resolver.wire.consts cimport COOKIE_CLIENT_SIZE

cdef enum:
    COOKIE_SIZE = 24            # client cookie, then the server's: version, reserved, time, hash (RFC 9018 section 4)
    COOKIE_OPTION_SIZE = 28

cdef enum CookieVerdict:
    COOKIE_CLIENT = 0           # a client cookie alone
    COOKIE_BAD = 1              # a server cookie that is not ours, or expired
    COOKIE_GOOD = 2

# A plain structure, so that code without the GIL touches no Python object. Keys: current and second.
cdef struct CookieState:
    uint64_t keys[2][2]
    int64_t since               # the keys are valid from `since` until before `until`, seconds since 1970
    int64_t until
    bint required               # UDP clients get no answer without a valid cookie
    uint64_t clients            # cookies made for clients that had no server cookie
    uint64_t bad
    uint64_t good
    uint64_t challenged         # how many of all these got BADCOOKIE or TC instead of an answer

cdef CookieVerdict verify_server_cookie(const CookieState *state, const uint8_t *cookie, size_t size, const uint8_t *ip,
                                        size_t ip_size, int64_t now) noexcept nogil
cdef void make_server_cookie(CookieState *state, CookieVerdict verdict, const uint8_t *cookie, const uint8_t *ip,
                             size_t ip_size, int64_t now, uint8_t *out) noexcept nogil


cdef class ServerCookies:
    cdef CookieState state
    cdef bytes seed
    cdef int64_t period

    cdef int set_key(self, int index, bytes secret) except -1
