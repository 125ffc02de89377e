"""EDNS: the fields and options of the OPT record (RFC 6891), extended errors (RFC 8914), keepalive.

This module parses and encodes options; other modules decide what they mean. Options stay packed until they are used,
because most replies have none that matters.
"""

cimport cython
from libc.stdint cimport uint8_t, uint16_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from resolver.wire.consts cimport *
from resolver.wire.octets cimport get16, put_opt

from resolver.limits import EDNS_ERROR_TEXT, EDNS_OPTIONS
from resolver.wire.errors import WireError, reason_of

cdef int _max_options = EDNS_OPTIONS
cdef Py_ssize_t _max_text = EDNS_ERROR_TEXT


@cython.final
@cython.freelist(32)
cdef class Edns:
    """The OPT record of one message."""

    @property
    def do(self) -> bool:
        """DO: DNSSEC OK."""
        return (self.flags & EDNS_DO) != 0

    @property
    def options(self) -> list[tuple[int, bytes]]:
        """Code and content of each option, in order; options above the limit `EDNS_OPTIONS` are ignored."""
        if self._options is None:
            self._options = options_from_wire(self.raw_options)
        return self._options

    def get(self, int code) -> bytes | None:
        """Content of the first option with this code."""
        for found, content in self.options:
            if found == code:
                return content
        return None

    def __repr__(self) -> str:
        return f"<Edns payload={self.payload} version={self.version} do={self.do} options={self.options}>"


cdef Edns make_edns(uint16_t payload, uint8_t ext_rcode, uint8_t version, uint16_t flags, bytes raw_options):
    """Make an object from the fields of a checked OPT record."""
    cdef Edns made = Edns.__new__(Edns)
    made.payload = payload
    made.ext_rcode = ext_rcode
    made.version = version
    made.flags = flags
    made.raw_options = raw_options
    return made


def options_from_wire(bytes data not None) -> list[tuple[int, bytes]]:
    """Parse the options in the rdata of an OPT record.

    Raises:
        WireError: the lengths are inconsistent.
    """
    cdef const uint8_t *p = <const uint8_t *> PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t length
    cdef list found = []
    while at < size and len(found) < _max_options:
        if at + 4 > size:
            raise WireError(reason_of(E_OPTIONS))
        length = get16(p + at + 2)
        if at + 4 + length > size:
            raise WireError(reason_of(E_OPTIONS))
        found.append((get16(p + at), PyBytes_FromStringAndSize(<const char *> p + at + 4, length)))
        at += 4 + length
    return found


def options_to_wire(object options) -> bytes:
    """The rdata of an OPT record with these (code, content) pairs.

    Raises:
        ValueError: a code or a length does not fit into 16 bits.
    """
    cdef bytearray made = bytearray()
    cdef bytes content
    for code, content in options:
        if not (0 <= code <= 65535 and len(content) <= 65535):
            raise ValueError("option code or length does not fit into 16 bits")
        made += code.to_bytes(2, "big") + len(content).to_bytes(2, "big") + content
    if len(made) > 65535:
        raise ValueError("options are larger than 65535 bytes")
    return bytes(made)


def opt_record(int payload, *, int ext_rcode=0, bint do=False, bytes options not None=b"") -> bytes:
    """An OPT record with these options in wire form; `ext_rcode` is the upper eight bits of the rcode."""
    cdef bytes made = PyBytes_FromStringAndSize(NULL, OPT_SIZE) + options
    put_opt(<uint8_t *> PyBytes_AS_STRING(made), payload, ext_rcode, do, PyBytes_GET_SIZE(options))
    return made


def encode_ede(int code, str text not None="") -> bytes:
    """Content of an extended error option (RFC 8914 section 2). A long text is cut after a whole character."""
    cdef bytes words = text.encode("utf-8")
    if len(words) > _max_text:
        words = words[:_max_text].decode("utf-8", "ignore").encode("utf-8")
    return code.to_bytes(2, "big") + words


def parse_ede(bytes data not None) -> tuple[int, str]:
    """Code and text of an extended error option. Bytes that are not UTF-8 are replaced, final zeros removed.

    Raises:
        WireError: `data` is shorter than the code.
    """
    if len(data) < 2:
        raise WireError(reason_of(E_OPTIONS))
    return int.from_bytes(data[:2], "big"), data[2:].rstrip(b"\0").decode("utf-8", "replace")


def encode_keepalive(object seconds) -> bytes:
    """Content of a server's edns-tcp-keepalive option: the idle timeout, in units of 100 ms (RFC 7828 section 3.1)."""
    return keepalive_units(seconds).to_bytes(2, "big")


def keepalive_units(object seconds) -> int:
    """An idle timeout as edns-tcp-keepalive has it: in units of 100 ms, at most 65535."""
    return min(max(round(seconds * 10), 0), 65535)
