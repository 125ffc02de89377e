"""HPACK, the header compression of HTTP/2 (RFC 7541): encoder and decoder of field blocks, without I/O.

Encoder and decoder keep a dynamic table of earlier fields. A field in the table takes one or two bytes on the wire and
no new object on either side. The decoder limits what the peer controls: the length of an integer, the size of the
table, and the fields of a block, counted as RFC 9113 section 6.5.2 does. A table size update must be at the beginning
of a block. When a block is over the limit (`over_limit`), its rest still changes the table, because the peer's encoder
relies on it, but no further field is returned.

The encoder never adds credentials to a table, its own or the peer's (RFC 7541 section 7.1), nor values that change with
every message. Invariant of the table: `size` is the sum of its entries, each with 32 bytes overhead, and at most
`limit`.

The decoder stores with each entry the kind of the field and whether its bytes are allowed (`h2_fields.pxd`), so a
repeated field is checked once. After a `RemoteProtocolError` the decoder cannot be used any more, because its table may
differ from the peer's.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_RawFree, PyMem_RawRealloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cimport cython

from corenet.http.field_grammar cimport length_of
from corenet.http.h2_fields cimport field_kind

from corenet.http.errors import RemoteProtocolError
from corenet.limits import (
    HPACK_ENTRY_SHARE,
    HPACK_INTEGER_OCTETS,
    HPACK_SIZE_UPDATES,
    HPACK_TABLE_SIZE,
    HTTP_FIELD_COUNT,
    HTTP_HEAD_SIZE,
)

__all__ = ["HUFFMAN_LENGTHS", "STATIC_TABLE", "DynamicTable", "HpackDecoder", "HpackEncoder", "huffman_decode",
           "huffman_encode"]

cdef enum:
    ENTRY_OVERHEAD = 32         # RFC 7541 section 4.1
    FIRST_SLOTS = 16            # of a table, in entries
    FIRST_OCTETS = 256          # of an output buffer
    INTEGER_OCTETS = 11         # the longest code of a Py_ssize_t
    STACK_TEXT_OCTETS = 512     # longer strings are decoded into separate memory
    END_OF_STRING = 256
    HUFFMAN_SYMBOLS = 257
    HUFFMAN_STATES = 256        # inner nodes of the tree of 257 leaves
    LONGEST_PADDING = 7         # RFC 7541 section 5.2

cdef int MAX_INTEGER_OCTETS = HPACK_INTEGER_OCTETS
cdef int MAX_SIZE_UPDATES = HPACK_SIZE_UPDATES
cdef Py_ssize_t ENTRY_SHARE = HPACK_ENTRY_SHARE

# RFC 7541 appendix A: names with their values, in order.
STATIC_TABLE = tuple(
    (name.encode(), value.encode()) for name, values in (
        (":authority", [""]), (":method", ["GET", "POST"]), (":path", ["/", "/index.html"]),
        (":scheme", ["http", "https"]), (":status", ["200", "204", "206", "304", "400", "404", "500"]),
        ("accept-charset", [""]), ("accept-encoding", ["gzip, deflate"]), *((name, [""]) for name in (
            "accept-language accept-ranges accept access-control-allow-origin age allow authorization cache-control "
            "content-disposition content-encoding content-language content-length content-location content-range "
            "content-type cookie date etag expect expires from host if-match if-modified-since if-none-match if-range "
            "if-unmodified-since last-modified link location max-forwards proxy-authenticate proxy-authorization range "
            "referer refresh retry-after server set-cookie strict-transport-security transfer-encoding user-agent vary "
            "via www-authenticate").split()))
    for value in values)

# Credentials: never indexed, also not by intermediaries (RFC 7541 section 6.2.3).
cdef frozenset NEVER_INDEXED = frozenset((b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"))
# Fields whose value changes with each message.
cdef frozenset NOT_INDEXED = frozenset((
    b":path", b"age", b"content-length", b"content-range", b"date", b"etag", b"expires", b"if-match",
    b"if-modified-since", b"if-none-match", b"last-modified", b"location", b"range", b"retry-after"))
cdef frozenset NO_NAMES = frozenset()

cdef tuple STATIC = STATIC_TABLE
cdef dict STATIC_INDEX = {}
cdef dict STATIC_NAMES = {}
cdef int[STATIC_FIELDS] STATIC_KINDS


# --- output buffer ----------------------------------------------------------------------------------------------------

cdef int octets_reserve(Octets *out, Py_ssize_t more) except -1:
    """Grow the buffer for at least `more` bytes."""
    cdef Py_ssize_t capacity = out.capacity
    cdef uint8_t *data
    if out.size + more <= capacity:
        return 0
    if capacity == 0:
        capacity = FIRST_OCTETS
    while capacity < out.size + more:
        capacity *= 2
    data = <uint8_t *>PyMem_RawRealloc(out.data, capacity)
    if data == NULL:
        raise MemoryError()
    out.data = data
    out.capacity = capacity
    return 0


cdef int octets_add(Octets *out, const void *data, Py_ssize_t n) except -1:
    octets_reserve(out, n)
    memcpy(out.data + out.size, data, n)
    out.size += n
    return 0


cdef void octets_free(Octets *out) noexcept nogil:
    PyMem_RawFree(out.data)
    out.data = NULL
    out.size = out.capacity = 0


# --- integers (RFC 7541 section 5.1) ----------------------------------------------------------------------------------

cdef int add_integer(Octets *out, uint8_t first, int prefix, Py_ssize_t value) except -1:
    """Append `value` with a prefix of `prefix` bits; the bits above it are those of `first`."""
    cdef Py_ssize_t most = (1 << prefix) - 1
    octets_reserve(out, INTEGER_OCTETS)
    if value < most:
        out.data[out.size] = first | <uint8_t>value
        out.size += 1
        return 0
    out.data[out.size] = first | <uint8_t>most
    out.size += 1
    value -= most
    while value >= 128:
        out.data[out.size] = 0x80 | <uint8_t>(value & 0x7F)
        out.size += 1
        value >>= 7
    out.data[out.size] = <uint8_t>value
    out.size += 1
    return 0


cdef Py_ssize_t read_integer(const uint8_t *p, Py_ssize_t n, Py_ssize_t *at, int prefix) noexcept nogil:
    """The integer at `at`, with a prefix of `prefix` bits; `at` is moved past it. -1: incomplete or too long."""
    cdef Py_ssize_t most = (1 << prefix) - 1
    cdef Py_ssize_t value = p[at[0]] & most
    cdef int octets = 0
    at[0] += 1
    if value < most:
        return value
    while at[0] < n:
        octets += 1
        if octets > MAX_INTEGER_OCTETS:
            return -1
        value += <Py_ssize_t>(p[at[0]] & 0x7F) << (7 * (octets - 1))
        at[0] += 1
        if p[at[0] - 1] < 0x80:
            return value
    return -1


# --- Huffman code (RFC 7541 section 5.2, appendix B) ------------------------------------------------------------------

# The code is canonical, so it follows from the lengths: `symbols_by_length` names the symbols of each length.
cdef uint32_t[HUFFMAN_SYMBOLS] huffman_code
cdef uint8_t[HUFFMAN_SYMBOLS] huffman_bits

# The decoder moves between inner nodes by four bits at a time. A code has at least five bits, so one step decodes at
# most one symbol. `next_node` is the node after the step, `step_symbol` the decoded symbol or NO_SYMBOL.
cdef enum:
    NO_SYMBOL = 0x100
    INVALID_CODE = 0x101        # the code of the end of the string, which no string may contain
    LEAF = 0x1000               # above all symbols and nodes

cdef uint8_t[HUFFMAN_STATES][16] next_node
cdef uint16_t[HUFFMAN_STATES][16] step_symbol
cdef uint8_t[HUFFMAN_STATES] may_end    # all bits since the last symbol are ones, and fewer than eight


cdef dict symbols_by_length():
    """The symbols of each length; those that are not named have 28 bits."""
    cdef dict found = {
        5: b"012aceiost", 6: b" %-./3456789=A_bdfghlmnpru", 7: b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz", 8: b"&*,;XZ",
        10: b"!\"()?", 11: b"'+|", 12: b"#>", 13: b"\0$@[]~", 14: b"^}", 15: b"<`{", 19: b"\\\xc3\xd0",
        20: b"\x80\x82\x83\xa2\xb8\xc2\xe0\xe2", 21: b"\x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6",
        22: b"\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe\xc4\xc6\xe4\xe8\xe9",
        23: b"\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8\xae\xaf\xb4\xb6\xb7\xbc\xbf"
            b"\xc5\xe7\xef",
        24: b"\t\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed", 25: b"\xc7\xcf\xea\xeb",
        26: b"\xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff",
        27: b"\xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe", 30: b"\n\r\x16",
    }
    placed = set(b"".join(found.values()))
    found[28] = bytes(symbol for symbol in range(END_OF_STRING) if symbol not in placed)
    return found


cdef int build_huffman() except -1:
    """Codes from lengths, then the tree, then the steps of four bits."""
    cdef uint32_t code = 0
    cdef int length, bit, node, step, nibble, symbol, used = 1
    cdef int[HUFFMAN_STATES][2] child       # an inner node, or LEAF and the symbol
    cdef dict by_length = symbols_by_length()
    cdef list order
    for length in range(1, 31):
        code <<= 1
        order = list(by_length.get(length, b""))
        if length == 30:
            order.append(END_OF_STRING)
        for symbol in order:
            huffman_code[symbol] = code
            huffman_bits[symbol] = length
            code += 1
    for node in range(HUFFMAN_STATES):
        child[node][0] = child[node][1] = 0
    for symbol in range(HUFFMAN_SYMBOLS):
        node = 0
        for bit in range(huffman_bits[symbol] - 1, -1, -1):
            step = (huffman_code[symbol] >> bit) & 1
            if bit == 0:
                child[node][step] = LEAF | symbol
            elif child[node][step] == 0:
                child[node][step] = used
                node = used
                used += 1
            else:
                node = child[node][step]
    for nibble in range(16):
        for node in range(HUFFMAN_STATES):
            step = node
            step_symbol[node][nibble] = NO_SYMBOL
            for bit in range(3, -1, -1):
                step = child[step][(nibble >> bit) & 1]
                if step & LEAF:
                    symbol = step ^ LEAF
                    step = 0
                    if symbol == END_OF_STRING:
                        step_symbol[node][nibble] = INVALID_CODE
                        break
                    step_symbol[node][nibble] = symbol
            next_node[node][nibble] = step
    node = 0
    for _ in range(LONGEST_PADDING + 1):
        may_end[node] = True
        node = child[node][1]
    return 0


cdef Py_ssize_t huffman_size(const uint8_t *p, Py_ssize_t n) noexcept nogil:
    """Bytes that the code of p[:n] takes."""
    cdef Py_ssize_t i, bits = 0
    for i in range(n):
        bits += huffman_bits[p[i]]
    return (bits + 7) >> 3


cdef void huffman_write(const uint8_t *p, Py_ssize_t n, uint8_t *out) noexcept nogil:
    """Write the code of p[:n], which takes `huffman_size` bytes."""
    cdef uint64_t bits = 0
    cdef int count = 0
    cdef Py_ssize_t i
    for i in range(n):
        bits = (bits << huffman_bits[p[i]]) | huffman_code[p[i]]
        count += huffman_bits[p[i]]
        while count >= 8:
            count -= 8
            out[0] = <uint8_t>(bits >> count)
            out += 1
    if count:
        out[0] = <uint8_t>((bits << (8 - count)) | (0xFF >> count))


cdef Py_ssize_t huffman_read(const uint8_t *p, Py_ssize_t n, uint8_t *out) noexcept nogil:
    """Decode p[:n] into `out`, which must have 8 * n / 5 bytes; return the size, or -1 for an invalid code."""
    cdef uint8_t node = 0
    cdef uint16_t symbol
    cdef Py_ssize_t i, size = 0
    cdef int half, nibble
    for i in range(n):
        for half in range(2):
            nibble = p[i] & 0xF if half else p[i] >> 4
            symbol = step_symbol[node][nibble]
            node = next_node[node][nibble]
            if symbol < NO_SYMBOL:
                out[size] = <uint8_t>symbol
                size += 1
            elif symbol == INVALID_CODE:
                return -1
    return size if may_end[node] else -1


def huffman_encode(bytes text):
    """Return `text` in the Huffman code of RFC 7541 appendix B."""
    cdef Py_ssize_t n = length_of(text)
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(text)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, huffman_size(p, n))
    huffman_write(p, n, <uint8_t *>PyBytes_AS_STRING(out))
    return out


def huffman_decode(bytes code):
    """Return the text of a Huffman code.

    Raises:
        RemoteProtocolError: when `code` is no Huffman code.
    """
    return huffman_text(<const uint8_t *>PyBytes_AS_STRING(code), length_of(code))


cdef bytes huffman_text(const uint8_t *p, Py_ssize_t n):
    cdef uint8_t[STACK_TEXT_OCTETS] on_stack
    cdef uint8_t *out = on_stack
    cdef Py_ssize_t most = n * 8 // 5
    cdef Py_ssize_t size
    if most > STACK_TEXT_OCTETS:
        out = <uint8_t *>PyMem_Malloc(most)
        if out == NULL:
            raise MemoryError()
    try:
        size = huffman_read(p, n, out)
        if size < 0:
            raise RemoteProtocolError("a field with an invalid Huffman code")
        return PyBytes_FromStringAndSize(<const char *>out, size)
    finally:
        if out != on_stack:
            PyMem_Free(out)


# --- the dynamic table ------------------------------------------------------------------------------------------------

@cython.final
cdef class DynamicTable:
    """Fields that were sent before, the newest first; at most `limit` bytes."""

    def __cinit__(self, Py_ssize_t limit):
        self.limit = limit
        self.known = None

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.count):
            Py_DECREF(<object>self.entry(i).field)
        PyMem_Free(self.ring)

    cdef Entry *entry(self, uint32_t index) noexcept:
        """The entry that was inserted `index` before the newest; `index` is less than `count`."""
        return &self.ring[(self.newest - index) & (self.slots - 1)]

    cdef int insert(self, tuple field, Py_ssize_t size, int kind) except -1:
        """Insert `field` of `size` bytes as the newest entry; an entry larger than the table empties it."""
        cdef Entry *entry
        size += ENTRY_OVERHEAD
        if size > self.limit:
            return self.evict(0)
        self.evict(self.limit - size)
        if self.count == self.slots:
            self.grow()
        if self.known is not None:
            self.known[field] = self.inserted
        self.newest += 1
        entry = &self.ring[self.newest & (self.slots - 1)]
        Py_INCREF(field)
        entry.field = <PyObject *>field
        entry.kind = kind
        self.count += 1
        self.inserted += 1
        self.size += size
        return 0

    cdef int resize(self, Py_ssize_t limit) except -1:
        self.limit = limit
        return self.evict(limit)

    cdef int evict(self, Py_ssize_t limit) except -1:
        """Drop the oldest entries until at most `limit` bytes are left."""
        cdef tuple field
        cdef Entry *entry
        while self.size > limit:
            entry = self.entry(self.count - 1)
            field = <tuple>entry.field
            self.size -= PyBytes_GET_SIZE(<bytes>field[0]) + PyBytes_GET_SIZE(<bytes>field[1]) + ENTRY_OVERHEAD
            self.count -= 1
            Py_DECREF(field)
            if self.known is not None and self.known.get(field) == self.inserted - self.count - 1:
                del self.known[field]
        return 0

    cdef int grow(self) except -1:
        cdef uint32_t slots = self.slots * 2 if self.slots else FIRST_SLOTS
        cdef uint32_t i
        cdef Entry *ring = <Entry *>PyMem_Malloc(slots * sizeof(Entry))
        if ring == NULL:
            raise MemoryError()
        for i in range(self.count):
            ring[self.count - 1 - i] = self.entry(i)[0]
        PyMem_Free(self.ring)
        self.ring = ring
        self.slots = slots
        self.newest = self.count - 1
        return 0


# --- encoder ----------------------------------------------------------------------------------------------------------

@cython.final
cdef class HpackEncoder:
    """Encodes field blocks. `table_size` limits the table in bytes, even if the peer allows more.

    Raises:
        ValueError: `table_size` is out of its range.
    """

    def __cinit__(self, table_size=None):
        limit = HPACK_TABLE_SIZE.default if table_size is None else HPACK_TABLE_SIZE.check(
            table_size, "HpackEncoder table_size")
        self.own_limit = limit
        self.table = DynamicTable(min(limit, HPACK_TABLE_SIZE.default))
        self.table.known = {}
        # Until the peer's settings arrive, its table has the protocol's default size (RFC 9113 section 6.5.2). `lowest`
        # is the smallest limit since the last block.
        self.limit_changed = limit < HPACK_TABLE_SIZE.default
        self.lowest = self.table.limit

    cpdef int set_limit(self, Py_ssize_t limit) except -1:
        """Set the table size in bytes that the peer allows (SETTINGS_HEADER_TABLE_SIZE).

        Raises:
            ValueError: when `limit` is negative.
        """
        if limit < 0:
            raise ValueError(f"the size of a table cannot be {limit} bytes")
        limit = min(limit, self.own_limit)
        if limit != self.table.limit:
            self.lowest = min(limit, self.lowest) if self.limit_changed else limit
            self.limit_changed = True
            self.table.resize(limit)
        return 0

    cdef int forget(self) except -1:
        """Empty the table, and the peer's with the next block."""
        self.table.evict(0)
        self.lowest = 0
        self.limit_changed = True
        return 0

    def encode(self, list fields, frozenset sensitive=NO_NAMES):
        """Return the field block of `fields`, (name, value) with lower-case names; `sensitive` names are never indexed.

        Names and values are passed on unchanged; the rules of HTTP for them are not checked here.
        """
        cdef Octets out
        cdef tuple field
        out.data = NULL
        out.size = out.capacity = 0
        try:
            self.begin(&out)
            for field in fields:
                if field[0] in sensitive or not self.encode_known(&out, field):
                    self.encode_field(&out, field[0], field[1], field, field[0] in sensitive)
            return PyBytes_FromStringAndSize(<const char *>out.data, out.size)
        finally:
            octets_free(&out)

    cdef int begin(self, Octets *out) except -1:
        """Begin a block: announce a changed table size (RFC 7541 section 4.2)."""
        if self.limit_changed:
            if self.lowest < self.table.limit:
                add_integer(out, 0x20, 5, self.lowest)
            add_integer(out, 0x20, 5, self.table.limit)
            self.limit_changed = False
        return 0

    cdef bint encode_known(self, Octets *out, tuple field) except -1:
        """Encode `field` if it is in the dynamic table; False: it is not."""
        cdef PyObject *found = PyDict_GetItem(self.table.known, field)
        if found == NULL:
            return False
        add_integer(out, 0x80, 7, STATIC_FIELDS + self.table.inserted - <int64_t><object>found)
        return True

    cdef int encode_field(self, Octets *out, bytes name, bytes value, tuple key, bint sensitive) except -1:
        """Encode a field that is not in the dynamic table; `key` is the caller's tuple, for `encode_known`."""
        cdef Py_ssize_t size = length_of(name) + length_of(value)
        cdef PyObject *found
        cdef Py_ssize_t index
        cdef bint never = sensitive or name in NEVER_INDEXED
        if not never:
            found = PyDict_GetItem(STATIC_INDEX, (name, value))
            if found != NULL:
                return add_integer(out, 0x80, 7, <Py_ssize_t><object>found)
        found = PyDict_GetItem(STATIC_NAMES, name)
        index = 0 if found == NULL else <Py_ssize_t><object>found
        if never:
            add_integer(out, 0x10, 4, index)
        elif name in NOT_INDEXED or (size + ENTRY_OVERHEAD) * ENTRY_SHARE > self.table.limit:
            add_integer(out, 0, 4, index)
        else:
            add_integer(out, 0x40, 6, index)
            self.table.insert(key, size, 0)
        if index == 0:
            add_string(out, name)
        return add_string(out, value)


