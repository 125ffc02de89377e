"""RRset: owner, type, class, TTL, and all rdata packed into one `bytes`, the signatures into another.

Immutable except `trust`, `verdict` and `zone_labels`, so that a set can be passed from the cache to an answer without a
copy. `zone_labels` is the number of labels of the zone whose servers have sent the set, plus `PUBLIC_ZONE` when they were
the public ones in place of a forward or stub zone that has failed, and `UNKNOWN_ZONE` when the zone is not known. A set of twenty records needs as many Python objects as one of a single record; objects for rdata are made only on
access. Packed form: 16-bit big-endian length and rdata, repeated; the same bytes are stored in the cache arena. Names inside rdata are
uncompressed.
"""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from resolver.wire.consts cimport *
from resolver.wire.name cimport byte_lower, checked, name_lower
from resolver.wire.octets cimport get16
from resolver.wire.rdata cimport rdata_check, rdata_layout, rdata_lower

from resolver.limits import RRSET_BYTES, RRSET_OVERHEAD, RRSET_RECORDS
from resolver.wire.errors import WireError, reason_of

cdef int _max_records = RRSET_RECORDS
cdef Py_ssize_t _max_bytes = RRSET_BYTES
cdef Py_ssize_t _overhead = RRSET_OVERHEAD
UNKNOWN_ZONE_LABELS = UNKNOWN_ZONE
PUBLIC_ZONE_LABELS = PUBLIC_ZONE


# --- packed form --------------------------------------------------------------------------------------------------

cdef int packed_count(const uint8_t *data, Py_ssize_t size) noexcept nogil:
    """Number of entries in packed rdata, or a negative code when its lengths are inconsistent."""
    cdef Py_ssize_t at = 0
    cdef int count = 0
    while at < size:
        if at + 2 > size:
            return E_TRUNCATED
        at += 2 + get16(data + at)
        count += 1
        if count > 65535:
            return E_SET_RECORDS
    return count if at == size else E_TRUNCATED


cdef int _count(bytes packed) except -1:
    """Number of entries. Raises WireError when the lengths are inconsistent."""
    cdef int count = packed_count(<const uint8_t *> PyBytes_AS_STRING(packed), PyBytes_GET_SIZE(packed))
    if count < 0:
        raise WireError(reason_of(count))
    return count


def unpack(bytes packed not None) -> list[bytes]:
    """Entries of packed rdata.

    Raises:
        WireError: lengths that do not add up.
    """
    cdef const uint8_t *data = <const uint8_t *> PyBytes_AS_STRING(packed)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(packed)
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t length
    cdef list found = []
    _count(packed)
    while at < size:
        length = get16(data + at)
        found.append(PyBytes_FromStringAndSize(<const char *> data + at + 2, length))
        at += 2 + length
    return found


def pack(object rdatas) -> bytes:
    """Packed form of several rdatas, in their order, without duplicates (RFC 2181 section 5).

    Raises:
        WireError: more records or bytes than a set may have, or an rdata above 65535 bytes.
    """
    cdef list parts = []
    cdef set seen = set()
    cdef bytes rdata
    cdef Py_ssize_t total = 0
    for rdata in rdatas:
        if rdata in seen:
            continue
        if len(rdata) > 65535:
            raise WireError(reason_of(E_EXPANDED))
        seen.add(rdata)
        parts.append(len(rdata).to_bytes(2, "big"))
        parts.append(rdata)
        total += 2 + len(rdata)
    if len(seen) > _max_records:
        raise WireError(reason_of(E_SET_RECORDS))
    if total > _max_bytes:
        raise WireError(reason_of(E_SET_BYTES))
    return b"".join(parts)


# --- the set ------------------------------------------------------------------------------------------------------

