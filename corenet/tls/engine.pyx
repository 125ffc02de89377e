"""TLS without I/O: the interface that a connection's transport uses, independent of how OpenSSL is called.

An engine has no clock and no descriptor; bytes go in and come out, so tests can drive it directly (`feed`, `drain`,
`handshake`, `read`, `write`, `shutdown`). Both classes use the standard library's `SSLObject.do_handshake`, so
contexts, their callbacks and errors are those of `ssl`.

Reading returns all plaintext first. Then the end of the data is reported once: `ended` (close_notify) or `failure` (a
record that cannot be decrypted). After that nothing more is read (RFC 8446 section 6.1).

A peer may send records without data: key updates, session tickets, certificate requests, renegotiation. More than
`TLS_CONTROL_RECORDS` of them in a row are a failure, because each costs us more than it costs the peer.
"""

import ssl

from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t

from corenet.limits import TLS_CONTROL_RECORDS

__all__ = ["TlsEngine", "handshake_seconds"]

cdef size_t CONTROL_RECORDS = TLS_CONTROL_RECORDS
cdef int64_t handshake_ns = 0


def handshake_seconds() -> float:
    """Return the seconds that this process has spent in TLS handshakes as a server, in OpenSSL and its callbacks.

    The difference of two calls is what the handshakes in between have cost, so that a server can pace them.
    """
    return handshake_ns / 1e9


cdef enum:
    # The content types 20 (change_cipher_spec) to 24 (heartbeat).
    FIRST_TYPE = 20
    LAST_TYPE = 24


cdef size_t scan_records(Scanner *scanner, const uint8_t *data, size_t length) noexcept nogil:
    """Count the records that end in these bytes (RFC 8446 section 5.1: type, version, length, since TLS 1.0)."""
    cdef size_t step, records = 0
    while length:
        if scanner.body_left == 0:
            scanner.header[scanner.header_have] = data[0]
            scanner.header_have += 1
            data += 1
            length -= 1
            if scanner.header_have < HEADER:
                continue
            scanner.header_have = 0
            scanner.body_left = (<size_t>scanner.header[3] << 8) | scanner.header[4]
            scanner.last_size = scanner.body_left
            if (
                scanner.body_left == 0
                or scanner.body_left > LONGEST_BODY
                or scanner.header[0] < FIRST_TYPE
                or scanner.header[0] > LAST_TYPE
            ):
                # Empty, or not a TLS record: counted as complete, so that OpenSSL reads it now and reports the error.
                records += 1
            continue
        step = min(scanner.body_left, length)
        data += step
        length -= step
        scanner.body_left -= step
        if scanner.body_left == 0:
            records += 1
    return records


cdef object flooded():
    """The failure when a peer sends too many records without data."""
    return ssl.SSLError(1, f"the peer sent more than {TLS_CONTROL_RECORDS} TLS records in a row without data")