cdef int add_string(Octets *out, bytes text) except -1:
    """The shorter of plain text and Huffman code (RFC 7541 section 5.2)."""
    cdef Py_ssize_t n = PyBytes_GET_SIZE(text)
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(text)
    cdef Py_ssize_t size = huffman_size(p, n)
    if size < n:
        add_integer(out, 0x80, 7, size)
        octets_reserve(out, size)
        huffman_write(p, n, out.data + out.size)
        out.size += size
        return 0
    add_integer(out, 0, 7, n)
    return octets_add(out, p, n)


# --- decoder ----------------------------------------------------------------------------------------------------------

@cython.final
cdef class HpackDecoder:
    """Decodes field blocks. `table_size` limits the peer's table and `max_list` a block, in bytes; `max_fields` limits its fields.

    Raises:
        ValueError: one of them is out of its range.
    """

    def __cinit__(self, table_size=None, *, max_list=None, max_fields=None):
        self.max_table = HPACK_TABLE_SIZE.default if table_size is None else HPACK_TABLE_SIZE.check(
            table_size, "HpackDecoder table_size")
        self.max_list = HTTP_HEAD_SIZE.default if max_list is None else HTTP_HEAD_SIZE.check(
            max_list, "HpackDecoder max_list")
        self.max_fields = HTTP_FIELD_COUNT.default if max_fields is None else HTTP_FIELD_COUNT.check(
            max_fields, "HpackDecoder max_fields")
        self.table = DynamicTable(min(self.max_table, HPACK_TABLE_SIZE.default))
        self.kinds = <uint8_t *>PyMem_Malloc(self.max_fields)
        if self.kinds == NULL:
            raise MemoryError()

    def __dealloc__(self):
        PyMem_Free(self.kinds)

    def decode(self, block):
        """Return the fields of a block as (name, value); those over the limits are left out (`over_limit`).

        Raises:
            RemoteProtocolError: when `block` is no field block.
        """
        cdef bytes whole = bytes(block)
        return self.decode_block(<const uint8_t *>PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole))

    cdef int set_limit(self, Py_ssize_t size) except -1:
        """Set the table size in bytes that the peer has acknowledged; its next block must lower a larger table."""
        self.max_table = size
        return 0

    cdef list decode_block(self, const uint8_t *p, Py_ssize_t n):
        """Return the fields of p[:n]; their kinds are in `kinds`."""
        cdef list fields = []
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t total = 0
        cdef Py_ssize_t index, size
        cdef int updates = 0
        cdef int kind, prefix
        cdef uint8_t first
        cdef bytes name, value
        cdef tuple field
        self.over_limit = False
        while at < n:
            first = p[at]
            if count == 0 and self.table.limit > self.max_table and first & 0xE0 != 0x20:
                raise RemoteProtocolError(f"no table size update after the limit was lowered to {self.max_table} bytes")
            if first & 0x80:
                index = read_integer(p, n, &at, 7)
                if 1 <= index <= STATIC_FIELDS:
                    field = <tuple>PyTuple_GET_ITEM(STATIC, index - 1)
                    kind = STATIC_KINDS[index - 1]
                elif index > STATIC_FIELDS and index - STATIC_FIELDS <= <Py_ssize_t>self.table.count:
                    field = <tuple>self.table.entry(index - STATIC_FIELDS - 1).field
                    kind = self.table.entry(index - STATIC_FIELDS - 1).kind
                else:
                    raise RemoteProtocolError("a field whose index is in no table")
                size = PyBytes_GET_SIZE(<bytes>field[0]) + PyBytes_GET_SIZE(<bytes>field[1])
            elif first & 0xE0 == 0x20:
                updates += 1
                index = read_integer(p, n, &at, 5)
                if count or updates > MAX_SIZE_UPDATES:
                    raise RemoteProtocolError("a table size update that is not at the beginning of its block")
                if not 0 <= index <= self.max_table:
                    raise RemoteProtocolError(f"a table size update over {self.max_table} bytes")
                self.table.resize(index)
                continue
            else:
                prefix = 6 if first & 0x40 else 4
                index = read_integer(p, n, &at, prefix)
                if index == 0:
                    name = self.read_string(p, n, &at)
                elif 1 <= index <= STATIC_FIELDS:
                    name = <bytes>(<tuple>PyTuple_GET_ITEM(STATIC, index - 1))[0]
                elif index > STATIC_FIELDS and index - STATIC_FIELDS <= <Py_ssize_t>self.table.count:
                    name = <bytes>(<tuple>self.table.entry(index - STATIC_FIELDS - 1).field)[0]
                else:
                    raise RemoteProtocolError("a field name whose index is in no table")
                value = self.read_string(p, n, &at)
                size = PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(value)
                field = (name, value)
                kind = field_kind(<const uint8_t *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name),
                                  <const uint8_t *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
                if first & 0x40:
                    self.table.insert(field, size, kind)
            # After a field no size update is allowed.
            total += size + ENTRY_OVERHEAD
            if count == self.max_fields or total > self.max_list:
                self.over_limit = True
                count = self.max_fields
                continue
            self.kinds[count] = <uint8_t>kind
            count += 1
            fields.append(field)
        return fields

    cdef bytes read_string(self, const uint8_t *p, Py_ssize_t n, Py_ssize_t *at):
        cdef Py_ssize_t size
        cdef Py_ssize_t start
        cdef bint huffman
        if at[0] >= n:
            raise RemoteProtocolError("a field block that ends inside a field")
        huffman = p[at[0]] & 0x80
        size = read_integer(p, n, at, 7)
        start = at[0]
        if size < 0 or size > n - start:
            raise RemoteProtocolError("a field block that ends inside a string")
        at[0] += size
        if huffman:
            return huffman_text(p + start, size)
        return PyBytes_FromStringAndSize(<const char *>p + start, size)


cdef int build_static() except -1:
    cdef int number
    cdef bytes name, value
    for number, (name, value) in enumerate(STATIC_TABLE):
        STATIC_NAMES.setdefault(name, number + 1)
        STATIC_INDEX[(name, value)] = number + 1
        STATIC_KINDS[number] = field_kind(
            <const uint8_t *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name),
            <const uint8_t *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    return 0


build_huffman()
build_static()
HUFFMAN_LENGTHS = bytes([huffman_bits[symbol] for symbol in range(HUFFMAN_SYMBOLS)])
