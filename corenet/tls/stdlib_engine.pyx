"""The TLS engine on the standard library alone: an SSLObject between two memory BIOs, driven record by record.

`corenet.tls.engines` lists when it is used.

When no complete record is there, the standard library raises an exception, which costs as much as decrypting a short
message. So the engine parses the record headers of the fed bytes and calls OpenSSL only when a record is complete, or
when a header is invalid and OpenSSL has to report it. A read has the size of the record, so that no buffer of 16 KiB is
allocated for a short message. Ciphertext is fed in slices, because a memory BIO never shrinks.
"""

import ssl

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from corenet.tls.engine cimport CONTROL_RECORDS, LONGEST_BODY, TlsEngine, flooded, scan_records

from corenet.limits import TLS_COPY_BELOW, TLS_FEED_SIZE

__all__ = ["StdlibEngine"]

cdef extern from "Python.h":
    enum:
        PyBUF_READ

cdef size_t COPY_BELOW = TLS_COPY_BELOW
cdef size_t FEED = TLS_FEED_SIZE
cdef object WantRead = ssl.SSLWantReadError
cdef object SyscallError = ssl.SSLSyscallError
cdef object ZeroReturn = ssl.SSLZeroReturnError


cdef StdlibEngine stdlib_engine(
    object ssl_object, object incoming, object outgoing, object policy, bint plain
):
    """The engine of an SSLObject that was made with these two memory BIOs; `plain`: its class has no user code."""
    cdef StdlibEngine made = StdlibEngine.__new__(StdlibEngine)
    made.incoming = incoming
    made.outgoing = outgoing
    made.ssl_object = ssl_object
    made.policy = policy
    made.ssl_core = ssl_object._sslobj if plain else ssl_object
    made.has_ciphertext = True
    made.feed_size = FEED
    return made


