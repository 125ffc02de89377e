"""Message parsers: `MessageView`, a checked index over a packet, and `parse_query` for the fast path without the GIL.

`MessageView.parse` checks every byte once, in C: names, counts, rdata of known types, sizes of sets. Later accesses
never raise for bad bytes. Records are grouped into RRsets with a keyed hash table, so that a packet with thousands of
distinct owners takes linear time; RRset objects are made when a section is read. Whether the content of a reply is
acceptable is decided in `iterate`, not here.
"""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from resolver.wire.consts cimport *
from resolver.wire.edns cimport make_edns
from resolver.wire.hash cimport siphash13
from resolver.wire.name cimport name_equal_ci, name_expand, name_length, name_lower
from resolver.wire.octets cimport get16, get32
from resolver.wire.rdata cimport rdata_check, rdata_expand, rdata_layout
from resolver.wire.rrset cimport RRset, make_rrset

from resolver.limits import MESSAGE_RECORDS, RRSET_BYTES, RRSET_OVERHEAD, RRSET_RECORDS
from resolver.wire.errors import WireError, reason_of

cdef int _max_records = MESSAGE_RECORDS
cdef int _max_set_records = RRSET_RECORDS
cdef int _max_set_bytes = RRSET_BYTES
cdef Py_ssize_t _overhead = RRSET_OVERHEAD

# Duplicates in a set of up to FEW records are found by comparing all pairs; in larger sets with a hash table.
cdef enum:
    FEW = 12
    UPDATE = 0x2800         # opcode 5 as part of the flags (RFC 2136 section 1.3)

# This package has no source of random numbers, so the key is derived from the interpreter's hash, which is keyed with a
# secret of the process. Masked, because it may be negative.
cdef uint64_t _k0 = hash(b"resolver.wire.message.k0") & 0xFFFFFFFFFFFFFFFF
cdef uint64_t _k1 = hash(b"resolver.wire.message.k1") & 0xFFFFFFFFFFFFFFFF


# --- queries, without the GIL -------------------------------------------------------------------------------------

cdef int parse_query(const uint8_t *p, size_t n, QueryInfo *q) noexcept nogil:
    """Parse a query. Returns 0: plain; 1: not plain, Python must handle it; negative: malformed.

    Plain: opcode QUERY, one question, and no other record except one OPT. -1 (incomplete header, or a response) must be
    dropped; the reply to all other negative codes is FORMERR. With 1 only the header's fields are valid, those of the
    question if `qname` is not NULL, and those of OPT if `has_edns`. A signed query has two additional records: OPT and
    then TSIG, which is not parsed here.
    """
    cdef Py_ssize_t size = <Py_ssize_t> n
    cdef Py_ssize_t at = HEADER_SIZE
    cdef Py_ssize_t length, end
    cdef uint16_t code, flags, additional
    memset(q, 0, sizeof(QueryInfo))
    if size < HEADER_SIZE or size > MESSAGE_MAX:
        return E_HEADER
    q.id = get16(p)
    q.flags = flags = get16(p + 2)
    if flags & F_QR:
        return E_HEADER
    if flags & F_OPCODE or get16(p + 4) != 1:
        q.non_plain = True
        return 1
    length = name_length(p + at, size - at)
    if length < 0:
        return <int> length
    if at + length + 4 > size:
        return E_TRUNCATED
    q.qname = p + at
    q.qname_len = <uint16_t> length
    at += length
    q.qtype = get16(p + at)
    q.qclass = get16(p + at + 2)
    at += 4
    q.question_end = <uint16_t> at
    if flags & (F_AA | F_TC | F_RA | F_Z | F_RCODE) or q.qclass != C_IN:
        q.non_plain = True
    additional = get16(p + 10)
    if get16(p + 6) or get16(p + 8) or additional > 2:
        q.non_plain = True
        return 1
    if additional:
        if at + 11 > size:
            return E_TRUNCATED
        if p[at] != 0 or get16(p + at + 1) != T_OPT:
            q.non_plain = True
            return 1
        q.has_edns = True
        q.payload = get16(p + at + 3)
        q.edns_version = p[at + 6]
        flags = get16(p + at + 7)
        q.do_bit = (flags & EDNS_DO) != 0
        if q.edns_version or flags & ~<uint16_t> EDNS_DO or p[at + 5]:
            q.non_plain = True
        end = at + 11 + get16(p + at + 9)
        at += 11
        if end > size:
            return E_TRUNCATED
        while at < end:
            if at + 4 > end:
                return E_OPTIONS
            code = get16(p + at)
            length = get16(p + at + 2)
            at += 4
            if at + length > end:
                return E_OPTIONS
            if code == O_COOKIE:
                # RFC 7873 section 5.2.2: a wrong length is a format error; a second cookie is ignored
                if length != COOKIE_CLIENT_SIZE and not COOKIE_MIN <= length <= COOKIE_MAX:
                    return E_COOKIE
                if q.cookie == NULL:
                    q.cookie = p + at
                    q.cookie_len = <uint8_t> length
            elif code == O_PADDING:
                q.padded = True     # its content is ignored (RFC 7830 section 3)
            elif code == O_KEEPALIVE:
                q.keepalive = True  # its content is ignored; over UDP the whole option is (RFC 7828 section 3.3.1)
            else:
                q.non_plain = True
            at += length
    if additional == 2:
        q.non_plain = True
        return 1
    if at != size:
        return E_TRAILING
    return 0


