"""Stapling by a server: the OCSP response that its context hands to clients that ask for one.

OpenSSL asks by a callback, which may run without the GIL and after the Python context is gone: the response lies in C
memory that belongs to the `SSL_CTX` and is freed with it. A lock guards it, since it may be replaced meanwhile. When its
time is over it is not sent any more: a stale staple is refused by clients, none is not. There is no .pxd: this is called
when a server starts or reloads.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_release_lock, PyThread_type_lock, WAIT_LOCK,
)
from libc.stddef cimport size_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from libc.time cimport time

from corenet.tls.libssl cimport (
    CRYPTO_EX_INDEX_SSL_CTX, SSL_CTRL_GET_EXTRA_CHAIN_CERTS, SSL_CTRL_SET_TLSEXT_STATUS_ARGUMENT,
    SSL_CTRL_SET_TLSEXT_STATUS_CALLBACK, SSL_CTRL_SET_TLSEXT_STATUS_OCSP_RESPONSE, SSL_TLSEXT_ERR_NOACK,
    SSL_TLSEXT_ERR_OK, Callback, LibSSL, context_of, libssl,
)

__all__ = ["certificates_of", "hand_out"]

cdef extern from "Python.h":
    # Needs no GIL, which Cython's own declaration does not say.
    void PyThread_free_lock(PyThread_type_lock lock) nogil

cdef struct Stapled:
    PyThread_type_lock lock
    unsigned char *data     # NULL: nothing is handed out
    size_t length
    long until              # seconds since the epoch

# The place of a context's response among what its users have attached to it; -1: not asked for yet.
cdef int place = -1


cdef int staple_callback(void *connection, void *argument) noexcept nogil:
    """A client has asked."""
    cdef LibSSL *lib = libssl()
    cdef Stapled *stapled = <Stapled *>argument
    cdef int answer = SSL_TLSEXT_ERR_NOACK
    cdef void *copy
    PyThread_acquire_lock(stapled.lock, WAIT_LOCK)
    if stapled.data != NULL and time(NULL) < stapled.until:
        # OpenSSL frees it.
        copy = lib.CRYPTO_malloc(stapled.length, b"corenet", 0)
        if copy != NULL:
            memcpy(copy, stapled.data, stapled.length)
            lib.SSL_ctrl(connection, SSL_CTRL_SET_TLSEXT_STATUS_OCSP_RESPONSE, <long>stapled.length, copy)
            answer = SSL_TLSEXT_ERR_OK
    PyThread_release_lock(stapled.lock)
    return answer


cdef void free_stapled(void *parent, void *pointer, void *ad, int index, long argl, void *argp) noexcept nogil:
    """The context ends."""
    cdef Stapled *stapled = <Stapled *>pointer
    if stapled != NULL:
        PyThread_free_lock(stapled.lock)
        free(stapled.data)
        free(stapled)


def hand_out(context: object, response: bytes | None, until: float) -> None:
    """Have the connections of `context` from now on staple `response` until `until`, in seconds since the epoch; None:
    nothing. `corenet.tls.libssl.load` has succeeded."""
    global place
    cdef LibSSL *lib = libssl()
    cdef void *address = context_of(context)
    cdef Stapled *stapled
    cdef unsigned char *data = NULL
    cdef unsigned char *former
    cdef size_t length = 0
    if place < 0:
        place = lib.CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_SSL_CTX, 0, NULL, NULL, NULL, free_stapled)
        if place < 0:
            raise MemoryError
    stapled = <Stapled *>lib.SSL_CTX_get_ex_data(address, place)
    if stapled == NULL:
        stapled = <Stapled *>calloc(1, sizeof(Stapled))
        if stapled == NULL:
            raise MemoryError
        stapled.lock = PyThread_allocate_lock()
        if stapled.lock == NULL or not lib.SSL_CTX_set_ex_data(address, place, stapled):
            if stapled.lock != NULL:
                PyThread_free_lock(stapled.lock)
            free(stapled)
            raise MemoryError
        lib.SSL_CTX_ctrl(address, SSL_CTRL_SET_TLSEXT_STATUS_ARGUMENT, 0, stapled)
        lib.SSL_CTX_callback_ctrl(address, SSL_CTRL_SET_TLSEXT_STATUS_CALLBACK, <Callback>staple_callback)
    if response is not None:
        length = PyBytes_GET_SIZE(response)
        data = <unsigned char *>malloc(max(length, <size_t>1))
        if data == NULL:
            raise MemoryError
        memcpy(data, PyBytes_AS_STRING(response), length)
    with nogil:
        PyThread_acquire_lock(stapled.lock, WAIT_LOCK)
        former = stapled.data
        stapled.data = data
        stapled.length = length
        stapled.until = <long>until
        PyThread_release_lock(stapled.lock)
        free(former)


def certificates_of(context: object) -> list[bytes]:
    """The server's certificate of a context and those that it sends along, in DER; empty when it has none."""
    cdef LibSSL *lib = libssl()
    cdef void *address = context_of(context)
    cdef void *certificate = lib.SSL_CTX_get0_certificate(address)
    cdef void *chain = NULL
    cdef int at
    if certificate == NULL:
        return []
    found = [encoded(certificate)]
    lib.SSL_CTX_ctrl(address, SSL_CTRL_GET_EXTRA_CHAIN_CERTS, 0, &chain)
    if chain != NULL:
        for at in range(lib.OPENSSL_sk_num(chain)):
            found.append(encoded(lib.OPENSSL_sk_value(chain, at)))
    return found


cdef bytes encoded(void *certificate):
    cdef unsigned char *data = NULL
    cdef unsigned char *end
    cdef int length = libssl().i2d_X509(certificate, NULL)
    if length <= 0:
        raise MemoryError
    data = <unsigned char *>malloc(length)
    if data == NULL:
        raise MemoryError
    end = data
    try:
        length = libssl().i2d_X509(certificate, &end)
        return data[:max(length, 0)]
    finally:
        free(data)
