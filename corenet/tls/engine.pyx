"""TLS without I/O: the standard library's SSLObject between two memory buffers, driven record by record.

The standard library has no call that says "no whole record is here"; it raises, and making and catching that exception
costs as much as decrypting a short message. So the engine follows the record headers of what it is fed (RFC 8446
section 5.1: type, version, length, in every version since TLS 1.0) and asks OpenSSL only when a record is complete, or
when a header looks wrong and OpenSSL should say so. Reads are asked for with the size of the record, so that no buffer
of 16 KiB is made for a short message. The engine keeps no clock, calls nobody, and may be played by hand.
"""

import ssl

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t


from corenet.limits import TLS_COPY_BELOW, TLS_RECORD_SIZE

__all__ = ["TlsEngine"]

cdef extern from "Python.h":
    enum:
        PyBUF_READ

cdef size_t COPY_BELOW = TLS_COPY_BELOW
cdef int LONGEST_BODY = TLS_RECORD_SIZE
cdef object SSLObject = ssl.SSLObject
cdef object WantRead = ssl.SSLWantReadError
cdef object SyscallError = ssl.SSLSyscallError
cdef object ZeroReturn = ssl.SSLZeroReturnError

cdef enum:
    HEADER = 5
    # The content types 20 (change_cipher_spec) to 24 (heartbeat).
    FIRST_TYPE = 20
    LAST_TYPE = 24


