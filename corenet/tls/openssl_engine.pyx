"""The TLS engine on libssl: reads and writes the `SSL *` of an SSLObject directly, without Python objects in between.

`SSLContext.wrap_bio` makes the connection and `SSLObject.do_handshake` does the handshake, so contexts behave as in the
standard library. This module uses the same `SSL *` (`corenet.tls.libssl`). It replaces the BIOs with its own, decrypts
records into one bytes object, encrypts into one block of memory, and gets "no complete record" as a return code instead
of an exception.

Invariants:

* `connection` is owned by `ssl_core`, which the engine holds; it never changes.
* At most one call of OpenSSL is in progress per connection: `busy`. The GIL is released only to encrypt large data.
* OpenSSL's error queue belongs to the thread. It is cleared before each call, because `hashlib` and others leave errors
  there, so an error found afterwards belongs to this call.
* After an error the same call is repeated through the standard library. On a failed connection OpenSSL does nothing and
  leaves the queue unchanged, so the standard library raises the exception for the original error.
* `borrowed` is set only during a call. All other buffers are owned by the `Wire`, and an idle connection has none.
"""

import ssl

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memmove

from corenet.tls.engine cimport CONTROL_RECORDS, HEADER, Scanner, TlsEngine, flooded, scan_records
from corenet.tls.libssl cimport (
    BIO_CTRL_FLUSH, BIO_CTRL_PENDING, BIO_CTRL_WPENDING, BIO_FLAGS_READ, BIO_FLAGS_RETRY, BIO_FLAGS_SHOULD_RETRY,
    BIO_TYPE_SOURCE_SINK, SSL_CTRL_GET_TLSEXT_STATUS_OCSP_RESPONSE, SSL_CTRL_SET_TLSEXT_STATUS_TYPE,
    SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE, SSL_ERROR_ZERO_RETURN, SSL_SENT_SHUTDOWN, TLS1_3_VERSION,
    TLSEXT_STATUSTYPE_ocsp, LibSSL, libssl, ssl_of,
)

from corenet.limits import TLS_RELEASE_GIL_SIZE

__all__ = ["OpenSSLEngine", "TlsSession"]

cdef extern from "Python.h":
    PyObject *new_bytes "PyBytes_FromStringAndSize" (const char *data, Py_ssize_t size) except NULL
    char *start_of_bytes "PyBytes_AS_STRING" (PyObject *held)
    int shorten_bytes "_PyBytes_Resize" (PyObject **held, Py_ssize_t size) except -1
    void Py_XDECREF(PyObject *held)

cdef size_t RELEASE_GIL = TLS_RELEASE_GIL_SIZE
cdef object WantRead = ssl.SSLWantReadError
cdef object SyscallError = ssl.SSLSyscallError

cdef enum:
    # Results of `read_step`.
    DATA = 1
    NOTHING = 0
    END = 2
    FAILED = 3
    # The largest plaintext of a record, and the largest overhead of its encryption.
    RECORD = 16384
    RECORD_OVERHEAD = 64
    # The first block of a handshake's flight.
    FLIGHT = 4096
    # Memory of a session without ticket and certificates; memory of a parsed certificate as a multiple of its DER.
    SESSION_STRUCT = 1024
    PARSED = 4

# The method table of our BIO, allocated by OpenSSL once per process.
cdef void *method = NULL


# --- the BIO ----------------------------------------------------------------------------------------------------------

cdef int wire_read(void *bio, char *data, size_t length, size_t *got) noexcept nogil:
    """OpenSSL reads ciphertext: first the five bytes of a record's header, then its body."""
    cdef LibSSL *lib = libssl()
    cdef Wire *wire = <Wire *>lib.BIO_get_data(bio)
    cdef size_t step, given = 0
    lib.BIO_clear_flags(bio, BIO_FLAGS_RETRY)
    got[0] = 0
    if wire.counting and wire.control >= CONTROL_RECORDS and not wire.scanner.header_have and not wire.scanner.body_left:
        # The limit is reached; any further byte begins one record too many.
        wire.flooded = wire.borrowed_left > 0 or wire.kept_end > wire.kept_at
    if not wire.flooded:
        step = min(length, wire.kept_end - wire.kept_at)
        if step:
            memcpy(data, wire.kept + wire.kept_at, step)
            wire.kept_at += step
            given = step
            if wire.kept_at == wire.kept_end:
                free(wire.kept)
                wire.kept = NULL
                wire.kept_at = wire.kept_end = wire.kept_size = 0
        step = min(length - given, wire.borrowed_left)
        if step:
            memcpy(data + given, wire.borrowed, step)
            wire.borrowed += step
            wire.borrowed_left -= step
            given += step
    if given == 0:
        lib.BIO_set_flags(bio, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY)
        return 0
    wire.control += scan_records(&wire.scanner, <const uint8_t *>data, given)
    got[0] = given
    return 1


