"""Builds a message front to back, with compression, a size limit and space reserved for OPT.

An RRset is written completely or not at all, with its signatures when requested, so that a truncated message ends at
the boundary of a set (RFC 2181 section 9). Owner names are compressed regardless of letter case, names inside rdata
only against the same letter case, because owners take the case of the query and rdata must keep its own. Only names in
rdata of RFC 1035 types are compressed (RFC 3597 section 4). The table of compression targets is limited. A target is
compared with the bytes in the message before it is used, so a stale or colliding entry only costs size. Names made to
collide (the hash has no key) would also cost time, so after some failed comparisons nothing is compressed any more
(CVE-2024-8508).
"""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from resolver.wire.consts cimport *
from resolver.wire.name cimport byte_lower, checked, name_equal_ci, name_expand, name_labels, name_length
from resolver.wire.octets cimport get16, put16, put32, put_opt
from resolver.wire.rdata cimport rdata_compressible, rdata_layout, rdata_next_name
from resolver.wire.rrset cimport RRset

from resolver.limits import COMPRESSION_ENTRIES, COMPRESSION_MISSES
from resolver.wire.edns import options_to_wire

cdef int _max_targets = COMPRESSION_ENTRIES
cdef int _max_misses = COMPRESSION_MISSES

cdef enum:
    SLOTS = 128              # size of the table of targets; larger than the limit of entries can be
    POINTER_MAX = 0x3FFF     # largest offset that a pointer can name (RFC 1035 section 4.1.4)
    FIRST_CAPACITY = 768     # enough for most answers without growing
    FULL = -2                # result of write functions: it does not fit; not -1, which means an exception


