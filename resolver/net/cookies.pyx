"""Server cookies: they verify that a client receives what is sent to its address (RFC 7873, RFC 9018).

A server cookie is a hash of the client cookie, the client's address and the time, so no state is kept per client.
Every server with the same secret can verify it, as the servers of an anycast address need. Cookies are verified and
made in C without the GIL, so that clients with cookies keep the fast path. Cookies made with either of two secrets are
accepted; new ones are made with the first. Secrets that are not configured are derived from a seed, drawn when the
first process starts, and from the time, so that all workers change them at the same time without communication.
"""

import hashlib
import os

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from resolver import limits

from resolver.net.libc cimport AF_INET, AF_INET6, sockaddr_in, sockaddr_in6, sockaddr_storage
from resolver.net.sockaddr cimport fill_sockaddr
from resolver.wire.hash cimport siphash24
from resolver.wire.octets cimport get32

cdef enum:
    VERSION = 1
    # The hash input is client cookie, version, reserved, timestamp, then the address (RFC 9018 section 4.4).
    HASHED_HEAD = 16
    LONGEST_IP = 16
    # RFC 9018 section 4.3: valid for an hour, and up to five minutes in the future because clocks of servers differ.
    # After half an hour the client gets a new one.
    LIFETIME = 3600
    AHEAD = 300
    RENEWED_AFTER = 1800
    KEY_SIZE = 16

cdef int64_t FOREVER = 0x7fffffffffffffff

# Drawn when the first process starts; workers are forked from it and have the same seed.
SEED = os.urandom(32)


cdef void write_hash(const uint64_t *key, const uint8_t *head, const uint8_t *ip, size_t ip_size,
                     uint8_t *out) noexcept nogil:
    """Write the hash of the first 16 octets of a cookie and the client's address to `out`."""
    cdef uint8_t data[HASHED_HEAD + LONGEST_IP]
    cdef uint64_t hashed
    memcpy(data, head, HASHED_HEAD)
    memcpy(data + HASHED_HEAD, ip, ip_size)
    hashed = siphash24(key[0], key[1], data, HASHED_HEAD + ip_size)
    memcpy(out, &hashed, 8)


cdef CookieVerdict verify_server_cookie(const CookieState *state, const uint8_t *cookie, size_t size, const uint8_t *ip,
                                        size_t ip_size, int64_t now) noexcept nogil:
    """Verify the content of a COOKIE option. The parser has checked its size."""
    cdef uint8_t expected[8]
    cdef uint32_t age
    cdef int i
    if size == COOKIE_CLIENT_SIZE:
        return COOKIE_CLIENT
    if size != COOKIE_SIZE or cookie[8] != VERSION or ip_size > LONGEST_IP:
        return COOKIE_BAD
    # Serial arithmetic: the field wraps in 2106 (RFC 9018 section 4.3, RFC 1982).
    age = <uint32_t>now - get32(cookie + 12)
    if age > LIFETIME and age < <uint32_t>-AHEAD:
        return COOKIE_BAD
    for i in range(2):
        write_hash(state.keys[i], cookie, ip, ip_size, expected)
        if memcmp(expected, cookie + HASHED_HEAD, 8) == 0:
            return COOKIE_GOOD
    return COOKIE_BAD


cdef void make_server_cookie(CookieState *state, CookieVerdict verdict, const uint8_t *cookie, const uint8_t *ip,
                             size_t ip_size, int64_t now, uint8_t *out) noexcept nogil:
    """Write the cookie for the client, `COOKIE_SIZE` octets: its own valid one while that is recent, else a new one."""
    cdef uint32_t seconds = <uint32_t>now
    if verdict == COOKIE_GOOD:
        state.good += 1
        if seconds - get32(cookie + 12) <= RENEWED_AFTER:
            # A cookie made with the previous key is replaced, too, because that key expires next.
            write_hash(state.keys[0], cookie, ip, ip_size, out)
            if memcmp(out, cookie + HASHED_HEAD, 8) == 0:
                memcpy(out, cookie, COOKIE_SIZE)
                return
    elif verdict == COOKIE_BAD:
        state.bad += 1
    else:
        state.clients += 1
    memcpy(out, cookie, COOKIE_CLIENT_SIZE)
    out[8] = VERSION
    memset(out + 9, 0, 3)
    out[12] = <uint8_t>(seconds >> 24)
    out[13] = <uint8_t>(seconds >> 16)
    out[14] = <uint8_t>(seconds >> 8)
    out[15] = <uint8_t>seconds
    write_hash(state.keys[0], out, ip, ip_size, out + HASHED_HEAD)