cdef int wire_write(void *bio, const char *data, size_t length, size_t *written) noexcept nogil:
    """OpenSSL writes ciphertext for the peer."""
    cdef LibSSL *lib = libssl()
    cdef Wire *wire = <Wire *>lib.BIO_get_data(bio)
    cdef uint8_t *block
    cdef size_t size
    lib.BIO_clear_flags(bio, BIO_FLAGS_RETRY)
    written[0] = 0
    if wire.out_size - wire.out_end < length:
        size = max(max(wire.out_hint, wire.out_size * 2), wire.out_end + length)
        block = <uint8_t *>realloc(wire.out, size)
        if block == NULL:
            wire.out_of_memory = True
            return 0
        wire.out = block
        wire.out_size = size
    memcpy(wire.out + wire.out_end, data, length)
    wire.out_end += length
    written[0] = length
    return 1


cdef long wire_ctrl(void *bio, int command, long number, void *pointer) noexcept nogil:
    cdef Wire *wire = <Wire *>libssl().BIO_get_data(bio)
    if command == BIO_CTRL_FLUSH:
        return 1
    if command == BIO_CTRL_PENDING:
        return <long>(wire.kept_end - wire.kept_at + wire.borrowed_left)
    if command == BIO_CTRL_WPENDING:
        return <long>wire.out_end
    return 0


cdef int wire_destroy(void *bio) noexcept nogil:
    cdef LibSSL *lib = libssl()
    cdef Wire *wire = <Wire *>lib.BIO_get_data(bio)
    if wire != NULL:
        free(wire.kept)
        free(wire.out)
        free(wire)
        lib.BIO_set_data(bio, NULL)
    return 1


cdef size_t begun(Scanner *scanner) noexcept nogil:
    """Bytes of an incomplete record that OpenSSL has read."""
    return HEADER + scanner.last_size - scanner.body_left if scanner.body_left else scanner.header_have


cdef int make_method() except -1:
    """Make the method table of the BIO, unless it exists."""
    global method
    cdef LibSSL *lib = libssl()
    cdef void *made
    if method != NULL:
        return 0
    made = lib.BIO_meth_new(lib.BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, b"corenet")
    if made == NULL:
        raise MemoryError
    lib.BIO_meth_set_write_ex(made, wire_write)
    lib.BIO_meth_set_read_ex(made, wire_read)
    lib.BIO_meth_set_ctrl(made, wire_ctrl)
    lib.BIO_meth_set_destroy(made, wire_destroy)
    method = made
    return 0


# --- the engine -------------------------------------------------------------------------------------------------------

cdef OpenSSLEngine openssl_engine(object ssl_object, object policy):
    """The engine of an SSLObject whose handshake has not begun; its memory BIOs are replaced by one of ours."""
    cdef LibSSL *lib = libssl()
    cdef OpenSSLEngine made = OpenSSLEngine.__new__(OpenSSLEngine)
    cdef Wire *wire
    cdef void *bio
    make_method()
    bio = lib.BIO_new(method)
    if bio == NULL:
        raise MemoryError
    wire = <Wire *>calloc(1, sizeof(Wire))
    lib.BIO_set_data(bio, wire)
    if wire == NULL or not lib.BIO_up_ref(bio):
        lib.BIO_free(bio)
        raise MemoryError
    lib.BIO_set_init(bio, 1)
    wire.out_hint = FLIGHT
    made.bio = bio
    made.wire = wire
    made.ssl_object = ssl_object
    made.ssl_core = ssl_object._sslobj
    made.connection = ssl_of(made.ssl_core)
    made.feed_size = <size_t>-1
    made.policy = policy
    made.native = True
    # SSL_set_bio(3) takes one reference for both directions and frees the previous BIOs.
    lib.SSL_set_bio(made.connection, bio, bio)
    return made