@cython.final
cdef class Builder:
    """Writes one message. Sections must be added in order. A set that does not fit is not written at all."""

    def __cinit__(self):
        self._out = NULL

    def __init__(self, Py_ssize_t limit=MESSAGE_MAX, *, Py_ssize_t reserve_opt=0):
        """Prepare a message of at most `limit` bytes, `reserve_opt` of which only `opt` may use.

        Raises:
            ValueError: `limit` or `reserve_opt` is out of range.
        """
        if not HEADER_SIZE <= limit <= MESSAGE_MAX or not 0 <= reserve_opt <= limit - HEADER_SIZE:
            raise ValueError("limit or reserve is out of range")
        self._limit = limit
        self._reserve = reserve_opt

    def __dealloc__(self):
        free(self._out)

    def start(self, int id, int flags, bytes qname, int qtype=0, int qclass=C_IN) -> None:
        """Start a message, and discard a previous one: write the header, and the question unless `qname` is None.

        `flags` is the second word of the header: flags, opcode and the lower four bits of the rcode.

        Raises:
            WireError: `qname` is not a valid name.
            ValueError: the question does not fit, or a number is out of range.
        """
        cdef Py_ssize_t size = 0 if qname is None else checked(qname)
        if not (0 <= id <= 65535 and 0 <= flags <= 65535 and 0 <= qtype <= 65535 and 0 <= qclass <= 65535):
            raise ValueError("id, flags, type or class is out of range")
        self._bound = self._limit - self._reserve
        self._size = 0
        self._started = True
        self._has_opt = False
        self._section = 0
        self._known = 0
        self._misses = 0
        memset(self._counts, 0, sizeof(self._counts))
        memset(self._targets, 0, sizeof(self._targets))
        if self._ensure(HEADER_SIZE) < 0:
            raise ValueError("the header does not fit into the limit")
        memset(self._out, 0, HEADER_SIZE)
        put16(self._out, id)
        put16(self._out + 2, flags)
        self._size = HEADER_SIZE
        if qname is not None:
            if self._write_name(<const uint8_t *> PyBytes_AS_STRING(qname), size, False) < 0 or self._ensure(4) < 0:
                self._started = False
                raise ValueError("the question does not fit into the limit")
            put16(self._out + self._size, qtype)
            put16(self._out + self._size + 2, qclass)
            self._size += 4
            self._counts[0] = 1

    def add(self, int section, RRset rrset not None, *, object ttl=None, bint sigs=False, bytes name=None) -> bool:
        """Write one RRset, with its RRSIG records if `sigs`. False, and nothing is written, when it does not fit.

        `ttl` (seconds) and `name` replace those of the set.

        Raises:
            ValueError: not started, a section before the current one, or after OPT.
            WireError: `name` is not a valid name.
        """
        if not self._started or self._has_opt:
            raise ValueError("add() must come after start() and before opt()")
        if not ANSWER <= section <= ADDITIONAL or section < self._section:
            raise ValueError("sections must come in order")
        cdef uint32_t seconds = rrset.ttl if ttl is None else ttl
        cdef bytes owner = rrset.name
        cdef Py_ssize_t before = self._size
        cdef int records = rrset.count + (rrset.sig_count if sigs else 0)
        cdef int rc
        if name is not None:
            checked(name)
            owner = name
        if self._counts[section] + records > 65535:
            return False
        rc = self._write_set(owner, rrset.rtype, rrset.rclass, seconds, rrset.packed)
        if rc == 0 and sigs and rrset.sig_count:
            rc = self._write_set(owner, T_RRSIG, rrset.rclass, seconds, rrset.packed_sigs)
        if rc < 0:
            self._size = before
            return False
        self._section = section
        self._counts[section] += records
        return True

    def fill(self, object answer, object authority=(), object additional=(), *, bint sigs=False) -> bool:
        """Write the three sections of a reply; False when it was truncated.

        The first set of answer or authority that does not fit ends the message and sets TC. Sets of the additional
        section that do not fit are omitted without TC (RFC 2181 section 9).
        """
        for section, sets in ((ANSWER, answer), (AUTHORITY, authority)):
            for rrset in sets:
                if not self.add(section, rrset, sigs=sigs):
                    self.truncate()
                    return False
        for rrset in additional:
            # an address is useful without its signatures; a validating client queries for them
            if not self.add(ADDITIONAL, rrset, sigs=sigs) and sigs:
                self.add(ADDITIONAL, rrset)
        return True

    def opt(self, int payload, *, bint do=False, int ext_rcode=0, int version=0, object options=(),
            int pad_block=0) -> bool:
        """Write the OPT record, using the reserved space; False when it does not fit.

        `ext_rcode` is the upper eight bits of the rcode. With `pad_block` a padding option fills the message to a
        multiple of that many bytes (RFC 8467: 128 for queries, 468 for replies), as far as the limit allows.

        Raises:
            ValueError: not started, written twice, or a number out of range.
        """
        if not self._started or self._has_opt:
            raise ValueError("opt() must come after start(), and only once")
        if not (0 <= payload <= 65535 and 0 <= ext_rcode <= 255 and 0 <= version <= 255 and pad_block >= 0):
            raise ValueError("payload, rcode, version or block is out of range")
        cdef bytes content = options_to_wire(options)
        cdef Py_ssize_t length = PyBytes_GET_SIZE(content)
        cdef Py_ssize_t total = self._size + OPT_SIZE + length
        cdef Py_ssize_t padding = -1
        cdef uint8_t *p
        if total > self._limit or self._counts[3] == 65535:
            return False
        if pad_block and total + 4 <= self._limit:
            padding = (pad_block - (total + 4) % pad_block) % pad_block
            if total + 4 + padding > self._limit:
                padding = self._limit - total - 4
        self._bound = self._limit
        if self._ensure(OPT_SIZE + length + (4 + padding if padding >= 0 else 0)) < 0:
            return False
        p = self._out + self._size
        put_opt(p, payload, ext_rcode, do, length + (4 + padding if padding >= 0 else 0))
        p[6] = <uint8_t> version
        memcpy(p + OPT_SIZE, PyBytes_AS_STRING(content), length)
        self._size += OPT_SIZE + length
        if padding >= 0:
            p += OPT_SIZE + length
            put16(p, O_PADDING)
            put16(p + 2, <int> padding)
            memset(p + 4, 0, padding)
            self._size += 4 + padding
        self._counts[3] += 1
        self._has_opt = True
        return True

    def truncate(self) -> None:
        """Set TC.

        Raises:
            ValueError: not started.
        """
        if not self._started:
            raise ValueError("call start() first")
        self._out[2] |= F_TC >> 8

    def finish(self) -> bytes:
        """The message.

        Raises:
            ValueError: not started.
        """
        if not self._started:
            raise ValueError("call start() first")
        self._put_counts()
        return PyBytes_FromStringAndSize(<const char *> self._out, self._size)

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    # --- inside ---------------------------------------------------------------------------------------------------

    cdef int _put_counts(self) noexcept:
        """Write the four counts to the header."""
        cdef int i
        for i in range(4):
            put16(self._out + 4 + 2 * i, self._counts[i])
        return 0

    cdef int _ensure(self, Py_ssize_t more) except -1:
        """Ensure that `more` bytes can be written: 0, or FULL when that exceeds the limit."""
        cdef Py_ssize_t wanted = self._size + more
        cdef Py_ssize_t capacity
        cdef void *moved
        if wanted > self._bound:
            return FULL
        if wanted > self._capacity:
            capacity = self._capacity * 2 if self._capacity else FIRST_CAPACITY
            while capacity < wanted:
                capacity *= 2
            moved = realloc(self._out, capacity)
            if moved == NULL:
                raise MemoryError
            self._out = <uint8_t *> moved
            self._capacity = capacity
        return 0

    cdef bint _matches(self, Py_ssize_t at, const uint8_t *name, Py_ssize_t size, bint exact) noexcept nogil:
        """Whether the name at offset `at` is this one. A target may be stale, from a set that was removed again."""
        cdef uint8_t found[NAME_MAX]
        cdef Py_ssize_t after
        if at < HEADER_SIZE or at >= self._size:
            return False
        if name_expand(self._out, self._size, at, self._size, found, &after) != size:
            return False
        return memcmp(found, name, size) == 0 if exact else name_equal_ci(found, name, size)

    cdef int _write_name(self, const uint8_t *name, Py_ssize_t size, bint exact) except -1:
        """Write a name, with its longest known suffix as a pointer: 0 or FULL."""
        cdef uint8_t starts[LABELS_MAX]
        cdef uint32_t hashes[LABELS_MAX]
        cdef int count = name_labels(name, size, starts)
        cdef int i, j, slot, kept
        cdef uint32_t hashed = 0x9E3779B9
        cdef Py_ssize_t begin = self._size
        cdef Py_ssize_t target = 0
        cdef Py_ssize_t plain
        # from right to left, so that equal suffixes have equal hashes
        for i in range(count - 1, -1, -1):
            for j in range(name[starts[i]] + 1):
                hashed = (hashed ^ byte_lower(name[starts[i] + j])) * <uint32_t> 0x01000193
            hashes[i] = hashed
        kept = count
        for i in range(count):
            slot = (hashes[i] ^ (hashes[i] >> 15)) & (SLOTS - 1)
            while self._targets[slot].offset and self._misses < _max_misses:
                if self._targets[slot].hash == hashes[i]:
                    if self._matches(self._targets[slot].offset, name + starts[i], size - starts[i], exact):
                        target = self._targets[slot].offset
                        break
                    self._misses += 1
                slot = (slot + 1) & (SLOTS - 1)
            if target:
                kept = i
                break
        plain = starts[kept] if kept < count else size - 1
        if self._ensure(plain + (2 if target else 1)) < 0:
            return FULL
        memcpy(self._out + begin, name, plain)
        if target:
            put16(self._out + begin + plain, 0xC000 | <int> target)
            self._size += plain + 2
        else:
            self._out[begin + plain] = 0
            self._size += plain + 1
        for i in range(kept):
            if begin + starts[i] > POINTER_MAX or self._known >= _max_targets:
                break
            slot = (hashes[i] ^ (hashes[i] >> 15)) & (SLOTS - 1)
            while self._targets[slot].offset:
                slot = (slot + 1) & (SLOTS - 1)
            self._targets[slot].hash = hashes[i]
            self._targets[slot].offset = <uint16_t> (begin + starts[i])
            self._known += 1
        return 0

    cdef int _write_rdata(self, const uint8_t *rdata, Py_ssize_t length, uint16_t rtype,
                          const char *layout) except -1:
        """Write the length and the rdata of a type whose names may be compressed: 0 or FULL."""
        cdef Py_ssize_t head = self._size
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t done = 0
        cdef Py_ssize_t got
        if self._ensure(2) < 0:
            return FULL
        self._size += 2
        while True:
            got = rdata_next_name(rdata, length, &layout, &at)
            if got == 0:
                break
            if self._ensure(at - got - done) < 0:
                return FULL
            memcpy(self._out + self._size, rdata + done, at - got - done)
            self._size += at - got - done
            if self._write_name(rdata + at - got, got, True) < 0:
                return FULL
            done = at
        if self._ensure(length - done) < 0:
            return FULL
        memcpy(self._out + self._size, rdata + done, length - done)
        self._size += length - done
        put16(self._out + head, <int> (self._size - head - 2))
        return 0

    cdef int _write_set(self, bytes name, uint16_t rtype, uint16_t rclass, uint32_t ttl, bytes packed) except -1:
        """Write one record for each packed rdata: 0 or FULL."""
        cdef const uint8_t *data = <const uint8_t *> PyBytes_AS_STRING(packed)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(packed)
        cdef const uint8_t *owner = <const uint8_t *> PyBytes_AS_STRING(name)
        cdef Py_ssize_t owner_size = PyBytes_GET_SIZE(name)
        cdef const char *layout = rdata_layout(rtype, rclass) if rdata_compressible(rtype) else NULL
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t length, begin
        cdef int pointer = 0         # owner of the later records of the set
        cdef uint8_t *p
        while at < size:
            length = get16(data + at)
            if pointer:
                if self._ensure(2) < 0:
                    return FULL
                put16(self._out + self._size, pointer)
                self._size += 2
            else:
                begin = self._size
                if self._write_name(owner, owner_size, False) < 0:
                    return FULL
                if self._out[begin] >= 192:
                    pointer = get16(self._out + begin)
                elif owner_size > 1 and begin <= POINTER_MAX:
                    pointer = 0xC000 | <int> begin
            if self._ensure(8) < 0:
                return FULL
            p = self._out + self._size
            put16(p, rtype)
            put16(p + 2, rclass)
            put32(p + 4, ttl)
            self._size += 8
            if layout != NULL:
                if self._write_rdata(data + at + 2, length, rtype, layout) < 0:
                    return FULL
            else:
                if self._ensure(2 + length) < 0:
                    return FULL
                memcpy(self._out + self._size, data + at, 2 + length)
                self._size += 2 + length
            at += 2 + length
        return 0


