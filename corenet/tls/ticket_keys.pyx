"""Session ticket keys of server contexts: several processes may share them, and change them at the same time.

Without this, OpenSSL draws a key for each context, keeps it as long as the context, and no other process accepts its
tickets. A key has 80 bytes: 16 of its name, which each ticket begins with, 32 of HMAC-SHA-256 and 32 of AES-256-CBC
(RFC 5077 section 4). The first key of a context encrypts new tickets; all of them decrypt. A ticket of another key than
the first is renewed, and with TLS 1.3 each ticket, because one that is used twice shows that both connections are of
the same client (RFC 8446 appendix C.4).

OpenSSL asks through a callback, which may run without the GIL and after the Python context was freed. So the keys are
in C memory that belongs to the `SSL_CTX`, as staples are (`corenet.tls.stapling`), and are overwritten before it is
freed. The callback has the HMAC type of OpenSSL 1.1.1, which 3.x has, too; where a build lacks one of the functions,
`missing` says so. There is no .pxd, because only Python code calls this.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_release_lock, PyThread_type_lock, WAIT_LOCK,
)
from libc.stddef cimport size_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from corenet.tls.libssl cimport (
    CRYPTO_EX_INDEX_SSL_CTX, SSL_CTRL_SET_TLSEXT_TICKET_KEY_CB, TLS1_3_VERSION, Callback, LibSSL, context_of,
    find_function, libssl,
)

__all__ = ["install_keys", "missing"]

cdef extern from "Python.h":
    # Declared here because Cython's own declaration lacks `nogil`.
    void PyThread_free_lock(PyThread_type_lock lock) nogil

cdef enum:
    NAME = 16           # as the IV of AES
    SECRET = 32
    KEY = 80            # name, HMAC, AES
    MOST_KEYS = 4
    BAD = -1            # the handshake fails
    UNKNOWN = 0         # a full handshake
    GOOD = 1
    RENEW = 2           # and the client gets a new ticket

cdef struct Keys:
    PyThread_type_lock lock
    int count
    unsigned char data[MOST_KEYS * KEY]

cdef struct Functions:
    int (*SSL_version)(void *connection) noexcept nogil
    int (*RAND_bytes)(unsigned char *buffer, int size) noexcept nogil
    void *(*EVP_sha256)() noexcept nogil
    void *(*EVP_aes_256_cbc)() noexcept nogil
    int (*EVP_EncryptInit_ex)(
        void *cipher, void *kind, void *engine, const unsigned char *key, const unsigned char *iv) noexcept nogil
    int (*EVP_DecryptInit_ex)(
        void *cipher, void *kind, void *engine, const unsigned char *key, const unsigned char *iv) noexcept nogil
    int (*HMAC_Init_ex)(void *hmac, const void *key, int size, void *kind, void *engine) noexcept nogil
    void (*OPENSSL_cleanse)(void *data, size_t size) noexcept nogil

# In the order of `Functions`.
NAMES = [
    b"SSL_version", b"RAND_bytes", b"EVP_sha256", b"EVP_aes_256_cbc", b"EVP_EncryptInit_ex", b"EVP_DecryptInit_ex",
    b"HMAC_Init_ex", b"OPENSSL_cleanse",
]

cdef Functions functions
cdef bint complete = False
# Index of our pointer in the extra data of an `SSL_CTX`; -1: not allocated yet.
cdef int ex_data_index = -1


def missing() -> str | None:
    """Look up the functions; return the reason when ticket keys cannot be set. `corenet.tls.libssl.load` must have
    succeeded."""
    global complete
    cdef void **slot = <void **>&functions
    cdef bytes name
    if complete:
        return None
    if sizeof(Functions) != len(NAMES) * sizeof(void *):
        raise AssertionError("the table of functions and the list of their names differ")
    for at, name in enumerate(NAMES):
        slot[at] = find_function(name)
        if slot[at] == NULL:
            return f"OpenSSL's function {name.decode()} cannot be found"
    complete = True
    return None


cdef int ticket_callback(
    void *connection, unsigned char *name, unsigned char *iv, void *cipher, void *hmac, int encrypt
) noexcept nogil:
    """OpenSSL calls this to make a ticket, and to open one."""
    cdef LibSSL *lib = libssl()
    cdef Keys *keys = <Keys *>lib.SSL_CTX_get_ex_data(lib.SSL_get_SSL_CTX(connection), ex_data_index)
    cdef unsigned char *key
    cdef int answer = UNKNOWN
    cdef int at
    if keys == NULL:
        return BAD if encrypt else UNKNOWN  # an SNI callback has chosen a context without keys
    PyThread_acquire_lock(keys.lock, WAIT_LOCK)
    if encrypt:
        key = keys.data
        memcpy(name, key, NAME)
        answer = BAD
        if (
            functions.RAND_bytes(iv, NAME) > 0
            and functions.EVP_EncryptInit_ex(
                cipher, functions.EVP_aes_256_cbc(), NULL, key + NAME + SECRET, iv) > 0
            and functions.HMAC_Init_ex(hmac, key + NAME, SECRET, functions.EVP_sha256(), NULL) > 0
        ):
            answer = GOOD
    else:
        for at in range(keys.count):
            key = keys.data + at * KEY
            if memcmp(key, name, NAME) == 0:
                answer = BAD
                if (
                    functions.EVP_DecryptInit_ex(
                        cipher, functions.EVP_aes_256_cbc(), NULL, key + NAME + SECRET, iv) > 0
                    and functions.HMAC_Init_ex(hmac, key + NAME, SECRET, functions.EVP_sha256(), NULL) > 0
                ):
                    answer = RENEW if at or functions.SSL_version(connection) == TLS1_3_VERSION else GOOD
                break
    PyThread_release_lock(keys.lock)
    return answer


cdef void free_keys(void *parent, void *pointer, void *ad, int index, long argl, void *argp) noexcept nogil:
    """OpenSSL calls this when it frees the `SSL_CTX`."""
    cdef Keys *keys = <Keys *>pointer
    if keys != NULL:
        functions.OPENSSL_cleanse(keys.data, sizeof(keys.data))
        PyThread_free_lock(keys.lock)
        free(keys)


def install_keys(context: object, given: list[bytes]) -> None:
    """Make later handshakes of `context` use these keys. `missing` must have returned None.

    Raises:
        ValueError: there is no key, there are too many, or one has another size.
    """
    global ex_data_index
    cdef LibSSL *lib = libssl()
    cdef void *address = context_of(context)
    cdef Keys *keys
    cdef bytes key
    cdef int at = 0, count = len(given)
    cdef unsigned char[MOST_KEYS * KEY] fresh
    if not 1 <= count <= MOST_KEYS:
        raise ValueError(f"a context has 1 to {MOST_KEYS} session ticket keys, not {count}")
    for key in given:
        if len(key) != KEY:
            raise ValueError(f"a session ticket key has {KEY} bytes, not {len(key)}")
    if ex_data_index < 0:
        ex_data_index = lib.CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_SSL_CTX, 0, NULL, NULL, NULL, free_keys)
        if ex_data_index < 0:
            raise MemoryError
    keys = <Keys *>lib.SSL_CTX_get_ex_data(address, ex_data_index)
    if keys == NULL:
        keys = <Keys *>calloc(1, sizeof(Keys))
        if keys == NULL:
            raise MemoryError
        keys.lock = PyThread_allocate_lock()
        if keys.lock == NULL or not lib.SSL_CTX_set_ex_data(address, ex_data_index, keys):
            if keys.lock != NULL:
                PyThread_free_lock(keys.lock)
            free(keys)
            raise MemoryError
    for key in given:
        memcpy(fresh + at * KEY, PyBytes_AS_STRING(key), KEY)
        at += 1
    with nogil:
        PyThread_acquire_lock(keys.lock, WAIT_LOCK)
        functions.OPENSSL_cleanse(keys.data, sizeof(keys.data))
        memcpy(keys.data, fresh, count * KEY)
        keys.count = count
        PyThread_release_lock(keys.lock)
        functions.OPENSSL_cleanse(fresh, sizeof(fresh))
    # The callback is set last: from here on it finds keys.
    lib.SSL_CTX_callback_ctrl(address, SSL_CTRL_SET_TLSEXT_TICKET_KEY_CB, <Callback>ticket_callback)