def inspect_query(bytes data not None) -> tuple[int, dict[str, object]]:
    """The result of `parse_query` for a packet: code, and fields by name. For tests, fuzzing and explanations."""
    cdef QueryInfo q
    cdef int code = parse_query(<const uint8_t *> PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &q)
    return code, {
        "id": q.id, "flags": q.flags, "qtype": q.qtype, "qclass": q.qclass,
        "qname": PyBytes_FromStringAndSize(<const char *> q.qname, q.qname_len) if q.qname != NULL else None,
        "question_end": q.question_end, "has_edns": bool(q.has_edns), "edns_version": q.edns_version,
        "payload": q.payload, "do_bit": bool(q.do_bit), "unusual": bool(q.non_plain),
        "padded": bool(q.padded), "keepalive": bool(q.keepalive),
        "cookie": PyBytes_FromStringAndSize(<const char *> q.cookie, q.cookie_len) if q.cookie != NULL else None,
    }


# --- whole messages -----------------------------------------------------------------------------------------------

@cython.final
cdef class MessageView:
    """One completely checked message; made by `MessageView.parse`."""

    def __init__(self):
        raise TypeError("use MessageView.parse(data)")

    def __dealloc__(self):
        free(self._records)

    @staticmethod
    def parse(object data) -> MessageView:
        """Check a message and make a view of it. Takes about one microsecond, and 0.1 per record.

        Raises:
            WireError: the message is malformed, or has more records than the limits permit.
        """
        cdef MessageView view = MessageView.__new__(MessageView)
        view.wire = data if type(data) is bytes else bytes(data)
        view._index()
        return view

    cdef int _index(self) except -1:
        """Parse header, questions and records, and group the records."""
        cdef const uint8_t *p = <const uint8_t *> PyBytes_AS_STRING(self.wire)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self.wire)
        cdef Py_ssize_t at = HEADER_SIZE
        cdef Py_ssize_t after = 0
        cdef Py_ssize_t length
        cdef uint8_t qname[NAME_MAX]
        cdef int i, code, slots
        cdef int opt = -1
        cdef Record *record
        self._data = p
        self._size = size
        if size < HEADER_SIZE:
            raise WireError(reason_of(E_HEADER))
        if size > MESSAGE_MAX:
            raise WireError("message is longer than 65535 bytes")
        self.id = get16(p)
        self.flags = get16(p + 2)
        self.question_count = get16(p + 4)
        for i in range(self.question_count):
            length = name_expand(p, size, at, size, qname if i == 0 else NULL, &after)
            if length < 0:
                raise WireError(reason_of(length))
            if after + 4 > size:
                raise WireError(reason_of(E_TRUNCATED))
            if i == 0:
                self.qname = PyBytes_FromStringAndSize(<const char *> qname, length)
                self.qtype = get16(p + after)
                self.qclass = get16(p + after + 2)
            at = after + 4
        self._record_count = get16(p + 6) + get16(p + 8) + get16(p + 10)
        if self._record_count == 0:
            if at != size:
                raise WireError(reason_of(E_TRAILING))
            return 0
        # the smallest record has 11 bytes: allocate no memory for impossible counts
        if self._record_count * 11 > size - at:
            raise WireError(reason_of(E_TRUNCATED))
        if self._record_count > _max_records:
            raise WireError(reason_of(E_MESSAGE_RECORDS))
        slots = 8
        while slots < 2 * self._record_count:
            slots *= 2
        self._slot_mask = slots - 1
        self._records = <Record *> malloc(self._record_count * (sizeof(Record) + sizeof(Group)) + slots * sizeof(int))
        if self._records == NULL:
            raise MemoryError
        self._groups = <Group *> (self._records + self._record_count)
        self._slots = <int *> (self._groups + self._record_count)
        memset(self._slots, 0xFF, slots * sizeof(int))
        code = self._read_records(at, &opt)
        if code == 0:
            code = self._group_records()
        if code < 0:
            raise WireError(reason_of(code))
        self._group_count = code
        if opt >= 0:
            record = self._records + opt
            self.edns = make_edns(record.rclass, record.ttl >> 24, (record.ttl >> 16) & 255, record.ttl & 0xFFFF,
                                  PyBytes_FromStringAndSize(<const char *> p + record.rdata, record.length))
        return 0

    cdef int _read_records(self, Py_ssize_t at, int *opt) noexcept nogil:
        """Check every record and store its offsets; `opt` is set to the index of the OPT record."""
        cdef const uint8_t *p = self._data
        cdef Py_ssize_t size = self._size
        cdef int answers = get16(p + 6)
        cdef int authorities = answers + get16(p + 8)
        cdef uint8_t owner[NAME_MAX]
        cdef Py_ssize_t after = 0
        cdef Py_ssize_t length = 0
        cdef Py_ssize_t expanded
        cdef uint64_t hashed = 0
        cdef int repeated = 0        # the owner's pointer of the previous record (16 bits), else 0
        cdef int i
        cdef Record *record
        for i in range(self._record_count):
            record = self._records + i
            if at + 11 > size:
                return E_TRUNCATED
            record.section = ANSWER if i < answers else AUTHORITY if i < authorities else ADDITIONAL
            record.owner = <uint16_t> at
            record.next = -1
            if repeated and get16(p + at) == repeated:
                # the same pointer as before: the same name, and it points backwards from here, too
                after = at + 2
                record.owner_target = (self._records + i - 1).owner_target
            else:
                length = name_expand(p, size, at, size, owner, &after)
                if length < 0:
                    return <int> length
                name_lower(owner, owner, length)
                hashed = siphash13(_k0, _k1, owner, length)
                repeated = get16(p + at) if p[at] >= 192 else 0
                record.owner_target = repeated & 0x3FFF if repeated else <uint16_t> at
            record.owner_length = <uint16_t> length
            record.name_hash = hashed
            at = after
            if at + 10 > size:
                return E_TRUNCATED
            record.rtype = get16(p + at)
            record.rclass = get16(p + at + 2)
            record.ttl = get32(p + at + 4)
            record.length = get16(p + at + 8)
            at += 10
            record.rdata = <uint16_t> at
            if at + record.length > size:
                return E_TRUNCATED
            if record.rtype == T_OPT:
                if record.section != ADDITIONAL or length != 1:
                    return E_OPT_PLACE
                if opt[0] >= 0:
                    return E_OPT_TWICE
                opt[0] = i
            elif record.ttl > 0x7FFFFFFF:
                record.ttl = 0       # RFC 2181 section 8
            if record.length == 0 and record.rclass >= 254 and (self.flags & F_OPCODE) == UPDATE:
                # prerequisites and deletions of dynamic updates have no rdata (RFC 2136 section 2.4); elsewhere empty
                # rdata of a type that needs some must be rejected, because it would be read past its end
                expanded = 0
            else:
                expanded = rdata_check(p, size, at, record.length, rdata_layout(record.rtype, record.rclass))
                if expanded < 0:
                    return <int> expanded
            record.expanded = <uint16_t> expanded
            at += record.length
        return 0 if at == size else E_TRAILING

    cdef bint _same_owner(self, const Record *a, const Record *b) noexcept nogil:
        """Whether two records have the same owner, regardless of letter case."""
        cdef const uint8_t *p = self._data
        cdef Py_ssize_t size = self._size
        cdef Py_ssize_t after
        cdef uint8_t first[NAME_MAX]
        cdef uint8_t second[NAME_MAX]
        if a.name_hash != b.name_hash or a.owner_length != b.owner_length:
            return False
        if a.owner_target == b.owner_target:
            return True
        if (name_expand(p, size, a.owner, size, first, &after) != a.owner_length
                or name_expand(p, size, b.owner, size, second, &after) != b.owner_length):
            return False
        return name_equal_ci(first, second, a.owner_length)

    cdef int _find_group(self, const Record *record, uint16_t rtype, int *slot) noexcept nogil:
        """The group of this record's owner, class and section with type `rtype`, or -1 and the free slot for it."""
        cdef uint64_t spread = (record.name_hash + rtype * <uint64_t> 3 + record.section) * <uint64_t> 0x9E3779B97F4A7C15
        cdef int at = <int> (spread >> 40) & self._slot_mask
        cdef int found
        cdef const Record *head
        # at most half of the slots are used, so a free one ends the search
        while True:
            self.probes = self.probes + 1
            found = self._slots[at]
            if found < 0:
                slot[0] = at
                return -1
            head = self._records + self._groups[found].first
            if (self._groups[found].rtype == rtype and head.section == record.section
                    and head.rclass == record.rclass and self._same_owner(head, record)):
                return found
            at = (at + 1) & self._slot_mask

    cdef int _group_records(self) noexcept nogil:
        """Group the records, then attach signatures to the groups they cover. Returns the number of groups."""
        cdef const uint8_t *p = self._data
        cdef int sigs = 0
        cdef int groups = 0
        cdef int i, scan, found
        cdef int slot = 0
        cdef Record *record
        cdef Group *group
        for scan in range(2):
            if scan and not sigs:
                break
            for i in range(self._record_count):
                record = self._records + i
                if record.rtype == T_RRSIG:
                    sigs += 1
                    if scan == 0:
                        continue
                elif scan or record.rtype == T_OPT or record.rtype == T_TSIG:
                    continue
                if scan and record.length >= 2:
                    found = self._find_group(record, get16(p + record.rdata), &slot)
                    # RRSIGs are not signed: an RRSIG that covers type RRSIG stays in a set of its own
                    if found >= 0 and self._groups[found].rtype != T_RRSIG:
                        group = self._groups + found
                        if group.sig_count == 0:
                            group.sig_first = i
                        else:
                            (self._records + group.sig_last).next = i
                        group.sig_last = i
                        group.sig_count += 1
                        group.sig_size += 2 + record.expanded
                        if record.ttl < group.ttl:
                            group.ttl = record.ttl
                        if group.sig_count > _max_set_records:
                            return E_SET_RECORDS
                        if group.sig_size > _max_set_bytes:
                            return E_SET_BYTES
                        continue
                found = self._find_group(record, record.rtype, &slot)
                if found < 0:
                    found = groups
                    groups += 1
                    self._slots[slot] = found
                    group = self._groups + found
                    memset(group, 0, sizeof(Group))
                    group.first = i
                    group.ttl = record.ttl
                    group.rtype = record.rtype
                else:
                    group = self._groups + found
                    (self._records + group.last).next = i
                group.last = i
                group.count += 1
                group.size += 2 + record.expanded
                if record.ttl < group.ttl:
                    group.ttl = record.ttl
                if group.count > _max_set_records:
                    return E_SET_RECORDS
                if group.size > _max_set_bytes:
                    return E_SET_BYTES
        return groups

    cdef list _section(self, int section):
        """The RRsets of one section in the order of their first records; made on first use."""
        cdef const uint8_t *p = self._data
        cdef Py_ssize_t size = self._size
        cdef uint8_t owner[NAME_MAX]
        cdef Py_ssize_t after
        cdef Group *group
        cdef Record *record
        cdef bytes name = None
        cdef bytes packed, sigs
        cdef int i, count, sig_count
        cdef int last_first = -1
        cdef int last_target = -1
        cdef bint ordered = True
        cdef list made, places
        if self._sections is None:
            self._sections = [None, None, None, None]
        if self._sections[section] is not None:
            return self._sections[section]
        made = []
        places = []
        for i in range(self._group_count):
            group = self._groups + i
            record = self._records + group.first
            if record.section != section:
                continue
            if record.owner_target != last_target:
                name_expand(p, size, record.owner, size, owner, &after)
                name = PyBytes_FromStringAndSize(<const char *> owner, record.owner_length)
                last_target = record.owner_target
            packed = self._pack(group.first, group.count, group.size, &count)
            sig_count = 0
            sigs = b""
            if group.sig_count:
                sigs = self._pack(group.sig_first, group.sig_count, group.sig_size, &sig_count)
            if group.first < last_first:
                ordered = False
            last_first = group.first
            places.append(group.first)
            made.append(make_rrset(name, group.rtype, record.rclass, group.ttl, packed, count, sigs, sig_count, 0, 0))
        if not ordered:
            # only signatures that cover no set are grouped out of order
            made = [made[place] for place in sorted(range(len(made)), key=places.__getitem__)]
        self._sections[section] = made
        return made

    cdef bytes _pack(self, int index, int count, int size, int *kept):
        """Packed rdata of the records linked from `index` on, without duplicates (RFC 2181 section 5)."""
        cdef const uint8_t *p = self._data
        cdef Py_ssize_t wire_size = self._size
        cdef bytes packed = PyBytes_FromStringAndSize(NULL, size)
        cdef uint8_t *out = <uint8_t *> PyBytes_AS_STRING(packed)
        cdef const Record *record
        cdef const char *layout
        cdef int *slots = NULL
        cdef int slot_count = 0
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t other
        cdef int place
        cdef bint repeated
        kept[0] = 0
        if count > FEW:
            slot_count = 32
            while slot_count < 2 * count:
                slot_count *= 2
            slots = <int *> malloc(slot_count * sizeof(int))
            if slots == NULL:
                raise MemoryError
            memset(slots, 0xFF, slot_count * sizeof(int))
        while index >= 0:
            record = self._records + index
            index = record.next
            layout = rdata_layout(record.rtype, record.rclass)
            out[at] = record.expanded >> 8
            out[at + 1] = record.expanded & 255
            if record.length == 0:
                pass
            elif record.expanded == record.length and not _holds_pointer(layout):
                memcpy(out + at + 2, p + record.rdata, record.length)
            else:
                rdata_expand(p, wire_size, record.rdata, record.length, layout, out + at + 2)
            repeated = False
            if slots == NULL:
                other = 0
                while other < at:
                    if get16(out + other) == record.expanded and memcmp(out + other, out + at, 2 + record.expanded) == 0:
                        repeated = True
                        break
                    other += 2 + get16(out + other)
            else:
                place = <int> siphash13(_k0, _k1, out + at, 2 + record.expanded) & (slot_count - 1)
                while slots[place] >= 0:
                    other = slots[place]
                    if get16(out + other) == record.expanded and memcmp(out + other, out + at, 2 + record.expanded) == 0:
                        repeated = True
                        break
                    place = (place + 1) & (slot_count - 1)
                if not repeated:
                    slots[place] = <int> at
            if not repeated:
                at += 2 + record.expanded
                kept[0] += 1
        free(slots)
        return packed if at == size else packed[:at]

    # --- header ---------------------------------------------------------------------------------------------------

    @property
    def opcode(self) -> int:
        """Kind of query (RFC 1035 section 4.1.1)."""
        return (self.flags & F_OPCODE) >> 11

    @property
    def rcode(self) -> int:
        """Response code, 12 bits with EDNS (RFC 6891 section 6.1.3), else 4."""
        cdef int low = self.flags & F_RCODE
        return low if self.edns is None else (self.edns.ext_rcode << 4) | low

    @property
    def qr(self) -> bool:
        """Whether this is a response."""
        return (self.flags & F_QR) != 0

    @property
    def aa(self) -> bool:
        """Authoritative answer."""
        return (self.flags & F_AA) != 0

    @property
    def tc(self) -> bool:
        """Truncated."""
        return (self.flags & F_TC) != 0

    @property
    def rd(self) -> bool:
        """Recursion desired."""
        return (self.flags & F_RD) != 0

    @property
    def ra(self) -> bool:
        """Recursion available."""
        return (self.flags & F_RA) != 0

    @property
    def ad(self) -> bool:
        """Authentic data (RFC 4035 section 3.2.3)."""
        return (self.flags & F_AD) != 0

    @property
    def cd(self) -> bool:
        """Checking disabled (RFC 4035 section 3.2.2)."""
        return (self.flags & F_CD) != 0

    # --- sections -------------------------------------------------------------------------------------------------

    @property
    def answer(self) -> list[RRset]:
        """RRsets of the answer section. The list is shared: copy it before changing it."""
        return self._section(ANSWER)

    @property
    def authority(self) -> list[RRset]:
        """RRsets of the authority section."""
        return self._section(AUTHORITY)

    @property
    def additional(self) -> list[RRset]:
        """RRsets of the additional section, without OPT and TSIG."""
        return self._section(ADDITIONAL)

    @property
    def octets(self) -> int:
        """Estimated upper limit of the memory of the message: its bytes, the index, and the sets of all sections."""
        cdef Py_ssize_t total = 2 * _overhead + self._size
        cdef int i
        cdef Group *group
        if self._records != NULL:
            total += (self._record_count * <Py_ssize_t> (sizeof(Record) + sizeof(Group))
                      + (self._slot_mask + 1) * <Py_ssize_t> sizeof(int))
        for i in range(self._group_count):
            group = self._groups + i
            total += _overhead + 2 * (self._records + group.first).owner_length + group.size + 2 * group.sig_size
        return total

    def __repr__(self) -> str:
        return (f"<MessageView id={self.id} flags={self.flags:#06x} rcode={self.rcode} qname={self.qname!r} "
                f"qtype={self.qtype} {len(self.wire)} bytes>")


cdef inline bint _holds_pointer(const char *layout) noexcept nogil:
    """Whether rdata of this layout may contain compressed names, so it must be expanded even if the length is equal."""
    while layout != NULL and layout[0]:
        if layout[0] == c'c' or layout[0] == c'u' or layout[0] == c'x':
            return True
        layout += 1
    return False