# --- whole small messages -----------------------------------------------------------------------------------------

def make_query(int id, bytes qname not None, int qtype, *, int qclass=C_IN, int flags=F_RD, object edns_payload=1232,
               bint do=False, object options=()) -> bytes:
    """A query; without OPT when `edns_payload` is None.

    Raises:
        WireError: `qname` is not a valid name.
        ValueError: a number is out of range, or `do` or `options` without EDNS.
    """
    cdef Py_ssize_t size = checked(qname)
    cdef bytes content = options_to_wire(options) if options else b""
    cdef Py_ssize_t length = PyBytes_GET_SIZE(content)
    cdef int payload = 0
    cdef bytes made
    if edns_payload is not None:
        payload = edns_payload
    elif do or length:
        raise ValueError("DO and options need EDNS")
    if not (0 <= id <= 65535 and 0 <= flags <= 65535 and 0 <= qtype <= 65535 and 0 <= qclass <= 65535
            and 0 <= payload <= 65535) or HEADER_SIZE + size + 4 + OPT_SIZE + length > MESSAGE_MAX:
        raise ValueError("id, flags, type, class, payload or size is out of range")
    made = query_packet(qname, qtype, qclass, id, flags, -1 if edns_payload is None else payload, do, length)
    memcpy(<uint8_t *> PyBytes_AS_STRING(made) + PyBytes_GET_SIZE(made) - length, PyBytes_AS_STRING(content), length)
    return made