cdef class TlsEngine:
    """One side of one connection."""

    # --- ciphertext -----------------------------------------------------------------------------------------------

    cdef int check_made(self) except -1:
        """Refuse an object that was created by ``__new__`` alone: it has no connection."""
        if self.ssl_object is None:
            raise RuntimeError("this TLS engine has no connection; make_tls_engine creates engines")
        return 0

    cdef int check_established(self) except -1:
        """Refuse data before the handshake: OpenSSL would do the handshake by itself, and the server would not be
        checked."""
        self.check_made()
        if not self.established:
            raise RuntimeError("the TLS handshake is not complete; call handshake() until it returns True")
        return 0

    cdef int feed_bytes(self, const uint8_t *data, size_t length) except -1:
        """Take ciphertext; it is copied, so `data` is not used after the return."""
        raise NotImplementedError

    def feed(self, data: bytes) -> None:
        """Take ciphertext of the peer, in pieces of any size."""
        self.check_made()
        self.feed_bytes(<const uint8_t *><const char *>data, PyBytes_GET_SIZE(data))

    cdef object take(self, const char **data, size_t *length):
        """Return all unsent ciphertext in `data` and `length`, and the object that owns its memory. None: the engine
        owns it until `taken` is called; until then it returns no more."""
        raise NotImplementedError

    cdef int taken(self) except -1:
        """Release the ciphertext of the last `take`, which was sent or copied."""
        return 0

    def drain(self) -> bytes:
        """Remove and return the ciphertext to send to the peer, empty when there is none."""
        self.check_made()
        cdef const char *data = NULL
        cdef size_t length = 0
        owner = self.take(&data, &length)
        found = owner if owner is not None else PyBytes_FromStringAndSize(data, length)
        self.taken()
        return found

    cdef Py_ssize_t unread(self) except -1:
        """Bytes of ciphertext that were fed and not decrypted yet."""
        raise NotImplementedError

    cdef Py_ssize_t unsent(self) except -1:
        """Bytes of ciphertext that `take` has not returned yet."""
        raise NotImplementedError

    # --- handshake ------------------------------------------------------------------------------------------------

    cdef bint step_handshake(self) except -1:
        """Continue the handshake as far as the fed bytes allow; True when it is complete."""
        raise NotImplementedError

    def handshake(self) -> bool:
        """Continue the handshake; True when it is complete. Drain after each call, also after a failed one, because
        the alert with the reason must be sent.

        Raises:
            ssl.SSLError: when it failed, SSLCertVerificationError for reasons of the certificate.
        """
        self.check_made()
        return self.step_handshake()

    cdef int check_server(self) except -1:
        """Let the policy check the server, after OpenSSL has finished the handshake, before its last flight is sent."""
        if self.policy is None:
            return 0
        try:
            self.valid_until = self.policy.check_server(self.ssl_object, self.staple(), self.native)
        except BaseException:
            # The last flight is dropped, so a TLS 1.3 server never sees the handshake as complete.
            self.drain()
            raise
        return 0

    cdef int ask_staple(self) except -1:
        """Request an OCSP staple; called before the first step of the handshake."""
        return 0

    cdef bytes staple(self):
        """The OCSP staple that the server has sent; None without one, or when this engine cannot read it."""
        return None

    cdef bint resume(self, object session) except -1:
        """Offer a `TlsSession`; called before the first step of the handshake. False: not possible."""
        return False

    cdef object new_session(self):
        """A new resumable session of this connection that was not returned before, or None."""
        return None

    def offer_session(self, session: object) -> bool:
        """Offer a `TlsSession` of an earlier connection; call it before the first step of the handshake.

        False: this engine cannot resume, or OpenSSL rejects the session.
        """
        self.check_made()
        return self.resume(session)

    def take_session(self) -> object:
        """Return the newest session that the server has issued and that was not returned before, else None."""
        self.check_made()
        return self.new_session()

    # --- plaintext ------------------------------------------------------------------------------------------------

    cdef bint readable(self) noexcept:
        """Return whether reading may have a result: a complete record was fed, or the end of the data."""
        raise NotImplementedError

    cdef object decrypt(self, const uint8_t *data, size_t length):
        """Take ciphertext and return the plaintext of all complete records, None when there is none. The caller checks
        `ended` and `failure` afterwards. No user code runs while `data` is in use."""
        raise NotImplementedError

    def read(self) -> bytes | None:
        """Return the plaintext of the fed records; None when more must be fed, ``b""`` after the peer's close_notify.

        Raises:
            RuntimeError: before the handshake is complete.
            ssl.SSLError: when the bytes are not what the peer encrypted.
        """
        self.check_established()
        cdef object found = self.decrypt(NULL, 0)
        if found is None:
            self.raise_failure()
            if self.ended:
                return b""
        return found

    cdef Py_ssize_t fill(self, object target) except -1:
        """Decrypt into `target` as much as fits; return the number of bytes. At 0 the caller checks `ended` and
        `failure`."""
        raise NotImplementedError

    def read_into(self, target: memoryview) -> int | None:
        """Decrypt into `target` and return how many bytes that were, None and 0 as `read` returns None and ``b""``. It
        raises what `read` raises."""
        self.check_established()
        cdef Py_ssize_t count = self.fill(target)
        if count == 0:
            self.raise_failure()
            return 0 if self.ended else None
        return count

    def raise_failure(self) -> None:
        """Raise `failure`, if a record could not be decrypted."""
        if self.failure is not None:
            raise self.failure

    cdef Py_ssize_t write_record(self, object data) except -2:
        """Encrypt `data`; return the number of bytes taken, normally all; -1 when the peer must send first."""
        raise NotImplementedError

    def write(self, data: bytes) -> int:
        """Encrypt `data`, which must not be empty; return how many of its bytes were taken: normally all, 0 when the
        peer must send first.

        Raises:
            RuntimeError: before the handshake is complete.
            ssl.SSLError: when the connection cannot send any more.
        """
        self.check_established()
        return max(self.write_record(data), 0)

    # --- the end --------------------------------------------------------------------------------------------------

    cdef bint send_close_notify(self) except -1:
        """Send close_notify and read nothing: the peer's data can still be read. False: not possible now; call it again
        after reading."""
        raise NotImplementedError

    cdef bint step_shutdown(self) except -1:
        raise NotImplementedError

    cdef int finish(self) except -1:
        """The connection has ended. Unless TLS failed, its session stays resumable, also without a close_notify."""
        return 0

    def shutdown(self) -> bool:
        """Send close_notify; True when the peer has sent it too. May be called again after `feed`.

        Raises:
            ssl.SSLError: when the peer has sent data after our close_notify, which the protocol allows, or more than
                `TLS_CONTROL_RECORDS` records in a row that hold none.
        """
        self.check_made()
        return self.step_shutdown()
