"""C interface of libssl: functions of the library that Python's `_ssl` has loaded, and the `SSL *` of an SSLObject.

`libssl()` is NULL until `load` has succeeded, and never changes after that. The constants are part of OpenSSL's ABI and
do not change between releases.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint64_t

cdef enum:
    SSL_ERROR_WANT_READ = 2
    SSL_ERROR_WANT_WRITE = 3
    SSL_ERROR_ZERO_RETURN = 6
    SSL_SENT_SHUTDOWN = 1
    SSL_CTRL_SET_TLSEXT_STATUS_TYPE = 65
    SSL_CTRL_GET_TLSEXT_STATUS_OCSP_RESPONSE = 70
    SSL_CTRL_SET_TLSEXT_STATUS_OCSP_RESPONSE = 71
    SSL_CTRL_SET_TLSEXT_STATUS_CALLBACK = 63
    SSL_CTRL_SET_TLSEXT_STATUS_ARGUMENT = 64
    SSL_CTRL_GET_EXTRA_CHAIN_CERTS = 82
    TLSEXT_STATUSTYPE_ocsp = 1
    SSL_TLSEXT_ERR_OK = 0
    SSL_TLSEXT_ERR_NOACK = 3
    BIO_CTRL_FLUSH = 11
    BIO_CTRL_PENDING = 10
    BIO_CTRL_WPENDING = 13
    BIO_FLAGS_READ = 1
    BIO_FLAGS_RETRY = 15            # READ, WRITE, IO_SPECIAL and SHOULD_RETRY together
    BIO_FLAGS_SHOULD_RETRY = 8
    BIO_TYPE_SOURCE_SINK = 0x400
    CRYPTO_EX_INDEX_SSL_CTX = 1
    TLS1_3_VERSION = 0x0304

# Objects of OpenSSL are opaque: SSL, SSL_CTX, SSL_SESSION, BIO, X509 and others are all `void`.
ctypedef int (*BioWrite)(void *bio, const char *data, size_t length, size_t *written) noexcept nogil
ctypedef int (*BioRead)(void *bio, char *data, size_t length, size_t *got) noexcept nogil
ctypedef long (*BioCtrl)(void *bio, int command, long number, void *pointer) noexcept nogil
ctypedef int (*BioDestroy)(void *bio) noexcept nogil
ctypedef void (*Callback)() noexcept nogil
ctypedef void (*FreeExData)(void *parent, void *pointer, void *ad, int index, long argl, void *argp) noexcept nogil

cdef struct LibSSL:
    const char *(*OpenSSL_version)(int kind) noexcept nogil
    unsigned long (*ERR_peek_error)() noexcept nogil
    void (*ERR_clear_error)() noexcept nogil

    void *(*TLS_client_method)() noexcept nogil
    void *(*SSL_CTX_get_ssl_method)(void *context) noexcept nogil
    uint64_t (*SSL_CTX_get_options)(void *context) noexcept nogil
    long (*SSL_CTX_ctrl)(void *context, int command, long number, void *pointer) noexcept nogil
    long (*SSL_CTX_callback_ctrl)(void *context, int command, Callback callback) noexcept nogil
    int (*SSL_CTX_set_ex_data)(void *context, int index, void *data) noexcept nogil
    void *(*SSL_CTX_get_ex_data)(void *context, int index) noexcept nogil
    void *(*SSL_CTX_get0_certificate)(void *context) noexcept nogil

    void *(*SSL_get_SSL_CTX)(void *ssl) noexcept nogil
    void *(*SSL_get_rbio)(void *ssl) noexcept nogil
    void *(*SSL_get_wbio)(void *ssl) noexcept nogil
    void (*SSL_set_bio)(void *ssl, void *rbio, void *wbio) noexcept nogil
    const char *(*SSL_get_servername)(void *ssl, int kind) noexcept nogil
    int (*SSL_read_ex)(void *ssl, void *data, size_t length, size_t *got) noexcept nogil
    int (*SSL_write_ex)(void *ssl, const void *data, size_t length, size_t *written) noexcept nogil
    int (*SSL_get_error)(void *ssl, int code) noexcept nogil
    int (*SSL_pending)(void *ssl) noexcept nogil
    int (*SSL_free_buffers)(void *ssl) noexcept nogil
    int (*SSL_get_shutdown)(void *ssl) noexcept nogil
    void (*SSL_set_shutdown)(void *ssl, int mode) noexcept nogil
    int (*SSL_shutdown)(void *ssl) noexcept nogil
    long (*SSL_ctrl)(void *ssl, int command, long number, void *pointer) noexcept nogil

    void *(*SSL_get_session)(void *ssl) noexcept nogil
    void *(*SSL_get1_session)(void *ssl) noexcept nogil
    int (*SSL_set_session)(void *ssl, void *session) noexcept nogil
    int (*SSL_session_reused)(void *ssl) noexcept nogil
    int (*SSL_SESSION_is_resumable)(void *session) noexcept nogil
    void (*SSL_SESSION_free)(void *session) noexcept nogil
    int (*SSL_SESSION_get_protocol_version)(void *session) noexcept nogil
    unsigned long (*SSL_SESSION_get_ticket_lifetime_hint)(void *session) noexcept nogil
    long (*SSL_SESSION_get_timeout)(void *session) noexcept nogil
    void (*SSL_SESSION_get0_ticket)(void *session, const unsigned char **data, size_t *length) noexcept nogil
    void *(*SSL_SESSION_get0_peer)(void *session) noexcept nogil
    void *(*SSL_get_peer_cert_chain)(void *ssl) noexcept nogil
    int (*OPENSSL_sk_num)(void *stack) noexcept nogil
    void *(*OPENSSL_sk_value)(void *stack, int index) noexcept nogil
    int (*i2d_X509)(void *certificate, unsigned char **data) noexcept nogil
    void *(*X509_get0_notAfter)(void *certificate) noexcept nogil
    int (*X509_cmp_current_time)(void *moment) noexcept nogil

    void *(*BIO_s_mem)() noexcept nogil
    int (*BIO_get_new_index)() noexcept nogil
    void *(*BIO_meth_new)(int kind, const char *name) noexcept nogil
    int (*BIO_meth_set_write_ex)(void *method, BioWrite function) noexcept nogil
    int (*BIO_meth_set_read_ex)(void *method, BioRead function) noexcept nogil
    int (*BIO_meth_set_ctrl)(void *method, BioCtrl function) noexcept nogil
    int (*BIO_meth_set_destroy)(void *method, BioDestroy function) noexcept nogil
    void *(*BIO_new)(void *method) noexcept nogil
    int (*BIO_free)(void *bio) noexcept nogil
    int (*BIO_up_ref)(void *bio) noexcept nogil
    void (*BIO_set_data)(void *bio, void *data) noexcept nogil
    void *(*BIO_get_data)(void *bio) noexcept nogil
    void (*BIO_set_init)(void *bio, int value) noexcept nogil
    void (*BIO_set_flags)(void *bio, int flags) noexcept nogil
    void (*BIO_clear_flags)(void *bio, int flags) noexcept nogil

    void *(*CRYPTO_malloc)(size_t size, const char *file, int line) noexcept nogil
    int (*CRYPTO_get_ex_new_index)(
        int kind, long argl, void *argp, void *new_function, void *dup_function, FreeExData free_function
    ) noexcept nogil

cdef LibSSL *libssl() noexcept nogil
cdef void *ssl_of(object core) noexcept
cdef void *context_of(object context) noexcept
