"""Server cookies: proof that a client receives what is sent to its address (RFC 7873, RFC 9018).

A cookie is a hash of the client's own cookie, its address and the time, so nothing is kept for any client; whoever has
the secret can check it, which lets the servers of an anycast address share one. Rule: judging and writing a cookie is C
without the GIL, because clients that send cookies must not lose the fast path for it. Two secrets are believed and one
is used; without configured ones they follow from a seed drawn at the start of the first process and from the day, so
that all workers change them at the same moment without a word.
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
    # Client cookie, version, reserved and time stand before the address in what is hashed (RFC 9018 section 4.4).
    HASHED_HEAD = 16
    LONGEST_IP = 16
    # RFC 9018 section 4.3: believed for an hour, and five minutes ahead for servers whose clocks differ; after half an
    # hour the client gets a new one.
    LIFETIME = 3600
    AHEAD = 300
    RENEWED_AFTER = 1800
    KEY_SIZE = 16

cdef int64_t FOREVER = 0x7fffffffffffffff

# Drawn when the first process begins; workers are forked from it and have the same.
SEED = os.urandom(32)


cdef void write_hash(const uint64_t *key, const uint8_t *head, const uint8_t *ip, size_t ip_size,
                     uint8_t *out) noexcept nogil:
    """The hash of the first sixteen octets of a cookie and the client's address."""
    cdef uint8_t data[HASHED_HEAD + LONGEST_IP]
    cdef uint64_t hashed
    memcpy(data, head, HASHED_HEAD)
    memcpy(data + HASHED_HEAD, ip, ip_size)
    hashed = siphash24(key[0], key[1], data, HASHED_HEAD + ip_size)
    memcpy(out, &hashed, 8)


cdef CookieVerdict verify_server_cookie(const CookieState *state, const uint8_t *cookie, size_t size, const uint8_t *ip,
                                        size_t ip_size, int64_t now) noexcept nogil:
    """What the content of a COOKIE option is worth; its size was checked by the parser."""
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
    """Write the `COOKIE_SIZE` octets that the client gets: its good cookie again while that is young, else a new one."""
    cdef uint32_t seconds = <uint32_t>now
    if verdict == COOKIE_GOOD:
        state.good += 1
        if seconds - get32(cookie + 12) <= RENEWED_AFTER:
            # A cookie of the key before is near its end as well, and is made anew.
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
    """The secrets, and what was done with them.

    `secrets` are one or two of 16 bytes each, of which the first makes cookies and all are believed (RFC 9018 section
    5); without any they follow from `seed` and change every `period` seconds. With `required`, UDP clients get an
    answer for a good cookie only.

    Raises:
        ValueError: more than two secrets, or one of another size.
    """

    def __init__(self, secrets=(), *, bint required=False, int64_t period=limits.COOKIE_PERIOD,
                 bytes seed=SEED):
        cdef int i
        if len(secrets) > 2 or any(len(secret) != KEY_SIZE for secret in secrets):
            raise ValueError("cookies are made with one or two secrets of 16 bytes")
        memset(&self.state, 0, sizeof(self.state))
        self.state.required = required
        self.period = period
        self.seed = seed
        if secrets:
            for i in range(2):
                self.set_key(i, secrets[min(i, len(secrets) - 1)])
            self.state.until = FOREVER

    cdef int set_key(self, int index, bytes secret) except -1:
        memcpy(self.state.keys[index], PyBytes_AS_STRING(secret), KEY_SIZE)
        return 0

    @property
    def required(self):
        """Whether UDP clients need a good cookie."""
        return self.state.required

    def refresh(self, int64_t now):
        """Take the secrets of the time `now`; does nothing while those in use hold."""
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
        """Whether the content of a COOKIE option, of a checked size, proves that `address` is the client's."""
        cdef uint8_t ip[LONGEST_IP]
        cdef size_t ip_size = address_bytes(address, ip)
        self.refresh(now)
        return verify_server_cookie(&self.state, <const uint8_t *>PyBytes_AS_STRING(cookie), PyBytes_GET_SIZE(cookie), ip,
                                    ip_size, now) == COOKIE_GOOD

    def answer(self, bytes cookie not None, str address not None, int64_t now):
        """The content of the COOKIE option for a client that sent `cookie`; at least its own eight bytes are there."""
        cdef uint8_t ip[LONGEST_IP]
        cdef uint8_t out[COOKIE_SIZE]
        cdef size_t ip_size = address_bytes(address, ip)
        cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(cookie)
        cdef CookieVerdict verdict
        if PyBytes_GET_SIZE(cookie) < COOKIE_CLIENT_SIZE:
            raise ValueError("a cookie has at least eight bytes")
        self.refresh(now)
        verdict = verify_server_cookie(&self.state, data, PyBytes_GET_SIZE(cookie), ip, ip_size, now)
        make_server_cookie(&self.state, verdict, data, ip, ip_size, now, out)
        return PyBytes_FromStringAndSize(<const char *>out, COOKIE_SIZE)

    def note_challenged(self):
        """Count a client that was sent away without an answer."""
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
    """The bytes of a textual address; none when it is no address, and then no cookie is good."""
    cdef sockaddr_storage name
    fill_sockaddr(&name, address)
    if name.ss_family == AF_INET:
        memcpy(out, &(<sockaddr_in *>&name).sin_addr, 4)
        return 4
    if name.ss_family == AF_INET6:
        memcpy(out, &(<sockaddr_in6 *>&name).sin6_addr, 16)
        return 16
    return 0