@cython.final
cdef class TlsEngine:
    """One side of one connection."""

    def __init__(self, context: object, server_side: bool, server_hostname: str | None = None) -> None:
        """Begin; `context` is the user's SSLContext.

        Raises:
            ValueError: when `server_hostname` cannot be a host name.
            ssl.SSLError: when OpenSSL refuses the configuration.
        """
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.ssl_object = context.wrap_bio(
            self.incoming, self.outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self.ssl_core = self.ssl_object
        if type(self.ssl_object) is SSLObject:
            self.ssl_core = self.ssl_object._sslobj
        self.has_ciphertext = True

    # --- ciphertext -----------------------------------------------------------------------------------------------

    cdef int feed_bytes(self, const uint8_t *data, size_t length) except -1:
        """Take ciphertext; the memory is free again on return."""
        if length < COPY_BELOW:
            self.incoming.write(PyBytes_FromStringAndSize(<const char *>data, length))
        else:
            self.incoming.write(PyMemoryView_FromMemory(<char *>data, length, PyBUF_READ))
        self.count_records(data, length)
        return 0

    cdef void count_records(self, const uint8_t *data, size_t length) noexcept:
        """Count the records that end in these bytes."""
        cdef size_t step
        while length:
            if self.record_bytes_left == 0:
                self.header[self.header_have] = data[0]
                self.header_have += 1
                data += 1
                length -= 1
                if self.header_have < HEADER:
                    continue
                self.header_have = 0
                self.record_bytes_left = (<Py_ssize_t>self.header[3] << 8) | self.header[4]
                self.last_size = self.record_bytes_left
                if (
                    self.record_bytes_left == 0
                    or self.record_bytes_left > LONGEST_BODY
                    or self.header[0] < FIRST_TYPE
                    or self.header[0] > LAST_TYPE
                ):
                    # Empty, or nothing that TLS knows: let OpenSSL look at it now.
                    self.records += 1
                continue
            step = min(<size_t>self.record_bytes_left, length)
            data += step
            length -= step
            self.record_bytes_left -= step
            if self.record_bytes_left == 0:
                self.records += 1

    def feed(self, data: bytes) -> None:
        """Take ciphertext of the peer, cut anywhere."""
        self.feed_bytes(<const uint8_t *><const char *>data, PyBytes_GET_SIZE(data))

    cdef bytes take(self):
        """All ciphertext that waits to be sent."""
        self.has_ciphertext = False
        return <bytes>self.outgoing.read()

    def drain(self) -> bytes:
        """Return and forget the ciphertext that must go to the peer, empty when there is none."""
        return self.take()

    cdef Py_ssize_t unread(self) except -1:
        return self.incoming.pending

    cdef Py_ssize_t unsent(self) except -1:
        return self.outgoing.pending

    # --- handshake ------------------------------------------------------------------------------------------------

    cdef bint step_handshake(self) except -1:
        """Go on as far as the bytes allow; True when it is done."""
        self.has_ciphertext = True
        try:
            self.ssl_object.do_handshake()
        except (WantRead, SyscallError):
            return False
        self.established = True
        # What came with the last flight was not counted apart from it: read until OpenSSL says that there is no more.
        self.records = self.incoming.pending
        self.last_size = LONGEST_BODY
        return True

    def handshake(self) -> bool:
        """Go on with the handshake; True when it is complete. Drain after each call, also after a failed one: the
        peer is told why.

        Raises:
            ssl.SSLError: when it failed, SSLCertVerificationError for reasons of the certificate.
        """
        return self.step_handshake()

    # --- plaintext ------------------------------------------------------------------------------------------------

    cdef bint readable(self) noexcept:
        return self.records > 0 or self.has_partial_record

    cdef void on_want_read(self) noexcept:
        """OpenSSL found less than the headers promised: messages of the protocol itself, which may want an answer."""
        self.records = 0
        self.has_partial_record = False
        self.has_ciphertext = True

    cdef object read_record(self):
        """The plaintext of one record; None when there is none, empty when the peer has said goodbye."""
        cdef bytes data
        cdef Py_ssize_t size
        if self.records <= 0 and not self.has_partial_record:
            return None
        size = self.last_size if self.records == 1 and 0 < self.last_size <= LONGEST_BODY else LONGEST_BODY
        try:
            data = self.ssl_core.read(size)
        except (WantRead, SyscallError):
            self.on_want_read()
            return None
        except ZeroReturn:
            return b""
        self.has_partial_record = PyBytes_GET_SIZE(data) == size and self.ssl_core.pending() > 0
        if not self.has_partial_record and self.records > 0:
            self.records -= 1
        return data

    def read(self) -> bytes | None:
        """Return the plaintext of the next record; None when more must be fed, ``b""`` after the peer's close_notify.

        Raises:
            ssl.SSLError: when the bytes are not what the peer encrypted.
        """
        return self.read_record()

    cdef Py_ssize_t read_record_into(self, object target, Py_ssize_t length) except -2:
        """Decrypt into `target`; the number of bytes, 0 after the peer's goodbye, -1 when there is nothing."""
        cdef Py_ssize_t count
        if self.records <= 0 and not self.has_partial_record:
            return -1
        try:
            count = self.ssl_core.read(length, target)
        except (WantRead, SyscallError):
            self.on_want_read()
            return -1
        except ZeroReturn:
            return 0
        self.has_partial_record = count == length and self.ssl_core.pending() > 0
        if not self.has_partial_record and self.records > 0:
            self.records -= 1
        return count

    def read_into(self, target: memoryview) -> int | None:
        """Decrypt into `target` and return how many bytes that were, None and 0 as `read` returns None and ``b""``."""
        cdef Py_ssize_t count = self.read_record_into(target, len(target))
        return None if count < 0 else count

    cdef Py_ssize_t write_record(self, object data) except -2:
        """Encrypt `data`; the number of bytes taken, as a rule all, -1 when the peer must speak first."""
        self.has_ciphertext = True
        try:
            return self.ssl_core.write(data)
        except (WantRead, SyscallError):
            return -1

    def write(self, data: bytes) -> int:
        """Encrypt `data`, which must not be empty; return how many of its bytes were taken: as a rule all, 0 when the
        peer must speak first.

        Raises:
            ssl.SSLError: when the connection cannot send any more.
        """
        return max(self.write_record(data), 0)

    # --- the end --------------------------------------------------------------------------------------------------

    cdef bint step_shutdown(self) except -1:
        self.has_ciphertext = True
        try:
            self.ssl_core.shutdown()
        except (WantRead, SyscallError):
            return False
        return True

    def shutdown(self) -> bool:
        """Say goodbye (close_notify); True when the peer has said it too. May be called again after feeding.

        Raises:
            ssl.SSLError: among others when the peer goes on sending data, which is not an error of the peer.
        """
        return self.step_shutdown()
