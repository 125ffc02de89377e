"""Stapling in a server: the OCSP response that its context sends to clients that request one.

OpenSSL gets the response through a callback, which may run without the GIL and after the Python context was freed. So
the response is in C memory that belongs to the `SSL_CTX` and is freed with it. A lock protects it, because a reload may
replace it during a callback. An expired response is not sent: clients refuse a stale staple, but mostly accept none.
There is no .pxd, because only Python code calls this, when a server starts or reloads.
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

__all__ = ["certificates_of", "install_staple"]

cdef extern from "Python.h":
    # Declared here because Cython's own declaration lacks `nogil`.
    void PyThread_free_lock(PyThread_type_lock lock) nogil

cdef struct Stapled:
    PyThread_type_lock lock
    unsigned char *data     # NULL: no staple is sent
    size_t length
    long until              # seconds since the epoch

# Index of our pointer in the extra data of an `SSL_CTX`; -1: not allocated yet.
cdef int ex_data_index = -1


cdef int staple_callback(void *connection, void *argument) noexcept nogil:
    """OpenSSL calls this when a client has requested a staple."""
    cdef LibSSL *lib = libssl()
    cdef Stapled *stapled = <Stapled *>argument
    cdef int answer = SSL_TLSEXT_ERR_NOACK
    cdef void *copy
    PyThread_acquire_lock(stapled.lock, WAIT_LOCK)
    if stapled.data != NULL and time(NULL) < stapled.until:
        # OpenSSL frees the copy.
        copy = lib.CRYPTO_malloc(stapled.length, b"corenet", 0)
        if copy != NULL:
            memcpy(copy, stapled.data, stapled.length)
            lib.SSL_ctrl(connection, SSL_CTRL_SET_TLSEXT_STATUS_OCSP_RESPONSE, <long>stapled.length, copy)
            answer = SSL_TLSEXT_ERR_OK
    PyThread_release_lock(stapled.lock)
    return answer


cdef void free_stapled(void *parent, void *pointer, void *ad, int index, long argl, void *argp) noexcept nogil:
    """OpenSSL calls this when it frees the `SSL_CTX`."""
    cdef Stapled *stapled = <Stapled *>pointer
    if stapled != NULL:
        PyThread_free_lock(stapled.lock)
        free(stapled.data)
        free(stapled)


def install_staple(context: object, response: bytes | None, until: float) -> None:
    """Make later handshakes of `context` staple `response` until `until`, in seconds since the epoch; None stops
    stapling. `corenet.tls.libssl.load` must have succeeded."""
    global ex_data_index
    cdef LibSSL *lib = libssl()
    cdef void *address = context_of(context)
    cdef Stapled *stapled
    cdef unsigned char *data = NULL
    cdef unsigned char *former
    cdef size_t length = 0
    if ex_data_index < 0:
        ex_data_index = lib.CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_SSL_CTX, 0, NULL, NULL, NULL, free_stapled)
        if ex_data_index < 0:
            raise MemoryError
    stapled = <Stapled *>lib.SSL_CTX_get_ex_data(address, ex_data_index)
    if stapled == NULL:
        stapled = <Stapled *>calloc(1, sizeof(Stapled))
        if stapled == NULL:
            raise MemoryError
        stapled.lock = PyThread_allocate_lock()
        if stapled.lock == NULL or not lib.SSL_CTX_set_ex_data(address, ex_data_index, stapled):
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
    """The server's certificate of a context, then its chain certificates, in DER; empty when it has no certificate."""
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
