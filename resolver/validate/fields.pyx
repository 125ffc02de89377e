"""RRSIG, DNSKEY, DS and type bitmaps, read in C, and the bytes that a signature covers (RFC 4034).

Parsers return None for rdata that they cannot read and raise nothing, because remote parties choose the bytes; the
caller treats the record as absent. Nothing is verified here. It is C because parsing each signature of a query that is
not cached, and the canonical form of each signed set, took in Python a quarter of the time of the cryptography.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from resolver.wire.name cimport name_length, name_lower
from resolver.wire.octets cimport get16, get32, put16
from resolver.wire.rdata cimport rdata_layout, rdata_lower
from resolver.wire.rrset cimport RRset

ZONE_KEY = 0x0100
"""RFC 4034 section 2.1.1, bit 7."""
REVOKED = 0x0080
"""RFC 5011 section 2.1."""
DNSKEY_PROTOCOL = 3

cdef enum:
    HEAD = 18               # of an RRSIG, up to the signer's name
    KEY_HEAD = 4
    ZONE_AND_REVOKED = 0x0180
    ZONE_ONLY = 0x0100
    PROTOCOL = 3
    NAME_SIZE = 255


cdef int labels_of(const uint8_t *name, Py_ssize_t size) noexcept nogil:
    """Labels of a valid name, the root's not counted."""
    cdef Py_ssize_t at = 0
    cdef int count = 0
    while at < size and name[at] != 0:
        at += 1 + name[at]
        count += 1
    return count


cdef inline int labels_as_signed(const uint8_t *name, Py_ssize_t size) noexcept nogil:
    """Labels as an RRSIG counts them: without a leading asterisk (RFC 4034 section 3.1.3)."""
    cdef int count = labels_of(name, size)
    if size >= 2 and name[0] == 1 and name[1] == b"*":
        return count - 1
    return count


@cython.final
@cython.no_gc            # only bytes and numbers inside: no cycle can go through it
@cython.freelist(64)
cdef class Rrsig:
    """RFC 4034 section 3.1. `signer` is in lower case; `rdata` is the whole record, signature included."""

    def __init__(self, uint16_t covered, uint8_t algorithm, uint8_t labels, uint32_t original_ttl, uint32_t expiration,
                 uint32_t inception, uint16_t tag, bytes signer not None, bytes signature not None,
                 bytes rdata not None):
        if PyBytes_GET_SIZE(rdata) <= HEAD:
            raise ValueError("an RRSIG has a head of 18 bytes and a signer")
        self.covered = covered
        self.algorithm = algorithm
        self.labels = labels
        self.original_ttl = original_ttl
        self.expiration = expiration
        self.inception = inception
        self.tag = tag
        self.signer = signer
        self.signature = signature
        self.rdata = rdata


@cython.final
@cython.no_gc
cdef class Dnskey:
    """RFC 4034 section 2.1, with the key tag of appendix B.

    `usable`: it may sign zone data, because it is a zone key of protocol 3 and not revoked.
    """

    def __init__(self, uint16_t flags, uint8_t protocol, uint8_t algorithm, bytes key not None, uint16_t tag,
                 bytes rdata not None):
        self.flags = flags
        self.protocol = protocol
        self.algorithm = algorithm
        self.key = key
        self.tag = tag
        self.rdata = rdata
        self.usable = (flags & ZONE_AND_REVOKED) == ZONE_ONLY and protocol == PROTOCOL

    def __repr__(self) -> str:
        return f"Dnskey(tag={self.tag}, algorithm={self.algorithm}, flags={self.flags})"


@cython.final
@cython.no_gc
cdef class Ds:
    """RFC 4034 section 5.1."""

    def __init__(self, uint16_t tag, uint8_t algorithm, uint8_t digest_type, bytes digest not None):
        self.tag = tag
        self.algorithm = algorithm
        self.digest_type = digest_type
        self.digest = digest


cdef Rrsig read_rrsig(const uint8_t *data, Py_ssize_t size):
    """The RRSIG in these bytes, or None when it is too short or its signer is not a name."""
    cdef Py_ssize_t length
    cdef Rrsig made
    if size < HEAD + 2:
        return None
    length = name_length(data + HEAD, size - HEAD)
    if length < 0 or HEAD + length >= size:
        return None
    made = Rrsig.__new__(Rrsig)
    made.covered = get16(data)
    made.algorithm = data[2]
    made.labels = data[3]
    made.original_ttl = get32(data + 4)
    made.expiration = get32(data + 8)
    made.inception = get32(data + 12)
    made.tag = get16(data + 16)
    made.signer = PyBytes_FromStringAndSize(NULL, length)
    name_lower(<uint8_t *>PyBytes_AS_STRING(made.signer), data + HEAD, length)
    made.signature = PyBytes_FromStringAndSize(<const char *>data + HEAD + length, size - HEAD - length)
    made.rdata = PyBytes_FromStringAndSize(<const char *>data, size)
    return made