@cython.final
cdef class StdlibEngine(TlsEngine):
    """One side of one connection; made by `corenet.tls.engines`."""

    # --- ciphertext -----------------------------------------------------------------------------------------------

    cdef int feed_bytes(self, const uint8_t *data, size_t length) except -1:
        if length < COPY_BELOW:
            self.incoming.write(PyBytes_FromStringAndSize(<const char *>data, length))
        else:
            self.incoming.write(PyMemoryView_FromMemory(<char *>data, length, PyBUF_READ))
        self.records += scan_records(&self.scanner, data, length)
        return 0

    cdef object take(self, const char **data, size_t *length):
        cdef bytes found
        self.has_ciphertext = False
        found = self.outgoing.read()
        data[0] = PyBytes_AS_STRING(found)
        length[0] = PyBytes_GET_SIZE(found)
        return found

    cdef Py_ssize_t unread(self) except -1:
        return self.incoming.pending

    cdef Py_ssize_t unsent(self) except -1:
        return self.outgoing.pending

    # --- handshake ------------------------------------------------------------------------------------------------

    cdef bint step_handshake(self) except -1:
        self.has_ciphertext = True
        try:
            self.ssl_core.do_handshake()
        except (WantRead, SyscallError):
            return False
        self.check_server()
        self.established = True
        # Records that came with the last flight were not counted separately: read until OpenSSL has no more.
        self.records = self.incoming.pending
        self.scanner.last_size = LONGEST_BODY
        self.counted = self.records == 0
        return True

    # --- plaintext ------------------------------------------------------------------------------------------------

    cdef bint readable(self) noexcept:
        return (self.records > 0 or self.has_partial_record) and not self.ended and self.failure is None

    cdef int on_want_read(self) except -1:
        """The fed records held no data, only protocol messages, which may have caused a response."""
        if self.counted:
            self.control += self.records
        self.counted = True
        self.records = 0
        self.has_partial_record = False
        self.has_ciphertext = True
        if self.control > CONTROL_RECORDS:
            self.failure = flooded()
        return 0

    cdef void on_data(self) noexcept:
        """Reset the count: it is not known which records before the data held none, so they are not counted."""
        self.control = 0
        self.counted = False

    cdef bytes read_record(self):
        """The plaintext of one record; None when there is none."""
        cdef bytes data
        cdef Py_ssize_t size
        if not self.readable():
            return None
        size = <Py_ssize_t>self.scanner.last_size if self.records == 1 and 0 < self.scanner.last_size <= LONGEST_BODY else LONGEST_BODY
        try:
            data = self.ssl_core.read(size)
        except (WantRead, SyscallError):
            self.on_want_read()
            return None
        except ZeroReturn:
            self.ended = True
            return None
        except ssl.SSLError as error:
            self.failure = error
            return None
        if PyBytes_GET_SIZE(data) == 0:
            self.ended = True
            return None
        self.on_data()
        self.has_partial_record = PyBytes_GET_SIZE(data) == size and self.ssl_core.pending() > 0
        if not self.has_partial_record and self.records > 0:
            self.records -= 1
        return data

    cdef object decrypt(self, const uint8_t *data, size_t length):
        cdef bytes first = None
        cdef bytes piece
        cdef list pieces = None
        cdef size_t step
        cdef Py_ssize_t before = self.outgoing.pending
        while True:
            if length:
                step = min(length, FEED)
                self.feed_bytes(data, step)
                data += step
                length -= step
            while (piece := self.read_record()) is not None:
                if first is None:
                    first = piece
                elif pieces is None:
                    pieces = [first, piece]
                else:
                    pieces.append(piece)
            if length == 0 or self.ended or self.failure is not None:
                break
        self.answers += <Py_ssize_t>self.outgoing.pending - before
        return first if pieces is None else b"".join(pieces)

    cdef Py_ssize_t fill(self, object target) except -1:
        cdef Py_ssize_t capacity = len(target)
        cdef Py_ssize_t filled = 0
        cdef Py_ssize_t got
        cdef Py_ssize_t before = self.outgoing.pending
        while filled < capacity and self.readable():
            try:
                got = self.ssl_core.read(capacity - filled, target if filled == 0 else memoryview(target)[filled:])
            except (WantRead, SyscallError):
                self.on_want_read()
                break
            except ZeroReturn:
                got = 0
            except ssl.SSLError as error:
                self.failure = error
                break
            if got == 0:
                self.ended = True
                break
            self.on_data()
            self.has_partial_record = got == capacity - filled and self.ssl_core.pending() > 0
            if not self.has_partial_record and self.records > 0:
                self.records -= 1
            filled += got
        self.answers += <Py_ssize_t>self.outgoing.pending - before
        return filled

    cdef Py_ssize_t write_record(self, object data) except -2:
        self.has_ciphertext = True
        try:
            return self.ssl_core.write(data)
        except (WantRead, SyscallError):
            return -1

    # --- the end --------------------------------------------------------------------------------------------------

    cdef bint send_close_notify(self) except -1:
        cdef bytes waiting
        if self.ssl_core.pending() > 0:
            # `unwrap` fails if there is data to read: here the rest of a record.
            return False
        # It reads, too. So the fed bytes are removed during the call.
        waiting = self.incoming.read()
        self.has_ciphertext = True
        try:
            self.ssl_object.unwrap()
        except (WantRead, SyscallError):
            # close_notify is sent, and that of the peer has not been read.
            return True
        except ssl.SSLError as error:
            if error.reason != "SHUTDOWN_WHILE_IN_INIT":
                raise
            # A renegotiation or a fragmented handshake message is incomplete.
            return False
        finally:
            self.incoming.write(waiting)
        return True

    cdef bint step_shutdown(self) except -1:
        self.has_ciphertext = True
        try:
            # The name that SSLObject and classes of the user's own have for it.
            self.ssl_object.unwrap()
        except (WantRead, SyscallError):
            self.on_want_read()
            self.raise_failure()
            return False
        return True