@cython.final
@cython.no_gc            # only bytes and numbers inside: no cycle can go through it
@cython.freelist(64)
cdef class RRset:
    """All records of one owner, type and class, with their signatures."""

    def __init__(self, bytes name not None, int rtype, object ttl, object rdatas, *, int rclass=C_IN, object sigs=(),
                 int trust=0, int verdict=0):
        """Make a set from uncompressed parts.

        Raises:
            WireError: the name is invalid, an rdata is invalid for the type, or the set is too large.
            ValueError: type, class or TTL is out of range.
        """
        checked(name)
        if not (0 <= rtype <= 65535 and 0 <= rclass <= 65535 and 0 <= ttl <= 0x7FFFFFFF):
            raise ValueError("type, class or TTL is out of range")
        self.name = name
        self.rtype = rtype
        self.rclass = rclass
        self.ttl = ttl
        self.packed = pack(rdatas)
        self.packed_sigs = pack(sigs)
        self.count = _check_all(self.packed, rtype, rclass)
        self.sig_count = _check_all(self.packed_sigs, T_RRSIG, rclass)
        self.trust = trust
        self.verdict = verdict
        self.zone_labels = UNKNOWN_ZONE

    @staticmethod
    def from_packed(bytes name not None, int rtype, object ttl, bytes packed not None, bytes packed_sigs=b"", *,
                    int rclass=C_IN, int trust=0, int verdict=0) -> RRset:
        """Make a set from packed bytes of another set; only their lengths are checked.

        Raises:
            WireError: the lengths are inconsistent.
        """
        return make_rrset(name, rtype, rclass, ttl, packed, _count(packed), packed_sigs, _count(packed_sigs),
                          trust, verdict)

    def __len__(self) -> int:
        return self.count

    @property
    def sig_len(self) -> int:
        """Number of signatures."""
        return self.sig_count

    @property
    def key(self) -> tuple[bytes, int]:
        """Lower-case owner and type: the key in dictionaries and caches."""
        return (self._lower(), self.rtype)

    cdef bytes _lower(self):
        """The owner in lower case, made once."""
        cdef const uint8_t *data
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t size
        if self._lowered is None:
            size = PyBytes_GET_SIZE(self.name)
            data = <const uint8_t *> PyBytes_AS_STRING(self.name)
            while at < size and data[at] == byte_lower(data[at]):
                at += 1
            if at == size:
                self._lowered = self.name
            else:
                self._lowered = PyBytes_FromStringAndSize(NULL, size)
                name_lower(<uint8_t *> PyBytes_AS_STRING(self._lowered), data, size)
        return self._lowered

    def rdata(self, Py_ssize_t index) -> bytes:
        """The rdata at this index; negative ones count from the end.

        Raises:
            IndexError: there is none.
        """
        cdef const uint8_t *data = <const uint8_t *> PyBytes_AS_STRING(self.packed)
        cdef Py_ssize_t at = 0
        if index < 0:
            index += self.count
        if not 0 <= index < self.count:
            raise IndexError("no such rdata")
        while index:
            at += 2 + get16(data + at)
            index -= 1
        return PyBytes_FromStringAndSize(<const char *> data + at + 2, get16(data + at))

    def rdatas(self) -> list[bytes]:
        """All rdata, in the received order, with uncompressed names."""
        return unpack(self.packed)

    def sigs(self) -> list[bytes]:
        """Rdata of the RRSIG records of this set."""
        return unpack(self.packed_sigs)

    def targets(self) -> list[bytes]:
        """The target name of each record, for NS, CNAME, DNAME, PTR, MX and SRV."""
        cdef const uint8_t *data = <const uint8_t *> PyBytes_AS_STRING(self.packed)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self.packed)
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t length, skip
        cdef list found = []
        if self.rtype in (T_NS, T_CNAME, T_DNAME, T_PTR):
            skip = 0
        elif self.rtype == T_MX:
            skip = 2
        elif self.rtype == T_SRV:
            skip = 6
        else:
            return found
        while at < size:
            length = get16(data + at)
            found.append(PyBytes_FromStringAndSize(<const char *> data + at + 2 + skip, length - skip))
            at += 2 + length
        return found

    def canonical_rdatas(self) -> list[bytes]:
        """Rdata in the canonical form for signatures: lower-case names (RFC 4034 section 6.2), sorted, without
        duplicates (6.3)."""
        cdef const char *layout = rdata_layout(self.rtype, self.rclass)
        cdef bytes made
        cdef set found = set()
        for rdata in unpack(self.packed):
            if layout != NULL:
                made = PyBytes_FromStringAndSize(PyBytes_AS_STRING(<bytes> rdata), PyBytes_GET_SIZE(<bytes> rdata))
                # this new object is not hashed or shared yet, so it may be changed
                rdata_lower(<uint8_t *> PyBytes_AS_STRING(made), PyBytes_GET_SIZE(made), layout)
                found.add(made)
            else:
                found.add(rdata)
        return sorted(found)

    def with_ttl(self, object ttl) -> RRset:
        """The same set with another TTL (seconds)."""
        if not 0 <= ttl <= 0x7FFFFFFF:
            raise ValueError("TTL is out of range")
        cdef RRset made = self._copy()
        made.ttl = ttl
        return made

    def with_name(self, bytes name not None) -> RRset:
        """The same records with another owner, for wildcard expansion."""
        checked(name)
        cdef RRset made = self._copy()
        made.name = name
        made._lowered = None
        return made

    def with_sigs(self, object sigs) -> RRset:
        """The same set with these signatures instead.

        Raises:
            WireError: one of them is not valid RRSIG rdata.
        """
        cdef RRset made = self._copy()
        made.packed_sigs = pack(sigs)
        made.sig_count = _check_all(made.packed_sigs, T_RRSIG, self.rclass)
        return made

    def without_sigs(self) -> RRset:
        """The same set without signatures."""
        if self.sig_count == 0:
            return self
        cdef RRset made = self._copy()
        made.packed_sigs = b""
        made.sig_count = 0
        return made

    cdef RRset _copy(self):
        """A new object that shares all bytes with this one."""
        cdef RRset made = make_rrset(self.name, self.rtype, self.rclass, self.ttl, self.packed, self.count,
                                     self.packed_sigs, self.sig_count, self.trust, self.verdict)
        made._lowered = self._lowered
        made.zone_labels = self.zone_labels
        return made

    def __eq__(self, other: object) -> bool:
        """Same owner (in any letter case), type, class, TTL, records and signatures, in any order."""
        if not isinstance(other, RRset):
            return NotImplemented
        cdef RRset that = other
        if (self.rtype != that.rtype or self.rclass != that.rclass or self.ttl != that.ttl or self.count != that.count
                or self.sig_count != that.sig_count or self._lower() != that._lower()):
            return False
        if self.packed == that.packed and self.packed_sigs == that.packed_sigs:
            return True
        return (self.canonical_rdatas() == that.canonical_rdatas()
                and sorted(self.sigs()) == sorted(that.sigs()))

    def __hash__(self) -> int:
        return hash((self._lower(), self.rtype, self.rclass, self.ttl, self.count))

    def __repr__(self) -> str:
        from resolver.wire.consts import class_to_text, type_to_text
        from resolver.wire.name import to_text
        return (f"<RRset {to_text(self.name)} {self.ttl} {class_to_text(self.rclass)} {type_to_text(self.rtype)} "
                f"x{self.count} sigs={self.sig_count} trust={self.trust} verdict={self.verdict}>")