def parse_rrsig(bytes rdata not None) -> Rrsig | None:
    """Read an RRSIG; None when it is too short or its signer is not a name."""
    return read_rrsig(<const uint8_t *>PyBytes_AS_STRING(rdata), PyBytes_GET_SIZE(rdata))


def signatures(RRset rrset not None, int most) -> list[Rrsig]:
    """The signatures of `rrset` that can be parsed and cover its type, among its first `most`."""
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(rrset.packed_sigs)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(rrset.packed_sigs)
    cdef Py_ssize_t at = 0, length
    cdef list found = []
    cdef Rrsig sig
    while at + 2 <= size and most > 0:
        length = get16(data + at)
        if at + 2 + length > size:
            break
        sig = read_rrsig(data + at + 2, length)
        if sig is not None and sig.covered == rrset.rtype:
            found.append(sig)
        at += 2 + length
        most -= 1
    return found


def key_tag(bytes rdata not None) -> int:
    """RFC 4034 appendix B, without the special rule for algorithm 1, which is not supported."""
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(rdata)
    cdef Py_ssize_t i, size = PyBytes_GET_SIZE(rdata)
    cdef uint32_t total = 0
    for i in range(size):
        total += data[i] if i & 1 else <uint32_t>data[i] << 8
    return (total + (total >> 16)) & 0xFFFF


def parse_dnskey(bytes rdata not None) -> Dnskey | None:
    """Read a DNSKEY; None when it has no key."""
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(rdata)
    if PyBytes_GET_SIZE(rdata) <= KEY_HEAD:
        return None
    return Dnskey(get16(data), data[2], data[3], rdata[KEY_HEAD:], key_tag(rdata), rdata)


def parse_ds(bytes rdata not None) -> Ds | None:
    """Read a DS; None when it has no digest."""
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(rdata)
    if PyBytes_GET_SIZE(rdata) <= KEY_HEAD:
        return None
    return Ds(get16(data), data[2], data[3], rdata[KEY_HEAD:])


def matching_keys(object keys, Rrsig sig not None) -> list[Dnskey]:
    """Those of `keys` that may have made `sig`: same tag and algorithm, and usable."""
    cdef Dnskey key
    cdef list found = []
    for key in keys:
        if key.tag == sig.tag and key.algorithm == sig.algorithm and key.usable:
            found.append(key)
    return found


def serial_before(uint32_t a, uint32_t b) -> bool:
    """Whether 32-bit time `a` is before `b` in serial arithmetic (RFC 4034 section 3.1.5, RFC 1982)."""
    return a != b and <uint32_t>(b - a) < 0x80000000u


def signer_labels(bytes owner not None) -> int:
    """Label count as an RRSIG states it: without the root and without a leading asterisk (RFC 4034 section 3.1.3)."""
    return labels_as_signed(<const uint8_t *>PyBytes_AS_STRING(owner), PyBytes_GET_SIZE(owner))


def is_timely(Rrsig sig not None, RRset rrset not None, int64_t now) -> bool:
    """Whether labels and times of `sig` are valid at `now` (RFC 4035 section 5.3.1), in one C call.

    False does not mean that the signature is rejected: the caller then decides about tolerance and error text.
    """
    cdef uint32_t moment = <uint32_t>now
    cdef int owner = labels_as_signed(<const uint8_t *>PyBytes_AS_STRING(rrset.name), PyBytes_GET_SIZE(rrset.name))
    cdef int least = labels_of(<const uint8_t *>PyBytes_AS_STRING(sig.signer), PyBytes_GET_SIZE(sig.signer))
    if sig.labels > owner or sig.labels < least:
        return False
    return (<int32_t>(sig.expiration - sig.inception) >= 0 and <int32_t>(sig.expiration - moment) >= 0
            and <int32_t>(moment - sig.inception) >= 0)


