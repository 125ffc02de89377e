"""Tables of a million names in about 30 bytes each, searched without the GIL.

Block and allow lists and response policy zones compile into one. Each name has two values, 0 for none: `exact` for the
name itself and `below` for all names under it. A look-up tests the qname and then its ancestors, the closest first. The
names are stored whole, so a match is never a false positive.

States: a `NameTableBuilder` grows; `finish` moves its memory into a `NameTable`, which never changes, so any thread may
read it while it exists. The builder is empty afterwards.

Layout: open addressing in buckets of one cache line. A slot is one byte of the hash (the tag) and the offset of the
entry, which is read only when its tag is equal. A look-up computes the hashes of all ancestors first and prefetches
their buckets, so that it waits for memory about twice and not once per ancestor. The hash is keyed: names come from
lists and qnames from anyone, and neither may choose names that collide. Only ancestors with as many labels as some name
of the table are hashed.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset

from resolver.policy.libc cimport MADV_HUGEPAGE, aligned_alloc, madvise, prefetch, trailing_zeros
from resolver.wire.consts cimport LABELS_MAX, NAME_MAX
from resolver.wire.hash cimport siphash13
from resolver.wire.name cimport byte_lower, checked, name_labels, name_length, name_lower

from resolver import limits
from resolver.wire import name as names

cdef enum:
    VALUE_SIZE = 2
    HEAD = 4                    # bytes of an entry before its name
    LARGEST_VALUE = 65535
    KEY_SIZE = 16
    CACHE_LINE = 64
    HUGE_PAGE = 2097152         # bytes, of x86-64 and of arm64 with pages of 4 KiB
    FULL = 9                    # names per bucket on average at which a table grows: with more, probes become long


# --- look-up ------------------------------------------------------------------------------------------------------

cdef inline name_bucket *_first_bucket(const name_table *table, uint64_t hashed) noexcept nogil:
    """The bucket where the probe for a hash begins: its lower half, scaled to the number of buckets."""
    return table.bucket + <size_t> ((<uint64_t> <uint32_t> hashed * table.buckets) >> 32)


cdef inline uint8_t _tag(uint64_t hashed) noexcept nogil:
    """Eight other bits of the hash; never 0, which marks an empty slot."""
    cdef uint8_t tag = <uint8_t> (hashed >> 56)
    return tag if tag else 1


cdef inline name_bucket *_next_bucket(const name_table *table, name_bucket *bucket) noexcept nogil:
    return table.bucket if bucket + 1 == table.bucket + table.buckets else bucket + 1


cdef inline uint64_t _equal_bytes(const uint8_t *tags, uint64_t pattern) noexcept nogil:
    """The highest bit of each of the eight bytes at `tags` that is equal to its byte of `pattern`; the word is
    little-endian, so the lowest bit set is the first such byte."""
    cdef uint64_t word
    memcpy(&word, tags, sizeof(uint64_t))
    word ^= pattern
    return ~(((word & 0x7F7F7F7F7F7F7F7FULL) + 0x7F7F7F7F7F7F7F7FULL) | word | 0x7F7F7F7F7F7F7F7FULL)


cdef inline uint8_t *_entry(const name_table *table, const uint8_t *name, Py_ssize_t size,
                            uint64_t hashed) noexcept nogil:
    """The entry of `name` (lower case); NULL when it is not in the table, which has at least one bucket."""
    cdef name_bucket *bucket = _first_bucket(table, hashed)
    cdef uint64_t pattern = _tag(hashed) * 0x0101010101010101ULL
    cdef uint64_t equal
    cdef size_t offset
    cdef int half
    while True:
        for half in range(2):
            equal = _equal_bytes(bucket.tags + 8 * half, pattern)
            while equal:
                offset = bucket.offsets[8 * half + (trailing_zeros(equal) >> 3)]
                # A wire name ends with its only empty label, so no name is the beginning of another.
                if (offset + HEAD + <size_t> size <= table.used
                        and memcmp(table.entries + offset + HEAD, name, size) == 0):
                    return table.entries + offset
                equal &= equal - 1
        if bucket.tags[BUCKET_SLOTS - 1] == 0:
            return NULL
        bucket = _next_bucket(table, bucket)


cdef int name_table_find(const name_table *table, const uint8_t *name, Py_ssize_t size,
                         Py_ssize_t *matched, bint *exact) noexcept nogil:
    cdef uint8_t folded[NAME_MAX]
    cdef uint8_t starts[LABELS_MAX]
    cdef uint64_t hashes[LABELS_MAX]
    cdef uint8_t places[LABELS_MAX]
    cdef const uint8_t *entry
    cdef uint16_t values[2]
    cdef int labels, skipped, index, found = 0
    cdef Py_ssize_t at
    if table.count == 0 or size > NAME_MAX:
        return 0
    name_lower(folded, name, size)
    labels = name_labels(folded, size, starts)
    for skipped in range(labels + 1):
        if table.depths[labels - skipped]:
            at = starts[skipped] if skipped < labels else size - 1
            hashes[found] = siphash13(table.k0, table.k1, folded + at, size - at)
            places[found] = <uint8_t> at
            prefetch(_first_bucket(table, hashes[found]))
            found += 1
    for index in range(found):
        at = places[index]
        entry = _entry(table, folded + at, size - at, hashes[index])
        if entry == NULL:
            continue
        memcpy(values, entry, HEAD)
        if values[at > 0]:
            if matched != NULL:
                matched[0] = at
            if exact != NULL:
                exact[0] = at == 0
            return values[at > 0]
        if table.as_zone and at > 0:
            return 0
    return 0


@cython.final
cdef class NameTable:
    """Names with their values; made by `NameTableBuilder.finish`, empty when made directly."""

    def __dealloc__(self):
        _free(&self.table)

    def __len__(self):
        return self.table.count

    @property
    def octets(self):
        """The memory of the table in bytes."""
        return self.table.used + self.table.buckets * sizeof(name_bucket) + sizeof(name_table)

    def find(self, bytes name not None):
        """The value for a wire name: its exact value, else that of the closest ancestor that has one; 0 for none.

        Raises:
            WireError: `name` is not a name.
        """
        return name_table_find(&self.table, <const uint8_t *> PyBytes_AS_STRING(name), checked(name), NULL, NULL)

    def match(self, bytes name not None):
        """(value, the name in the table in the spelling of `name`, whether it matched exactly); None for no match.

        Raises:
            WireError: `name` is not a name.
        """
        cdef Py_ssize_t at = 0
        cdef bint exact = False
        cdef Py_ssize_t size = checked(name)
        cdef int value = name_table_find(&self.table, <const uint8_t *> PyBytes_AS_STRING(name), size, &at, &exact)
        return (value, name[at:], exact) if value else None


class TableFullError(ValueError):
    """A table has as many names as its builder may take, or as much memory."""


# --- building -----------------------------------------------------------------------------------------------------

cdef void *_allocate(size_t size) noexcept nogil:
    """Memory for a part of a table, NULL without. Large parts are on huge pages where the kernel grants them, because
    each look-up reads a few places of it at random and would else wait for the page tables too."""
    cdef void *made
    if size < HUGE_PAGE:
        return aligned_alloc(CACHE_LINE, (size + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE)
    size = (size + HUGE_PAGE - 1) // HUGE_PAGE * HUGE_PAGE
    made = aligned_alloc(HUGE_PAGE, size)
    if made != NULL:
        madvise(made, size, MADV_HUGEPAGE)  # only advice: without it the table is slower
    return made


cdef void _free(name_table *table) noexcept nogil:
    free(table.bucket)
    free(table.entries)
    table.bucket = NULL
    table.entries = NULL
    table.buckets = table.count = table.used = 0


cdef void _place(name_table *table, uint64_t hashed, size_t offset) noexcept nogil:
    """Write a new entry into the first empty slot of its probe; there is one."""
    cdef name_bucket *bucket = _first_bucket(table, hashed)
    cdef int slot
    while True:
        for slot in range(BUCKET_SLOTS):
            if bucket.tags[slot] == 0:
                bucket.tags[slot] = _tag(hashed)
                bucket.offsets[slot] = <uint32_t> offset
                return
        bucket = _next_bucket(table, bucket)


cdef bint _resize(name_table *table, size_t buckets) noexcept nogil:
    """Distribute the entries over `buckets` buckets; False, and nothing has changed, without memory."""
    cdef name_bucket *made = <name_bucket *> _allocate(buckets * sizeof(name_bucket))
    cdef size_t at = 0
    cdef Py_ssize_t size
    if made == NULL:
        return False
    memset(made, 0, buckets * sizeof(name_bucket))
    free(table.bucket)
    table.bucket, table.buckets = made, buckets
    while at < table.used:
        size = name_length(table.entries + at + HEAD, table.used - at - HEAD)
        _place(table, siphash13(table.k0, table.k1, table.entries + at + HEAD, size), at)
        at += HEAD + size
    return True


cdef inline bint _is_host_byte(uint8_t byte) noexcept nogil:
    """Letters, digits, hyphen and underscore, which need no escape in text."""
    return (97 <= byte_lower(byte) <= 122) or (48 <= byte <= 57) or byte == 45 or byte == 95


cdef Py_ssize_t _wire_of(const uint8_t *text, Py_ssize_t size, uint8_t *out) noexcept nogil:
    """Write the wire form of a plain host name in text form to `out`; its length, or 0 when it is not plain."""
    cdef Py_ssize_t at, label = 0
    if size > 0 and text[size - 1] == 46:
        size -= 1
    if size == 0 or size > NAME_MAX - 2:
        return 0
    for at in range(size):
        if text[at] == 46:
            if not 1 <= at - label <= 63:
                return 0
            out[label] = <uint8_t> (at - label)
            label = at + 1
        elif _is_host_byte(text[at]):
            out[at + 1] = text[at]
        else:
            return 0
    if not 1 <= size - label <= 63:
        return 0
    out[label] = <uint8_t> (size - label)
    out[size + 1] = 0
    return size + 2


@cython.final
cdef class NameTableBuilder:
    """Collects names for a `NameTable`, in one thread at a time.

    `as_zone`: a name that is in the table is the closest encloser of all names below it, so they do not match an
    ancestor of it, as wildcards of a zone (RFC 4592 section 3.3.1). `key` is 16 secret random bytes. `most_names` and
    `most_bytes` (memory) bound what a list from elsewhere may take.

    Raises:
        ValueError: the key has another length, or a bound lies outside its limit.
        RuntimeError: by all methods, while another thread uses the builder; nothing has changed.
    """

    def __cinit__(self, bytes key not None, *, most_names=limits.LIST_NAMES.default,
                  most_bytes=limits.LIST_TABLE_BYTES.default, bint as_zone=False):
        if len(key) != KEY_SIZE:
            raise ValueError(f"the key of a name table has {KEY_SIZE} bytes, not {len(key)}")
        self.most_names = limits.LIST_NAMES.check(most_names, "most_names")
        self.most_bytes = limits.LIST_TABLE_BYTES.check(most_bytes, "most_bytes")
        self.table.as_zone = as_zone
        memcpy(&self.table.k0, PyBytes_AS_STRING(key), sizeof(uint64_t))
        memcpy(&self.table.k1, PyBytes_AS_STRING(key) + sizeof(uint64_t), sizeof(uint64_t))

    def __dealloc__(self):
        _free(&self.table)

    def __len__(self):
        return self.table.count

    cdef int check_idle(self) except -1:
        if self.busy:
            raise RuntimeError("another thread uses the builder")
        return 0

    cdef int resize(self, size_t buckets) except -1:
        """Distribute the entries over `buckets` buckets, without the GIL, because it takes half a second for a million
        names."""
        cdef bint done
        self.busy = True
        with nogil:
            done = _resize(&self.table, buckets)
        self.busy = False
        if not done:
            raise MemoryError("name table")
        return 0

    cdef int check_values(self, int exact, int below) except -1:
        if not (0 <= exact <= LARGEST_VALUE and 0 <= below <= LARGEST_VALUE and exact + below):
            raise ValueError(f"values of a name are 0 to {LARGEST_VALUE}, and not both 0: {exact}, {below}")
        return 0

    def add(self, bytes name not None, int exact, int below):
        """Add a wire name with its values. Values that it has already are kept, so the first list decides. Whether
        anything was added.

        Raises:
            WireError: `name` is not a name.
            ValueError: a value is out of range.
            TableFullError: the table has reached its bound of names or memory; nothing has changed.
            MemoryError: nothing has changed.
        """
        cdef uint8_t folded[NAME_MAX]
        cdef Py_ssize_t size = checked(name)
        self.check_values(exact, below)
        name_lower(folded, <const uint8_t *> PyBytes_AS_STRING(name), size)
        return bool(self.insert(folded, size, exact, below))

    def add_text(self, str text not None, int exact, int below):
        """As `add`, for the text form of a name, with or without the final dot; plain host names are fast.

        Raises:
            ValueError: as `add`, or `text` is not a name.
        """
        cdef uint8_t wire[NAME_MAX + 1]
        cdef Py_ssize_t size = 0
        cdef const char *data = PyUnicode_AsUTF8AndSize(text, &size)
        size = _wire_of(<const uint8_t *> data, size, wire)
        if size == 0:
            return self.add(names.from_text(text if text.endswith(".") else text + "."), exact, below)
        self.check_values(exact, below)
        name_lower(wire, wire, size)
        return bool(self.insert(wire, size, exact, below))

    cdef int insert(self, const uint8_t *name, Py_ssize_t size, int exact, int below) except -1:
        """Add a name in lower case; 1 when a name or a value is new, else 0."""
        cdef name_table *table = &self.table
        cdef uint64_t hashed = siphash13(table.k0, table.k1, name, size)
        cdef uint8_t *entry
        cdef uint8_t *grown
        cdef uint16_t values[2]
        cdef bint added = False
        self.check_idle()
        if table.count >= table.buckets * FULL:
            self.resize(table.buckets * 2 + 1)
        entry = _entry(table, name, size, hashed)
        if entry != NULL:
            memcpy(values, entry, HEAD)
            if exact and not values[0]:
                values[0], added = <uint16_t> exact, True
            if below and not values[1]:
                values[1], added = <uint16_t> below, True
            memcpy(entry, values, HEAD)
            return added
        if table.count >= self.most_names:
            raise TableFullError(f"more than {self.most_names} names")
        if table.used + HEAD + size + table.count // FULL * sizeof(name_bucket) > self.most_bytes:
            raise TableFullError(f"the names take more than {self.most_bytes} bytes of memory")
        if table.used + HEAD + size > self.capacity:
            grown = <uint8_t *> realloc(table.entries, 2 * (self.capacity + HEAD + NAME_MAX))
            if grown == NULL:
                raise MemoryError("name table")
            table.entries = grown
            self.capacity = 2 * (self.capacity + HEAD + NAME_MAX)
        values[0], values[1] = <uint16_t> exact, <uint16_t> below
        entry = table.entries + table.used
        memcpy(entry, values, HEAD)
        memcpy(entry + HEAD, name, size)
        _place(table, hashed, table.used)
        table.used += HEAD + size
        table.count += 1
        table.depths[_label_count(name, size)] = 1
        return 1

    def finish(self):
        """The table of all names that were added, without spare memory. The builder is empty afterwards.

        Raises:
            MemoryError: nothing has changed.
        """
        cdef NameTable made = NameTable.__new__(NameTable)
        cdef name_table *table = &self.table
        cdef uint8_t *trimmed
        cdef uint64_t k0 = table.k0, k1 = table.k1
        cdef bint as_zone = table.as_zone
        self.check_idle()
        if table.count:
            self.resize(table.count // FULL + 1)
            trimmed = <uint8_t *> _allocate(table.used)
            if trimmed == NULL:
                raise MemoryError("name table")
            memcpy(trimmed, table.entries, table.used)
            free(table.entries)
            table.entries = trimmed
        made.table = table[0]
        memset(table, 0, sizeof(name_table))
        table.k0, table.k1, table.as_zone = k0, k1, as_zone
        self.capacity = 0
        return made


cdef int _label_count(const uint8_t *name, Py_ssize_t size) noexcept nogil:
    cdef uint8_t starts[LABELS_MAX]
    return name_labels(name, size, starts)
