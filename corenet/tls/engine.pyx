"""TLS without I/O: what a connection's transport needs, whichever way OpenSSL is called.

An engine keeps no clock and opens nothing; bytes go in and come out, so it may be played by hand (`feed`, `drain`,
`handshake`, `read`, `write`, `shutdown`). The handshake is the standard library's `SSLObject.do_handshake` in both
classes, so contexts, their callbacks and errors are those of `ssl`.

Order of what is read: plaintext, then what ended it, once: `ended` (close_notify) or `failure` (a record that cannot be
decrypted). Behind that nothing is read any more (RFC 8446 section 6.1).

A peer may send records that bring no data: key updates, session tickets, requests for a certificate, renegotiation.
More than `TLS_CONTROL_RECORDS` of them in a row are a failure, because each costs us more than it costs the peer.
"""

import ssl

from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from corenet.limits import TLS_CONTROL_RECORDS

__all__ = ["TlsEngine"]

cdef size_t CONTROL_RECORDS = TLS_CONTROL_RECORDS


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
                # Empty, or nothing that TLS knows: let OpenSSL look at it now.
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
    """The failure of a peer that sends record after record without data."""
    return ssl.SSLError(1, f"the peer sent more than {TLS_CONTROL_RECORDS} TLS records in a row that held no data")


cdef class TlsEngine:
    """One side of one connection."""

    # --- ciphertext -----------------------------------------------------------------------------------------------

    cdef int check_made(self) except -1:
        """Refuse an object that was created by ``__new__`` alone: it has no connection."""
        if self.ssl_object is None:
            raise RuntimeError("this TLS engine has no connection; make_tls_engine creates engines")
        return 0

    cdef int check_established(self) except -1:
        """Refuse data before the handshake: OpenSSL would shake hands by itself, and nobody would judge the server."""
        self.check_made()
        if not self.established:
            raise RuntimeError("the TLS handshake is not complete; call handshake() until it returns True")
        return 0

    cdef int feed_bytes(self, const uint8_t *data, size_t length) except -1:
        """Take ciphertext; the memory is free again on return."""
        raise NotImplementedError

    def feed(self, data: bytes) -> None:
        """Take ciphertext of the peer, cut anywhere."""
        self.check_made()
        self.feed_bytes(<const uint8_t *><const char *>data, PyBytes_GET_SIZE(data))

    cdef object take(self, const char **data, size_t *length):
        """All ciphertext that waits to be sent, and the object that owns its memory; None: the engine does, until
        `taken` is called, which must happen before anything else is asked of it."""
        raise NotImplementedError

    cdef int taken(self) except -1:
        """What `take` has given was sent or copied."""
        return 0

    def drain(self) -> bytes:
        """Return and forget the ciphertext that must go to the peer, empty when there is none."""
        self.check_made()
        cdef const char *data = NULL
        cdef size_t length = 0
        owner = self.take(&data, &length)
        found = owner if owner is not None else PyBytes_FromStringAndSize(data, length)
        self.taken()
        return found

    cdef Py_ssize_t unread(self) except -1:
        """Bytes of ciphertext that were fed and that OpenSSL has not looked at."""
        raise NotImplementedError

    cdef Py_ssize_t unsent(self) except -1:
        """Bytes of ciphertext that nobody has taken."""
        raise NotImplementedError

    # --- handshake ------------------------------------------------------------------------------------------------

    cdef bint step_handshake(self) except -1:
        """Go on as far as the bytes allow; True when it is done."""
        raise NotImplementedError

    def handshake(self) -> bool:
        """Go on with the handshake; True when it is complete. Drain after each call, also after a failed one: the
        peer is told why.

        Raises:
            ssl.SSLError: when it failed, SSLCertVerificationError for reasons of the certificate.
        """
        self.check_made()
        return self.step_handshake()

    cdef int judge(self) except -1:
        """Have the policy look at the server, between OpenSSL's end of the handshake and ours."""
        if self.policy is None:
            return 0
        try:
            self.valid_until = self.policy.judge(self.ssl_object, self.staple(), self.native)
        except BaseException:
            # The end of a TLS 1.3 handshake is not sent: the server never takes it for complete.
            self.drain()
            raise
        return 0

    cdef int ask_staple(self) except -1:
        """Ask the server for an OCSP staple, before the first step of the handshake."""
        return 0

    cdef bytes staple(self):
        """The OCSP staple that the server has sent, None when it has not, or when it cannot be seen."""
        return None

    cdef bint resume(self, object session) except -1:
        """Offer a `TlsSession` to the server, before the first step of the handshake; False when that cannot be done."""
        return False

    cdef object new_session(self):
        """A session of this connection that was not returned before and may be resumed, or None."""
        return None

    def offer_session(self, session: object) -> bool:
        """Offer a `TlsSession` of an earlier connection to the server, before the first step of the handshake.

        False: this engine cannot, or OpenSSL will not.
        """
        self.check_made()
        return self.resume(session)

    def take_session(self) -> object:
        """Return the newest session that the server has given and that was not returned before, else None."""
        self.check_made()
        return self.new_session()

    # --- plaintext ------------------------------------------------------------------------------------------------

    cdef bint readable(self) noexcept:
        """Tell whether reading may give something: a record that was fed whole, or the end."""
        raise NotImplementedError

    cdef object decrypt(self, const uint8_t *data, size_t length):
        """Take ciphertext and return all plaintext that is complete, None when there is none; then look at `ended`
        and `failure`. Runs no code of others while `data` is looked at."""
        raise NotImplementedError

    def read(self) -> bytes | None:
        """Return the plaintext of what was fed; None when more must be fed, ``b""`` after the peer's close_notify.

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
        """Decrypt into `target` what fits; the number of bytes. At 0 look at `ended` and `failure`."""
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
        """Raise what made a record unreadable, if that has happened."""
        if self.failure is not None:
            raise self.failure

    cdef Py_ssize_t write_record(self, object data) except -2:
        """Encrypt `data`; the number of bytes taken, as a rule all, -1 when the peer must speak first."""
        raise NotImplementedError

    def write(self, data: bytes) -> int:
        """Encrypt `data`, which must not be empty; return how many of its bytes were taken: as a rule all, 0 when the
        peer must speak first.

        Raises:
            RuntimeError: before the handshake is complete.
            ssl.SSLError: when the connection cannot send any more.
        """
        self.check_established()
        return max(self.write_record(data), 0)

    # --- the end --------------------------------------------------------------------------------------------------

    cdef bint step_shutdown(self) except -1:
        raise NotImplementedError

    cdef int finish(self) except -1:
        """The connection is over. Without an error of TLS its session stays good, also when no close_notify was sent."""
        return 0

    def shutdown(self) -> bool:
        """Say goodbye (close_notify); True when the peer has said it too. May be called again after feeding.

        Raises:
            ssl.SSLError: among others when the peer goes on sending data, which is not an error of the peer, or
                sends more than `TLS_CONTROL_RECORDS` records in a row that hold none, which is one.
        """
        self.check_made()
        return self.step_shutdown()