# The garbage collector must not clear the fields: finalizers of the same cycle may still call methods of the engine.
@cython.no_gc_clear
@cython.final
cdef class OpenSSLEngine(TlsEngine):
    """One side of one connection; made by `corenet.tls.engines`."""

    def __dealloc__(self) -> None:
        cdef LibSSL *lib = libssl()
        free(self.sending)
        if self.last_session != NULL:
            lib.SSL_SESSION_free(self.last_session)
        if self.bio != NULL:
            lib.BIO_free(self.bio)

    # --- ciphertext -----------------------------------------------------------------------------------------------

    cdef int feed_bytes(self, const uint8_t *data, size_t length) except -1:
        cdef Wire *wire = self.wire
        cdef uint8_t *block
        cdef size_t size, left = wire.kept_end - wire.kept_at
        if length == 0:
            return 0
        if wire.kept_size - wire.kept_end < length:
            if wire.kept_at:
                memmove(wire.kept, wire.kept + wire.kept_at, left)
                wire.kept_at = 0
                wire.kept_end = left
            if wire.kept_size - left < length:
                # Reserve extra space for the next pieces, except for the first block.
                size = left + length + min(wire.kept_size, <size_t>RECORD)
                block = <uint8_t *>realloc(wire.kept, size)
                if block == NULL:
                    raise MemoryError
                wire.kept_size = size
                wire.kept = block
        memcpy(wire.kept + wire.kept_end, data, length)
        wire.kept_end += length
        return 0

    cdef object take(self, const char **data, size_t *length):
        cdef Wire *wire = self.wire
        if self.sending != NULL:
            # The previous block is still being sent; `taken` was not called yet.
            length[0] = 0
            return None
        data[0] = <const char *>wire.out
        length[0] = wire.out_end
        # The engine keeps this block until `taken`. Ciphertext produced in between goes to a new block.
        self.sending = wire.out
        wire.out = NULL
        wire.out_end = wire.out_size = wire.out_hint = 0
        self.has_ciphertext = False
        return None

    cdef int taken(self) except -1:
        free(self.sending)
        self.sending = NULL
        return 0

    cdef Py_ssize_t unread(self) except -1:
        return <Py_ssize_t>(self.wire.kept_end - self.wire.kept_at + begun(&self.wire.scanner))

    cdef Py_ssize_t unsent(self) except -1:
        return <Py_ssize_t>self.wire.out_end

    # --- handshake ------------------------------------------------------------------------------------------------

    cdef bint step_handshake(self) except -1:
        if self.busy:
            return False
        self.busy = True
        try:
            self.ssl_core.do_handshake()
        except (WantRead, SyscallError):
            return False
        finally:
            self.busy = False
            self.has_ciphertext = self.wire.out_end > 0
        self.check_server()
        # Frees 17 KiB that OpenSSL would keep until the first data.
        libssl().SSL_free_buffers(self.connection)
        self.established = True
        self.wire.counting = True
        self.wire.control = 0
        return True

    cdef int ask_staple(self) except -1:
        libssl().SSL_ctrl(self.connection, SSL_CTRL_SET_TLSEXT_STATUS_TYPE, TLSEXT_STATUSTYPE_ocsp, NULL)
        return 0

    cdef bytes staple(self):
        cdef const char *data = NULL
        cdef long length = libssl().SSL_ctrl(
            self.connection, SSL_CTRL_GET_TLSEXT_STATUS_OCSP_RESPONSE, 0, <void *>&data
        )
        return data[:length] if data != NULL and length > 0 else None

    cdef bint resume(self, object session) except -1:
        cdef LibSSL *lib = libssl()
        if not lib.SSL_set_session(self.connection, (<TlsSession?>session).session):
            lib.ERR_clear_error()
            return False
        # So that `new_session` does not return the offered session.
        self.last_session = lib.SSL_get1_session(self.connection)
        return True

    cdef object new_session(self):
        cdef LibSSL *lib = libssl()
        cdef void *session = lib.SSL_get_session(self.connection)
        if session == self.last_session or session == NULL:
            return None
        if self.last_session != NULL:
            lib.SSL_SESSION_free(self.last_session)
        # The reference prevents that a later session gets the same address and looks like this one.
        self.last_session = lib.SSL_get1_session(self.connection)
        if not lib.SSL_SESSION_is_resumable(session):
            return None
        return tls_session(self.connection, lib.SSL_get1_session(self.connection))

    # --- plaintext ------------------------------------------------------------------------------------------------

    cdef bint readable(self) noexcept:
        return (
            (self.wire.kept_end > self.wire.kept_at or libssl().SSL_pending(self.connection) > 0)
            and not self.ended and self.failure is None and not self.busy
        )

    cdef int read_step(self, char *target, size_t capacity, size_t *got) except -1:
        """Call SSL_read_ex once and return DATA, NOTHING, END or FAILED; the last two set `ended` or `failure`."""
        cdef LibSSL *lib = libssl()
        cdef int result
        cdef size_t before = self.wire.out_end
        if lib.ERR_peek_error():
            lib.ERR_clear_error()
        self.busy = True
        result = lib.SSL_read_ex(self.connection, target, capacity, got)
        self.busy = False
        if self.wire.out_end != before:
            # Responses to post-handshake messages, or an alert.
            self.answers += self.wire.out_end - before
            self.has_ciphertext = True
        if result == 1:
            if self.wire.control > 1 and not begun(&self.wire.scanner) and not lib.SSL_pending(self.connection):
                # OpenSSL keeps its buffer of 17 KiB if session tickets were read in the same call. The record is read
                # completely, so the buffer is empty.
                lib.SSL_free_buffers(self.connection)
            self.wire.control = 0
            return DATA
        result = lib.SSL_get_error(self.connection, result)
        if self.wire.flooded:
            lib.ERR_clear_error()
            self.failure = flooded()
            return FAILED
        if result == SSL_ERROR_WANT_READ or result == SSL_ERROR_WANT_WRITE:
            if not begun(&self.wire.scanner):
                # After session tickets OpenSSL would keep its buffer of 17 KiB until the next data.
                lib.SSL_free_buffers(self.connection)
            return NOTHING
        if result == SSL_ERROR_ZERO_RETURN:
            self.ended = True
            return END
        self.failure = self.explain()
        return FAILED

    cdef object explain(self):
        """The exception of the standard library for what OpenSSL's queue of errors holds."""
        if self.wire.out_of_memory:
            libssl().ERR_clear_error()
            return MemoryError("no memory for ciphertext")
        if not libssl().ERR_peek_error():
            # The connection may not have failed for good (its BIO has): a read could succeed, and swallow a byte.
            return ssl.SSLError(1, "OpenSSL has failed without saying why")
        try:
            self.ssl_core.read(1)
        except Exception as error:
            return error
        finally:
            libssl().ERR_clear_error()
        return ssl.SSLError(1, "OpenSSL reported a failure without an error code")

    cdef object decrypt(self, const uint8_t *data, size_t length):
        cdef Wire *wire = self.wire
        cdef LibSSL *lib = libssl()
        cdef PyObject *found
        cdef size_t bound, filled = 0, got = 0
        if self.busy:
            self.feed_bytes(data, length)
            return None
        if self.ended or self.failure is not None:
            return None
        # Plaintext is never longer than its ciphertext. Bound: our buffers, OpenSSL's partial record, its plaintext.
        bound = (
            length + wire.kept_end - wire.kept_at + begun(&wire.scanner)
            + <size_t>lib.SSL_pending(self.connection)
        )
        if bound == 0:
            return None
        found = new_bytes(NULL, bound)
        wire.borrowed = data
        wire.borrowed_left = length
        try:
            while filled < bound and self.read_step(start_of_bytes(found) + filled, bound - filled, &got) == DATA:
                filled += got
                if wire.borrowed_left == 0 and wire.kept_end == wire.kept_at and not lib.SSL_pending(self.connection):
                    break
            data = wire.borrowed
            length = wire.borrowed_left
            wire.borrowed = NULL
            wire.borrowed_left = 0
            if length and not self.ended and self.failure is None:
                self.feed_bytes(data, length)
            if filled == 0:
                return None
            shorten_bytes(&found, filled)
            return <object>found
        finally:
            wire.borrowed = NULL
            wire.borrowed_left = 0
            Py_XDECREF(found)

    cdef Py_ssize_t fill(self, object target) except -1:
        cdef Py_buffer view
        cdef size_t got = 0
        cdef Py_ssize_t filled = 0
        if not self.readable():
            return 0
        PyObject_GetBuffer(target, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        try:
            while filled < view.len and self.readable():
                if self.read_step(<char *>view.buf + filled, view.len - filled, &got) != DATA:
                    break
                filled += got
        finally:
            PyBuffer_Release(&view)
        return filled

    cdef Py_ssize_t write_record(self, object data) except -2:
        cdef LibSSL *lib = libssl()
        cdef Py_buffer view
        cdef size_t written = 0
        cdef size_t length
        cdef const char *start
        cdef int result
        cdef bint held = not PyBytes_CheckExact(data)
        if self.busy:
            return -1
        if held:
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            start = <const char *>view.buf
            length = view.len
        else:
            start = PyBytes_AS_STRING(data)
            length = PyBytes_GET_SIZE(data)
        self.busy = True
        if self.wire.out == NULL:
            self.wire.out_hint = length + (length // RECORD + 1) * RECORD_OVERHEAD
        if lib.ERR_peek_error():
            lib.ERR_clear_error()
        if length >= RELEASE_GIL:
            with nogil:
                result = lib.SSL_write_ex(self.connection, start, length, &written)
        else:
            result = lib.SSL_write_ex(self.connection, start, length, &written)
        self.busy = False
        self.has_ciphertext = self.wire.out_end > 0
        if held:
            PyBuffer_Release(&view)
        if result == 1:
            return <Py_ssize_t>written
        result = lib.SSL_get_error(self.connection, result)
        if result == SSL_ERROR_WANT_READ or result == SSL_ERROR_WANT_WRITE:
            return -1
        # Repeated through the standard library, which raises the error in the queue.
        return self.ssl_core.write(data)

    # --- the end --------------------------------------------------------------------------------------------------

    cdef bint send_close_notify(self) except -1:
        cdef LibSSL *lib = libssl()
        cdef int result
        if self.busy:
            return False
        self.busy = True
        # SSLObject.unwrap would call it twice. The second call reads, and fails if there is data.
        result = lib.SSL_shutdown(self.connection)
        self.busy = False
        self.has_ciphertext = self.wire.out_end > 0
        if result < 0:
            lib.ERR_clear_error()
            if self.wire.out_of_memory:
                raise MemoryError("no memory for ciphertext")
            # A renegotiation or a fragmented handshake message is incomplete.
            return False
        return True

    cdef bint step_shutdown(self) except -1:
        if self.busy:
            return False
        self.busy = True
        try:
            self.ssl_core.shutdown()
        except (WantRead, SyscallError):
            if self.wire.flooded:
                # OpenSSL gets nothing any more and would wait for ever.
                self.failure = flooded()
                raise self.failure from None
            return False
        finally:
            self.busy = False
            self.has_ciphertext = self.wire.out_end > 0
        return True

    cdef int finish(self) except -1:
        cdef LibSSL *lib = libssl()
        if self.established and self.failure is None and not self.busy:
            # Without this, OpenSSL treats an end without close_notify as a failure and makes the session not resumable.
            lib.SSL_set_shutdown(self.connection, lib.SSL_get_shutdown(self.connection) | SSL_SENT_SHUTDOWN)
        return 0


# --- sessions ---------------------------------------------------------------------------------------------------------

@cython.final
cdef class TlsSession:
    """A resumable session of OpenSSL; `corenet.tls.sessions` decides for which connections and for how long."""

    def __init__(self) -> None:
        raise TypeError("TlsSession cannot be created directly; take_session of a TLS engine returns sessions")

    def __dealloc__(self) -> None:
        if self.session != NULL:
            libssl().SSL_SESSION_free(self.session)

    def resumable(self) -> bool:
        """Return whether it may still be offered: its connection did not fail, and its certificate has not expired."""
        cdef LibSSL *lib = libssl()
        cdef void *certificate
        if self.session == NULL:
            # Created by `__new__` alone.
            return False
        certificate = lib.SSL_SESSION_get0_peer(self.session)
        if not lib.SSL_SESSION_is_resumable(self.session):
            return False
        return certificate == NULL or lib.X509_cmp_current_time(lib.X509_get0_notAfter(certificate)) > 0


cdef TlsSession tls_session(void *connection, void *session):
    """Wrap `session` of this connection; takes over the caller's reference."""
    cdef LibSSL *lib = libssl()
    cdef TlsSession made = TlsSession.__new__(TlsSession)
    cdef const unsigned char *ticket = NULL
    cdef size_t length = 0
    cdef void *chain = lib.SSL_get_peer_cert_chain(connection)
    cdef int at, size
    made.session = session
    made.single_use = lib.SSL_SESSION_get_protocol_version(session) == TLS1_3_VERSION
    made.lifetime = lib.SSL_SESSION_get_ticket_lifetime_hint(session)
    lib.SSL_SESSION_get0_ticket(session, &ticket, &length)
    made.octets = SESSION_STRUCT + length
    if chain != NULL:
        for at in range(lib.OPENSSL_sk_num(chain)):
            size = lib.i2d_X509(lib.OPENSSL_sk_value(chain, at), NULL)
            made.octets += PARSED * max(size, 0)
    return made