cdef bytes query_packet(bytes qname, uint16_t qtype, uint16_t qclass, uint16_t id, uint16_t flags, int payload,
                        bint do_bit, Py_ssize_t options_size):
    """A packet with one question. The caller must fill its last `options_size` octets, the EDNS options.

    `payload` below 0 means without OPT. The caller checks the name.
    """
    cdef Py_ssize_t size = PyBytes_GET_SIZE(qname)
    cdef bint edns = payload >= 0
    cdef bytes made = PyBytes_FromStringAndSize(NULL, HEADER_SIZE + size + 4 + (OPT_SIZE + options_size if edns else 0))
    cdef uint8_t *p = <uint8_t *> PyBytes_AS_STRING(made)
    memset(p, 0, HEADER_SIZE)
    put16(p, id)
    put16(p + 2, flags)
    p[5] = 1
    p[11] = edns
    p += HEADER_SIZE
    memcpy(p, PyBytes_AS_STRING(qname), size)
    p += size
    put16(p, qtype)
    put16(p + 2, qclass)
    if edns:
        put_opt(p + 4, payload, 0, do_bit, options_size)
    return made


def make_error(bytes query not None, int rcode, *, int flags=F_RA, object edns_payload=None, bint do=False,
               object options=()) -> bytes | None:
    """A reply with only `rcode` (12 bits), and the question if well-formed; None when `query` must not be answered.

    Packets shorter than a header, and responses, must not be answered. Opcode, RD and CD are those of the query; QR and
    `flags` are set. OPT is written when `edns_payload` is given, or when the rcode needs it.

    Raises:
        ValueError: a number is out of range.
    """
    cdef const uint8_t *p = <const uint8_t *> PyBytes_AS_STRING(query)
    cdef const uint8_t *tail
    cdef Py_ssize_t size = PyBytes_GET_SIZE(query)
    cdef Py_ssize_t length
    cdef int word
    cdef bytes qname = None
    cdef int qtype = 0
    cdef int qclass = C_IN
    if not 0 <= rcode <= 0xFFF or not 0 <= flags <= 65535:
        raise ValueError("rcode or flags is out of range")
    if size < HEADER_SIZE:
        return None
    word = get16(p + 2)
    if word & F_QR:
        return None
    if get16(p + 4) == 1:
        length = name_length(p + HEADER_SIZE, size - HEADER_SIZE)
        if length > 0 and HEADER_SIZE + length + 4 <= size:
            qname = PyBytes_FromStringAndSize(<const char *> p + HEADER_SIZE, length)
            tail = p + HEADER_SIZE + length
            qtype = get16(tail)
            qclass = get16(tail + 2)
    word = F_QR | (word & (F_OPCODE | F_RD | F_CD)) | (flags & ~(F_OPCODE | F_RCODE)) | (rcode & F_RCODE)
    cdef Builder builder = Builder()
    builder.start(get16(p), word, qname, qtype, qclass)
    if edns_payload is not None or rcode > F_RCODE:
        builder.opt(512 if edns_payload is None else edns_payload, do=do, ext_rcode=rcode >> 4, options=options)
    return builder.finish()
