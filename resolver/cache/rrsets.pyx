"""The cache of RRsets by name and type, denials, and failures, each with its trust, verdict and age.

Rules that hold for every caller: a fresh set of higher trust is not replaced by one of lower trust (RFC 2181 section
5.4.1). The child's own NS set never expires later than the fresh NS set it replaces (ghost domains, CVE-2012-1192), so
a zone that was removed from its parent disappears with the parent's TTL. TTLs have a maximum, which is lower for
denials (RFC 2308 section 5) and five minutes for failures (RFC 9520 section 3.2).
A set is stored under its lower-case owner. The received letter case is not kept: a found set has the owner as queried.
Only class IN is stored, because nothing else is resolved.
Parts: a cache made by `partition` has the number of its part in each of its keys, between name and type. So its entries
are found by it alone, in all processes, while flushes by name find them in all parts.
Values are the packed rdata of `wire.rrset`, the packed signatures, and one octet for `RRset.zone_labels`; `aux` is the
length of the first.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from resolver.cache.arena cimport atomic_add64
from resolver.cache.lookup cimport (
    KIND_FAILURE, KIND_NEGATIVE, KIND_RRSET, Hit, read_is_consistent, read_attempts, remaining, table_find, table_hash,
    table_touch,
)
from resolver.cache.table cimport Table
from resolver.cache.scan cimport DumpEntry
from resolver.cache.writers cimport PUT_NOT_LONGER, PUT_RANKED, PUT_STORED, Slice, table_drop, table_put
from resolver.wire.consts cimport C_IN, T_CNAME, T_NS
from resolver.wire.name cimport name_length, name_lower
from resolver.wire.octets cimport get16, put16
from resolver.wire.rrset cimport RRset, make_rrset, packed_count

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from resolver import limits
from resolver.verdict import Trust, Verdict

cdef enum:
    KEY_SIZE = 265              # name, part and type
    PART_SIZE = 8
    NXDOMAIN = 3
    FAILURE_HEAD = 2            # kind; verdict and one, 0 for none; the text follows
    SET_TAIL = 1                # `RRset.zone_labels`, behind the signatures of a set
    SET_HEAD = 16               # type (2), TTL (4), trust, verdict, lengths (4, 4) of a set inside a negative entry

cdef int TRUST_GLUE = Trust.GLUE
cdef int TRUST_CONFIGURED = Trust.CONFIGURED
cdef int TRUST_ANSWER = Trust.NONAUTH_ANSWER
cdef int MOST_VERDICT = max(Verdict)
cdef int LEAST_VALIDATED = Verdict.INSECURE
cdef int64_t STALE_TTL = limits.CACHE_STALE_TTL.default
cdef int MAX_SETS = limits.CACHE_ENTRY_RECORDS
cdef int64_t MAX_FAILURE_TTL = limits.CACHE_FAILURE_TTL.maximum
cdef int MAX_TEXT = limits.EDE_TEXT


cdef inline uint32_t make_key(uint8_t *key, bytes name, uint16_t rtype, uint64_t part) except 0:
    """Write the key, lower-case name, part unless 0, and type, and return its size.

    Raises:
        ValueError: `name` is not a name in wire form.
    """
    cdef Py_ssize_t size = PyBytes_GET_SIZE(name)
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(name)
    if not 0 < size <= 255 or name_length(p, size) != size:
        raise ValueError(f"not a name in wire form: {name!r}")
    name_lower(key, p, size)
    if part != 0:
        memcpy(key + size, &part, PART_SIZE)
        size += PART_SIZE
    put16(key + size, rtype)
    return <uint32_t>size + 2


cdef inline bytes slice_bytes(const uint8_t *p, Py_ssize_t size):
    return PyBytes_FromStringAndSize(<const char *>p, size)


# ------------------------------------------------------------------------------------------------------- negative

@cython.final
cdef class NegativeEntry:
    """A denial from the cache: `rcode` (NXDOMAIN or NOERROR), `soa` (or None) and `proofs` with their signatures,
    `ttl` in seconds from now, and the `verdict` of the whole."""

    def __init__(self, rcode: int, soa: RRset | None, proofs: list[RRset], ttl: int, verdict: int) -> None:
        self.rcode = rcode
        self.soa = soa
        self.proofs = proofs
        self.ttl = ttl
        self.verdict = verdict

    def __repr__(self) -> str:
        return f"NegativeEntry(rcode={self.rcode}, ttl={self.ttl}, verdict={self.verdict}, proofs={len(self.proofs)})"


class CachedFailure(NamedTuple):
    """A failure from the cache: its `kind` and `verdict` (None: there was no data), the extended error with its text,
    and `left`, the seconds until the question is resolved again."""

    kind: int
    verdict: int | None
    ede: int
    text: str
    left: int


cdef bytes pack_set(RRset rrset):
    """A set inside another entry: name, fixed head, rdata, signatures."""
    cdef uint32_t name_size = <uint32_t>PyBytes_GET_SIZE(rrset.name)
    cdef uint32_t packed = <uint32_t>PyBytes_GET_SIZE(rrset.packed)
    cdef uint32_t sigs = <uint32_t>PyBytes_GET_SIZE(rrset.packed_sigs)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, name_size + SET_HEAD + packed + sigs)
    cdef uint8_t *p = <uint8_t *>PyBytes_AS_STRING(out)
    memcpy(p, PyBytes_AS_STRING(rrset.name), name_size)
    p += name_size
    memcpy(p, &rrset.rtype, 2)
    memcpy(p + 2, &rrset.ttl, 4)
    p[6] = rrset.trust
    p[7] = rrset.verdict
    memcpy(p + 8, &packed, 4)
    memcpy(p + 12, &sigs, 4)
    memcpy(p + SET_HEAD, PyBytes_AS_STRING(rrset.packed), packed)
    memcpy(p + SET_HEAD + packed, PyBytes_AS_STRING(rrset.packed_sigs), sigs)
    return out


cdef list unpack_sets(bytes value, uint32_t age, uint32_t left):
    """The sets of concatenated `pack_set` values, with TTLs reduced by `age` and at most `left`; None when invalid."""
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(value)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(value)
    cdef Py_ssize_t at = 0, name_size
    cdef uint16_t rtype
    cdef uint32_t ttl, packed, sigs
    cdef list sets = []
    cdef bytes name, rdata, signatures
    while at < size:
        name_size = name_length(p + at, size - at)
        if name_size < 0 or at + name_size + SET_HEAD > size:
            return None
        name = slice_bytes(p + at, name_size)
        at += name_size
        memcpy(&rtype, p + at, 2)
        memcpy(&ttl, p + at + 2, 4)
        memcpy(&packed, p + at + 8, 4)
        memcpy(&sigs, p + at + 12, 4)
        if at + SET_HEAD + <Py_ssize_t>packed + <Py_ssize_t>sigs > size:
            return None
        ttl = min(ttl - age if ttl > age else 0, left)
        rdata = slice_bytes(p + at + SET_HEAD, packed)
        signatures = slice_bytes(p + at + SET_HEAD + packed, sigs)
        sets.append(make_rrset(name, rtype, C_IN, ttl, rdata,
                               max(0, packed_count(p + at + SET_HEAD, packed)), signatures,
                               max(0, packed_count(p + at + SET_HEAD + packed, sigs)), p[at + 6], p[at + 7]))
        at += SET_HEAD + packed + sigs
    return sets


# ---------------------------------------------------------------------------------------------------------- cache

@cython.final
cdef class RRsetCache:
    """RRsets, denials and failures in a table. TTLs are in seconds; `now` is in seconds since 1970.

    Raises:
        ValueError: a value is outside `limits.CACHE_MAX_TTL` or `CACHE_MAX_NEGATIVE_TTL`.
    """

    def __cinit__(self, table: Table, *, max_ttl: int = 86400, max_negative_ttl: int = 3600) -> None:
        self.table = table
        self.max_ttl = limits.CACHE_MAX_TTL.check(max_ttl, "max_ttl")
        self.max_negative_ttl = limits.CACHE_MAX_NEGATIVE_TTL.check(max_negative_ttl, "max_negative_ttl")

    def partition(self, label: bytes) -> RRsetCache:
        """The part of the same table that belongs to `label`, which is 8 octets of a digest. What is stored in one part
        is not found in another.

        Raises:
            ValueError: the label has another length or only zeros, which stands for no part.
        """
        cdef RRsetCache made
        if len(label) != PART_SIZE or not any(label):
            raise ValueError(f"a part has a label of {PART_SIZE} octets")
        made = RRsetCache(self.table, max_ttl=self.max_ttl, max_negative_ttl=self.max_negative_ttl)
        made.part = int.from_bytes(label, "big")
        return made

    def put(self, rrset: RRset, now: int) -> bool:
        """Store a set with its `trust` and `verdict`; False when it is not stored.

        Not stored: a TTL of zero, another class than IN, an empty set, a set with less trust than the fresh one in the
        cache, or one too large for the arena. A set that may answer clients also removes denials of itself whose
        verdict is not higher.

        Raises:
            ValueError: the owner is not a name in wire form.
        """
        cdef uint8_t key[KEY_SIZE]
        cdef uint32_t size = make_key(key, rrset.name, rrset.rtype, self.part)
        cdef Slice pieces[3]
        cdef int64_t ttl = min(<int64_t>rrset.ttl, self.max_ttl)
        cdef Py_ssize_t packed = PyBytes_GET_SIZE(rrset.packed)
        cdef int flags = PUT_RANKED
        cdef int rc
        if ttl <= 0 or rrset.rclass != C_IN or packed == 0 or packed > 65535 or rrset.trust > 15:
            return False
        if rrset.rtype == T_NS and TRUST_GLUE < rrset.trust < TRUST_CONFIGURED:
            flags |= PUT_NOT_LONGER
        pieces[0].data = PyBytes_AS_STRING(rrset.packed)
        pieces[0].size = <uint32_t>packed
        pieces[1].data = PyBytes_AS_STRING(rrset.packed_sigs)
        pieces[1].size = <uint32_t>PyBytes_GET_SIZE(rrset.packed_sigs)
        pieces[2].data = <const char *>&rrset.zone_labels
        pieces[2].size = SET_TAIL
        rc = table_put(&self.table.view, table_hash(&self.table.view, KIND_RRSET, key, size), KIND_RRSET, key, size,
                       pieces, 3, now, <uint32_t>ttl, (rrset.trust & 15) | ((rrset.verdict & 3) << 4),
                       <uint16_t>packed, flags, 0, self.serial)
        if rc == PUT_STORED and rrset.trust >= TRUST_ANSWER:
            self.drop_denial(key, size, rrset.verdict, now)
            put16(key + size - 2, 0)
            self.drop_denial(key, size, rrset.verdict, now)
        return rc == PUT_STORED

    cdef void drop_denial(self, const uint8_t *key, uint32_t size, uint8_t verdict, int64_t now) noexcept:
        cdef Hit f
        cdef uint64_t h = table_hash(&self.table.view, KIND_NEGATIVE, key, size)
        if table_find(&self.table.view, h, KIND_NEGATIVE, key, size, &f) and (
                (f.meta >> 4) <= verdict or remaining(now, f.created, f.ttl) <= 0):
            table_drop(&self.table.view, h, KIND_NEGATIVE, key, size)

    def find(self, name: bytes, rtype: int, now: int, *, min_trust: int = TRUST_GLUE, stale: int = 0) -> RRset | None:
        """The set with its TTL reduced by its age, or None.

        With `stale`, sets that expired less than `stale` seconds ago are found, with the TTL of RFC 8767 section 5.2.

        Raises:
            ValueError: `name` is not a name in wire form.
        """
        cdef uint8_t key[KEY_SIZE]
        cdef uint32_t size = make_key(key, name, rtype, self.part)
        return self.find_set(name, key, size, now, min_trust, stale)

    def holds(self, name: bytes, rtype: int) -> bool:
        """Whether there is anything for a question, fresh or expired: a set, a CNAME, a denial or a failure.

        One call instead of those of `find`, `find_negative` and `find_failure`. When there is nothing, it counts one
        miss of each kind.

        Raises:
            ValueError: `name` is not a name in wire form.
        """
        cdef uint8_t key[KEY_SIZE]
        cdef uint32_t size = make_key(key, name, rtype, self.part)
        cdef Hit f
        if (self.find_any(KIND_RRSET, key, size, &f) or self.find_any(KIND_NEGATIVE, key, size, &f)
                or self.find_any(KIND_FAILURE, key, size, &f)):
            return True
        put16(key + size - 2, T_CNAME)
        if self.find_any(KIND_RRSET, key, size, &f):
            return True
        put16(key + size - 2, 0)                        # a denial of the whole name (NXDOMAIN)
        if self.find_any(KIND_NEGATIVE, key, size, &f):
            return True
        atomic_add64(&self.table.view.misses[KIND_RRSET], 1)
        atomic_add64(&self.table.view.misses[KIND_NEGATIVE], 1)
        atomic_add64(&self.table.view.misses[KIND_FAILURE], 1)
        return False

    cdef RRset find_set(self, bytes name, const uint8_t *key, uint32_t size, int64_t now, int min_trust,
                        int64_t stale):
        cdef Hit f
        cdef int64_t left
        cdef bytes packed, sigs
        cdef uint8_t zone_labels
        cdef int count, sig_count, _attempt
        cdef RRset found
        cdef uint64_t h = table_hash(&self.table.view, KIND_RRSET, key, size)
        for _attempt in range(read_attempts):
            if not table_find(&self.table.view, h, KIND_RRSET, key, size, &f):
                break
            left = remaining(now, f.created, f.ttl)
            if left <= 0 or (f.meta & 15) < min_trust or <uint32_t>f.aux + SET_TAIL > f.value_size:
                if left > -stale and (f.meta & 15) >= min_trust and <uint32_t>f.aux + SET_TAIL <= f.value_size:
                    left = STALE_TTL
                elif read_is_consistent(&f):
                    break
                else:
                    continue
            packed = slice_bytes(f.value, f.aux)
            sigs = slice_bytes(f.value + f.aux, f.value_size - SET_TAIL - f.aux)
            zone_labels = f.value[f.value_size - SET_TAIL]
            if not read_is_consistent(&f):
                continue
            count = packed_count(<const uint8_t *>PyBytes_AS_STRING(packed), f.aux)
            sig_count = packed_count(<const uint8_t *>PyBytes_AS_STRING(sigs), f.value_size - SET_TAIL - f.aux)
            if count < 0 or sig_count < 0:
                break                                   # from a loaded dump, whose values are not checked
            table_touch(&f)
            atomic_add64(&self.table.view.hits[KIND_RRSET], 1)
            found = make_rrset(name, get16(key + size - 2), C_IN, <uint32_t>left, packed, count, sigs, sig_count,
                               f.meta & 15, (f.meta >> 4) & 3)
            found.zone_labels = zone_labels
            return found
        atomic_add64(&self.table.view.misses[KIND_RRSET], 1)
        return None

    def closest_cut(self, name: bytes, now: int, *, for_ds: bool = False) -> tuple[bytes, RRset] | None:
        """The deepest zone (lower case) at or above `name` whose NS set is cached, and that set; None without any.

        With `for_ds` only above `name`, because a DS set belongs to the parent zone (RFC 4035 section 3.1.4.1).

        Raises:
            ValueError: `name` is not a name in wire form.
        """
        cdef uint8_t key[KEY_SIZE]
        cdef uint32_t size = make_key(key, name, T_NS, self.part)
        cdef uint32_t at = 0
        cdef Hit f
        cdef bytes zone
        cdef RRset found
        if for_ds and key[0] != 0:
            at = <uint32_t>key[0] + 1
        while True:                                     # at most 128 steps: the key is a checked name
            if table_find(&self.table.view, table_hash(&self.table.view, KIND_RRSET, key + at, size - at), KIND_RRSET,
                          key + at, size - at, &f):
                zone = slice_bytes(key + at, size - at - 2 - (PART_SIZE if self.part else 0))
                found = self.find_set(zone, key + at, size - at, now, TRUST_GLUE, 0)
                if found is not None:
                    return zone, found
            if key[at] == 0:
                return None
            at += <uint32_t>key[at] + 1

    # ---------------------------------------------------------------------------------------------------- denials

    def put_negative(self, name: bytes, rtype: int, *, soa: RRset | None, proofs: Sequence[RRset] = (), ttl: int,
                     verdict: int, now: int) -> bool:
        """Store a denial: of the whole name with `rtype` 0 (NXDOMAIN), else of that type at the name (NODATA).

        `ttl` comes from the SOA record (the smaller of its TTL and its MINIMUM, RFC 2308 section 5); its maximum is
        enforced here. False when nothing is stored: a TTL of zero, too many proofs, too many bytes.

        Raises:
            ValueError: `name` is not a name in wire form.
        """
        cdef uint8_t key[KEY_SIZE]
        cdef uint32_t size = make_key(key, name, rtype, self.part)
        cdef Slice piece
        cdef int64_t left = min(<int64_t>ttl, self.max_negative_ttl, self.max_ttl)
        cdef bytes value
        if left <= 0 or len(proofs) > MAX_SETS:
            return False
        value = b"".join([pack_set(one) for one in ([] if soa is None else [soa]) + list(proofs)])
        piece.data = PyBytes_AS_STRING(value)
        piece.size = <uint32_t>PyBytes_GET_SIZE(value)
        return table_put(&self.table.view, table_hash(&self.table.view, KIND_NEGATIVE, key, size), KIND_NEGATIVE, key,
                         size, &piece, 1, now, <uint32_t>left, (verdict & 3) << 4, soa is not None, 0, 0,
                         self.serial) == PUT_STORED

    def find_negative(self, name: bytes, rtype: int, now: int, *, stale: int = 0) -> NegativeEntry | None:
        """The denial of this type at `name`, or of the whole name, or None; `stale` as in `find`.

        Raises:
            ValueError: `name` is not a name in wire form.
        """
        cdef uint8_t key[KEY_SIZE]
        cdef uint32_t size = make_key(key, name, rtype, self.part)
        cdef Hit f
        cdef bytes value
        cdef int64_t left = 0
        cdef list sets
        value = self.copy_value(KIND_NEGATIVE, key, size, now, stale, &f, &left)
        if value is None and rtype != 0:
            rtype = 0
            put16(key + size - 2, 0)
            value = self.copy_value(KIND_NEGATIVE, key, size, now, stale, &f, &left)
        if value is None:
            atomic_add64(&self.table.view.misses[KIND_NEGATIVE], 1)
            return None
        if left <= 0:
            left = STALE_TTL
            sets = unpack_sets(value, 0, <uint32_t>left)
        else:
            sets = unpack_sets(value, f.ttl - <uint32_t>left, <uint32_t>left)
        if sets is None or (f.aux and not sets):
            return None
        atomic_add64(&self.table.view.hits[KIND_NEGATIVE], 1)
        return NegativeEntry(NXDOMAIN if rtype == 0 else 0, sets[0] if f.aux else None, sets[1:] if f.aux else sets, left,
                             (f.meta >> 4) & 3)

    # --------------------------------------------------------------------------------------------------- failures

    def put_failure(self, name: bytes, rtype: int, *, kind: int, verdict: int | None, ede: int, text: str, ttl: int,
                    now: int, count: int = 1) -> bool:
        """Store that this question could not be answered, and why (RFC 9520). The TTL is at most five minutes.

        `kind` and `verdict` are those of the failure, `ede` and `text` are for clients. `count` is the number of
        failures in a row, including this one; see `failures`.

        Raises:
            ValueError: `name` is not a name in wire form, or `kind` is above 255.
        """
        cdef uint8_t key[KEY_SIZE]
        cdef uint32_t size = make_key(key, name, rtype, self.part)
        cdef bytes value = bytes((kind, 0 if verdict is None else verdict + 1))
        cdef Slice piece
        cdef int64_t left = min(<int64_t>ttl, MAX_FAILURE_TTL)
        if left <= 0:
            return False
        value += text.encode("utf-8", "replace")[:MAX_TEXT]
        piece.data = PyBytes_AS_STRING(value)
        piece.size = <uint32_t>PyBytes_GET_SIZE(value)
        return table_put(&self.table.view, table_hash(&self.table.view, KIND_FAILURE, key, size), KIND_FAILURE, key,
                         size, &piece, 1, now, <uint32_t>left, <uint8_t>min(max(count, 0), 255), ede & 0xFFFF,
                         0, 0, self.serial) == PUT_STORED

    def find_failure(self, name: bytes, rtype: int, now: int) -> CachedFailure | None:
        """The cached failure of a question that must not be resolved again yet, or None.

        Raises:
            ValueError: `name` is not a name in wire form.
        """
        cdef uint8_t key[KEY_SIZE]
        cdef uint32_t size = make_key(key, name, rtype, self.part)
        cdef Hit f
        cdef bytes value
        cdef int64_t left = 0
        value = self.copy_value(KIND_FAILURE, key, size, now, 0, &f, &left)
        if value is None or len(value) < FAILURE_HEAD or value[1] > MOST_VERDICT + 1:
            atomic_add64(&self.table.view.misses[KIND_FAILURE], 1)
            return None
        atomic_add64(&self.table.view.hits[KIND_FAILURE], 1)
        return CachedFailure(value[0], value[1] - 1 if value[1] else None, f.aux,
                             value[FAILURE_HEAD:].decode("utf-8", "ignore"), left)

    def failures(self, name: bytes, rtype: int, now: int, *, validated: bool = False) -> int:
        """How often in a row this question has failed: 0 after a success, or five minutes after the failure expired.

        `validated`: only validated data is a success, as after a failure of validation.

        Raises:
            ValueError: `name` is not a name in wire form.
        """
        cdef uint8_t key[KEY_SIZE]
        cdef uint32_t size = make_key(key, name, rtype, self.part)
        cdef Hit f
        cdef int count
        cdef int least = LEAST_VALIDATED if validated else 0
        cdef int64_t failed
        if (not self.find_any(KIND_FAILURE, key, size, &f)
                or remaining(now, f.created, f.ttl) <= -MAX_FAILURE_TTL):
            return 0
        count, failed = f.meta, f.created
        if (self.find_any(KIND_RRSET, key, size, &f) and (f.meta & 15) >= TRUST_ANSWER and f.created > failed
                and ((f.meta >> 4) & 3) >= least):
            return 0
        if self.find_any(KIND_NEGATIVE, key, size, &f) and f.created > failed and ((f.meta >> 4) & 3) >= least:
            return 0
        put16(key + size - 2, 0)
        if self.find_any(KIND_NEGATIVE, key, size, &f) and f.created > failed and ((f.meta >> 4) & 3) >= least:
            return 0
        return count

    def created(self, name: bytes, rtype: int, *, denied: bool = False) -> int:
        """When the cached set, or with `denied` the denial, was stored (seconds since 1970), fresh or expired; 0 when
        there is none. A denial of the whole name counts for each type.

        Raises:
            ValueError: `name` is not a name in wire form.
        """
        cdef uint8_t key[KEY_SIZE]
        cdef uint32_t size = make_key(key, name, rtype, self.part)
        cdef Hit f
        cdef int64_t latest = 0
        if not denied:
            return f.created if self.find_any(KIND_RRSET, key, size, &f) else 0
        if self.find_any(KIND_NEGATIVE, key, size, &f):
            latest = f.created
        put16(key + size - 2, 0)
        if self.find_any(KIND_NEGATIVE, key, size, &f):
            latest = max(latest, <int64_t>f.created)
        return latest

    cdef bint find_any(self, uint8_t kind, const uint8_t *key, uint32_t size, Hit *f) noexcept:
        """Whether the table has the entry, fresh or expired. Only the numbers in `f` may be used."""
        return table_find(&self.table.view, table_hash(&self.table.view, kind, key, size), kind, key, size, f)

    cdef bytes copy_value(self, uint8_t kind, const uint8_t *key, uint32_t size, int64_t now, int64_t stale, Hit *f,
                          int64_t *left):
        """The value of an entry that is fresh or expired less than `stale` seconds ago, or None. Fills `f`, `left`."""
        cdef bytes value
        cdef int _attempt
        cdef uint64_t h = table_hash(&self.table.view, kind, key, size)
        for _attempt in range(read_attempts):
            if not table_find(&self.table.view, h, kind, key, size, f):
                return None
            left[0] = remaining(now, f.created, f.ttl)
            value = slice_bytes(f.value, f.value_size)
            if read_is_consistent(f):
                if left[0] <= 0 and left[0] <= -stale:
                    return None
                table_touch(f)
                return value
        return None

    # --------------------------------------------------------------------------------------------------------- walk

    def walk(self, now: int) -> Iterator[tuple[bytes, int, int, RRset | None]]:
        """All fresh sets and denials of this part: owner, type, remaining seconds, and the set, or None for a denial (type 0: of the
        whole name). The cache stays in use: entries that change meanwhile may be missed or appear twice.

        Raises:
            BlockingIOError: a stopped process holds a lock of the cache.
        """
        cdef bytes block, owner
        cdef const uint8_t *p
        cdef uint64_t at, size
        cdef DumpEntry head
        cdef const uint8_t *key
        cdef int64_t left
        cdef uint16_t rtype
        cdef int count, sigs
        cdef Py_ssize_t size_of_sigs
        cdef Py_ssize_t tail = 2 + (PART_SIZE if self.part else 0)
        for block in self.table.copy_out((1 << KIND_RRSET) | (1 << KIND_NEGATIVE), now=now):
            p = <const uint8_t *>PyBytes_AS_STRING(block)
            size = PyBytes_GET_SIZE(block)
            at = 0
            while at + sizeof(DumpEntry) <= size:
                memcpy(&head, p + at, sizeof(DumpEntry))
                key = p + at + sizeof(DumpEntry)
                at += sizeof(DumpEntry) + head.key_size + head.value_size
                left = remaining(now, head.created, head.ttl)
                if at > size or left <= 0 or name_length(key, head.key_size) != <Py_ssize_t>head.key_size - tail or (
                        self.part and memcmp(key + head.key_size - tail, &self.part, PART_SIZE) != 0):
                    continue
                owner = slice_bytes(key, head.key_size - tail)
                rtype = get16(key + head.key_size - 2)
                if head.kind == KIND_NEGATIVE:
                    yield owner, rtype, left, None
                    continue
                if <uint32_t>head.aux + SET_TAIL > head.value_size:
                    continue
                count = packed_count(key + head.key_size, head.aux)
                size_of_sigs = head.value_size - SET_TAIL - head.aux
                sigs = packed_count(key + head.key_size + head.aux, size_of_sigs)
                if count >= 0 and sigs >= 0:
                    yield owner, rtype, left, make_rrset(
                        owner, rtype, C_IN, <uint32_t>left, slice_bytes(key + head.key_size, head.aux), count,
                        slice_bytes(key + head.key_size + head.aux, size_of_sigs), sigs, head.meta & 15,
                        (head.meta >> 4) & 3)

    # ----------------------------------------------------------------------------------------------------- removal

    def drop(self, name: bytes, rtype: int, *, failure: bool = True) -> int:
        """Remove the set and denials of one type at `name`, with `failure` also its failure. Returns the number of
        entries.

        Raises:
            ValueError: `name` is not a name in wire form.
        """
        cdef uint8_t key[KEY_SIZE]
        cdef uint32_t size = make_key(key, name, rtype, self.part)
        cdef int gone = 0
        cdef uint8_t kind
        for kind in (KIND_RRSET, KIND_NEGATIVE, KIND_FAILURE):
            if kind == KIND_FAILURE and not failure:
                continue
            gone += table_drop(&self.table.view, table_hash(&self.table.view, kind, key, size), kind, key, size) == 1
        put16(key + size - 2, 0)
        return gone + (table_drop(&self.table.view, table_hash(&self.table.view, KIND_NEGATIVE, key, size),
                                  KIND_NEGATIVE, key, size) == 1)