@cython.final
cdef class ServerCookies:
    """The secrets of server cookies, and counters.

    `secrets` are one or two secrets of 16 bytes. New cookies are made with the first; cookies of both are valid (RFC
    9018 section 5). Without `secrets` they are derived from `seed` and change every `period` seconds. With `required`,
    UDP clients get answers only with a valid cookie.

    Raises:
        ValueError: more than two secrets, or one that is not 16 bytes long.
    """

    def __init__(self, secrets=(), *, bint required=False, int64_t period=limits.COOKIE_PERIOD,
                 bytes seed=SEED):
        cdef int i
        if len(secrets) > 2 or any(len(secret) != KEY_SIZE for secret in secrets):
            raise ValueError("server cookies need one or two secrets of 16 bytes")
        memset(&self.state, 0, sizeof(self.state))
        self.state.required = required
        self.period = period
        self.seed = seed
        if secrets:
            for i in range(2):
                self.set_key(i, secrets[min(i, len(secrets) - 1)])
            self.state.until = FOREVER

    def copy(self):
        """One with the same secrets and its own counters, for code that runs beside this one without the GIL."""
        cdef ServerCookies made = ServerCookies.__new__(ServerCookies)
        made.state = self.state
        made.state.good = made.state.bad = made.state.clients = made.state.challenged = 0
        made.period = self.period
        made.seed = self.seed
        return made

    cdef int set_key(self, int index, bytes secret) except -1:
        memcpy(self.state.keys[index], PyBytes_AS_STRING(secret), KEY_SIZE)
        return 0

    @property
    def required(self):
        """Whether UDP clients need a valid cookie."""
        return self.state.required

    def refresh(self, int64_t now):
        """Derive the secrets for the time `now`. Does nothing while the current ones are valid."""
        cdef int64_t number
        cdef int i
        if self.state.since <= now < self.state.until:
            return
        number = now // self.period
        for i in range(2):
            text = b"%b %d" % (self.seed, number - i)
            self.set_key(i, hashlib.blake2s(text, digest_size=KEY_SIZE).digest())
        self.state.since = number * self.period
        self.state.until = self.state.since + self.period

    def is_good(self, bytes cookie not None, str address not None, int64_t now):
        """Whether `cookie`, the content of a COOKIE option of checked size, is a valid one for `address`."""
        cdef uint8_t ip[LONGEST_IP]
        cdef size_t ip_size = address_bytes(address, ip)
        self.refresh(now)
        return verify_server_cookie(&self.state, <const uint8_t *>PyBytes_AS_STRING(cookie), PyBytes_GET_SIZE(cookie), ip,
                                    ip_size, now) == COOKIE_GOOD

    def answer(self, bytes cookie not None, str address not None, int64_t now):
        """The content of the COOKIE option in the reply to a client that sent `cookie`.

        Raises:
            ValueError: `cookie` is shorter than a client cookie (8 bytes).
        """
        cdef uint8_t ip[LONGEST_IP]
        cdef uint8_t out[COOKIE_SIZE]
        cdef size_t ip_size = address_bytes(address, ip)
        cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(cookie)
        cdef CookieVerdict verdict
        if PyBytes_GET_SIZE(cookie) < COOKIE_CLIENT_SIZE:
            raise ValueError("a cookie has at least 8 bytes")
        self.refresh(now)
        verdict = verify_server_cookie(&self.state, data, PyBytes_GET_SIZE(cookie), ip, ip_size, now)
        make_server_cookie(&self.state, verdict, data, ip, ip_size, now, out)
        return PyBytes_FromStringAndSize(<const char *>out, COOKIE_SIZE)

    def note_challenged(self):
        """Count a client that got BADCOOKIE or TC instead of an answer."""
        self.state.challenged += 1

    def statistics(self):
        """Counters since the start, by name."""
        return {
            "cookies_first": self.state.clients,
            "cookies_good": self.state.good,
            "cookies_bad": self.state.bad,
            "cookies_challenged": self.state.challenged,
        }


cdef size_t address_bytes(str address, uint8_t *out) except? 0:
    """Write the address in network order to `out` and return its size; 0 for an invalid one, for which no cookie is
    valid."""
    cdef sockaddr_storage name
    fill_sockaddr(&name, address)
    if name.ss_family == AF_INET:
        memcpy(out, &(<sockaddr_in *>&name).sin_addr, 4)
        return 4
    if name.ss_family == AF_INET6:
        memcpy(out, &(<sockaddr_in6 *>&name).sin6_addr, 16)
        return 16
    return 0