def signed_data(RRset rrset not None, Rrsig sig not None) -> bytes:
    """The bytes that `sig` signs (RFC 4034 section 3.1.8.1): its own head, then the set in canonical form.

    Names in the rdata are lower case, and records are sorted without duplicates (sections 6.2, 6.3). The owner of an
    expanded wildcard is the wildcard (RFC 4035 section 5.3.2).
    """
    cdef const uint8_t *name = <const uint8_t *>PyBytes_AS_STRING(rrset.name)
    cdef Py_ssize_t name_size = PyBytes_GET_SIZE(rrset.name)
    cdef Py_ssize_t signer_size = PyBytes_GET_SIZE(sig.signer)
    cdef Py_ssize_t size, length, at = 0
    cdef uint8_t owner[NAME_SIZE + 2]
    cdef uint8_t *out
    cdef const char *layout
    cdef list rdatas
    cdef bytes made, rdata
    cdef int extra = labels_as_signed(name, name_size) - sig.labels
    if extra > 0:
        if name_size >= 2 and name[0] == 1 and name[1] == b"*":
            at = 2
        while extra > 0:
            at += 1 + name[at]
            extra -= 1
        owner[0] = 1
        owner[1] = b"*"
        name_lower(owner + 2, name + at, name_size - at)
        name_size = name_size - at + 2
    else:
        name_lower(owner, name, name_size)
    if rrset.count == 1:
        length = PyBytes_GET_SIZE(rrset.packed)
        size = HEAD + signer_size + name_size + 8 + length
        made = PyBytes_FromStringAndSize(NULL, size)
        out = put_front(<uint8_t *>PyBytes_AS_STRING(made), rrset, sig, signer_size)
        out = put_owner(out, owner, name_size, rrset, sig)
        # The packed form is length and rdata, as in the signed data.
        memcpy(out, PyBytes_AS_STRING(rrset.packed), length)
        layout = rdata_layout(rrset.rtype, rrset.rclass)
        if layout != NULL:
            rdata_lower(out + 2, length - 2, layout)
        return made
    rdatas = rrset.canonical_rdatas()
    size = HEAD + signer_size
    for rdata in rdatas:
        size += name_size + 10 + PyBytes_GET_SIZE(rdata)
    made = PyBytes_FromStringAndSize(NULL, size)
    out = put_front(<uint8_t *>PyBytes_AS_STRING(made), rrset, sig, signer_size)
    for rdata in rdatas:
        length = PyBytes_GET_SIZE(rdata)
        out = put_owner(out, owner, name_size, rrset, sig)
        put16(out, <uint32_t>length)
        memcpy(out + 2, PyBytes_AS_STRING(rdata), length)
        out += 2 + length
    return made


cdef uint8_t *put_front(uint8_t *out, RRset rrset, Rrsig sig, Py_ssize_t signer_size) noexcept:
    """The RRSIG's own head with the signer in canonical form."""
    memcpy(out, PyBytes_AS_STRING(sig.rdata), HEAD)
    memcpy(out + HEAD, PyBytes_AS_STRING(sig.signer), signer_size)
    return out + HEAD + signer_size


cdef uint8_t *put_owner(uint8_t *out, const uint8_t *owner, Py_ssize_t size, RRset rrset, Rrsig sig) noexcept:
    """Owner, type, class and original TTL of one record."""
    memcpy(out, owner, size)
    out += size
    put16(out, rrset.rtype)
    put16(out + 2, rrset.rclass)
    put16(out + 4, sig.original_ttl >> 16)
    put16(out + 6, sig.original_ttl & 0xFFFF)
    return out + 8


# --- names and bitmaps inside rdata -------------------------------------------------------------------------------

def name_end(bytes data not None, Py_ssize_t start) -> int:
    """Index after the uncompressed name at `start`, or -1 when it exceeds `data`."""
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t length = name_length(p + start, PyBytes_GET_SIZE(data) - start) if start >= 0 else -1
    return start + length if length > 0 else -1


def bitmap_has(bytes bitmap not None, int rtype) -> bool:
    """Whether a type bitmap has `rtype` (RFC 4034 section 4.1.2). False where the bitmap is malformed."""
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(bitmap)
    cdef Py_ssize_t at = 0, end = PyBytes_GET_SIZE(bitmap)
    cdef int window = (rtype >> 8) & 0xFF, low = rtype & 0xFF
    cdef int number, length, place = low >> 3
    while at + 2 <= end:
        number, length = p[at], p[at + 1]
        at += 2
        if number == window:
            return place < length and at + place < end and (p[at + place] & (0x80 >> (low & 7))) != 0
        if number > window:
            return False
        at += length
    return False