cdef int _check_all(bytes packed, int rtype, int rclass) except -1:
    """Check each rdata against the layout of its type, and return their number."""
    cdef const uint8_t *data = <const uint8_t *> PyBytes_AS_STRING(packed)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(packed)
    cdef const char *layout = rdata_layout(rtype, rclass)
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t length, got
    cdef int count = 0
    while at < size:
        length = get16(data + at)
        # a message size of 0: pointers are errors
        got = rdata_check(data, 0, at + 2, length, layout)
        if got < 0:
            raise WireError(reason_of(got))
        at += 2 + length
        count += 1
    return count


cdef RRset make_rrset(bytes name, uint16_t rtype, uint16_t rclass, uint32_t ttl, bytes packed, int count,
                      bytes packed_sigs, int sig_count, uint8_t trust, uint8_t verdict):
    """Make a set from valid parts, without checks."""
    cdef RRset made = RRset.__new__(RRset)
    made.name = name
    made.rtype = rtype
    made.rclass = rclass
    made.ttl = ttl
    made.packed = packed
    made.packed_sigs = packed_sigs
    made.count = count
    made.sig_count = sig_count
    made.trust = trust
    made.verdict = verdict
    made.zone_labels = UNKNOWN_ZONE
    return made


def negative_ttl(RRset soa not None) -> int:
    """The negative TTL (seconds): the lower of the SOA's TTL and its MINIMUM field (RFC 2308 section 5)."""
    cdef bytes fields = soa.rdata(0)
    return min(soa.ttl, int.from_bytes(fields[max(len(fields) - 4, 0):], "big"))


def octets_of(list rrsets not None) -> int:
    """Estimated upper limit of the memory of these sets: each name twice, signatures packed and parsed."""
    cdef Py_ssize_t total = 0
    cdef RRset one
    for one in rrsets:
        total += (_overhead + 2 * PyBytes_GET_SIZE(one.name) + PyBytes_GET_SIZE(one.packed)
                  + 2 * PyBytes_GET_SIZE(one.packed_sigs))
    return total
