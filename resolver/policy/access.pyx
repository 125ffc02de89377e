"""Access lists: prefixes compiled into sorted, disjoint ranges that are searched without the GIL.

The longest prefix that contains the client's address decides. For equal prefixes, drop precedes refuse and refuse
precedes allow. Addresses in no prefix are refused. The lists change only when settings are loaded, so they are
flattened once, and a lookup is a binary search over a few cache lines instead of a walk through a prefix tree. IPv4
clients on an IPv6 socket (::ffff:0:0/96) are treated as IPv4; otherwise they could bypass a list.
"""

import ipaddress

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from resolver import limits
from resolver.policy.ranges import Codes, with_views

DROP = ACCESS_DROP
REFUSE = ACCESS_REFUSE
ALLOW = ACCESS_ALLOW
DECISION = ACCESS_DECISION
VIEW_SHIFT = ACCESS_VIEW_SHIFT
CODES = Codes(ACCESS_DROP, ACCESS_REFUSE, ACCESS_ALLOW, ACCESS_UNCACHED, ACCESS_VIEW_SHIFT)

cdef enum:
    FAMILY_INET = 2             # address families as the Linux kernel numbers them, <bits/socket.h>
    FAMILY_INET6 = 10
    INET_SIZE = 8               # bytes of a sockaddr up to the end of the address
    INET6_SIZE = 24


cdef inline uint64_t _big_endian(const uint8_t *bytes, size_t count) noexcept nogil:
    cdef uint64_t value = 0
    cdef size_t index
    for index in range(count):
        value = (value << 8) | bytes[index]
    return value


cdef int _lookup4(const access_table *table, uint32_t address) noexcept nogil:
    cdef size_t low = 0, high = table.count4, middle
    while high - low > 1:
        middle = (low + high) >> 1
        if table.start4[middle] <= address:
            low = middle
        else:
            high = middle
    return table.value4[low]


cdef int _lookup6(const access_table *table, uint64_t upper, uint64_t lower) noexcept nogil:
    cdef size_t low = 0, high = table.count6, middle
    cdef uint64_t start
    while high - low > 1:
        middle = (low + high) >> 1
        start = table.start6[2 * middle]
        if start < upper or (start == upper and table.start6[2 * middle + 1] <= lower):
            low = middle
        else:
            high = middle
    return table.value6[low]


cdef int _lookup_bytes6(const access_table *table, const uint8_t *address) noexcept nogil:
    cdef uint64_t upper = _big_endian(address, 8)
    cdef uint64_t lower = _big_endian(address + 8, 8)
    if upper == 0 and (lower >> 32) == 0xFFFF:
        return _lookup4(table, <uint32_t>lower)
    return _lookup6(table, upper, lower)


cdef int access_lookup(const access_table *table, const void *peer, size_t length) noexcept nogil:
    cdef const uint8_t *bytes = <const uint8_t *>peer
    cdef uint16_t family
    if length < INET_SIZE:
        return ACCESS_DROP
    memcpy(&family, bytes, sizeof(family))
    if family == FAMILY_INET:
        return _lookup4(table, <uint32_t>_big_endian(bytes + 4, 4))
    if family == FAMILY_INET6 and length >= INET6_SIZE:
        return _lookup_bytes6(table, bytes + 8)
    return ACCESS_DROP


cdef int access_lookup_ip(const access_table *table, const uint8_t *ip, size_t size) noexcept nogil:
    if size == 4:
        return _lookup4(table, <uint32_t>_big_endian(ip, 4))
    return _lookup_bytes6(table, ip)


@cython.final
cdef class AccessTable:
    """A compiled access list with the view of each client. It is immutable, so any thread may read it while it exists.

    `views` are `ViewAccess` in the order in which they are tried; `uncached` is for clients in none. `keyed` are the
    tables of the views with keys, by the name of the key (lower case): each has only the views that name its key.
    """

    def __cinit__(self, allow=(), refuse=(), drop=(), *, views=(), uncached=False, keyed=()):
        self.keyed = dict(keyed)
        views = list(views)
        for view in views:
            if not 0 < view.number <= limits.VIEWS:
                raise ValueError(f"view {view.number}: views are numbered from 1 to {limits.VIEWS}")
        ranges = with_views((allow, refuse, drop), views, uncached, CODES)
        ranges4, ranges6 = ranges[4], ranges[6]
        cdef size_t count4 = len(ranges4)
        cdef size_t count6 = len(ranges6)
        cdef size_t index
        self.memory = malloc(count6 * 16 + count4 * 4 + (count6 + count4) * sizeof(uint16_t))
        if self.memory == NULL:
            raise MemoryError("access table")
        cdef uint64_t *start6 = <uint64_t *>self.memory
        cdef uint32_t *start4 = <uint32_t *>(start6 + 2 * count6)
        cdef uint16_t *value6 = <uint16_t *>(start4 + count4)
        cdef uint16_t *value4 = value6 + count6
        for index in range(count4):
            start4[index] = ranges4[index][0]
            value4[index] = ranges4[index][1]
        for index in range(count6):
            start6[2 * index] = ranges6[index][0] >> 64
            start6[2 * index + 1] = ranges6[index][0] & 0xFFFFFFFFFFFFFFFF
            value6[index] = ranges6[index][1]
        self.table = access_table(count4, start4, value4, count6, start6, value6)

    def __dealloc__(self):
        free(self.memory)

    def lookup(self, str address):
        """The decision for a client by the text of its address: `DROP`, `REFUSE` or `ALLOW`.

        Raises:
            ValueError: when `address` is not an IP address.
        """
        return self.find(address) & ACCESS_DECISION

    def view_of(self, str address):
        """The number of the view of a client by the text of its address; 0 for none. Raises as `lookup`."""
        return self.find(address) >> ACCESS_VIEW_SHIFT

    def find(self, str address):
        """The value of a client: `DECISION` has the bits of the decision, the view's number is above `VIEW_SHIFT`.

        Raises:
            ValueError: when `address` is not an IP address.
        """
        parsed = ipaddress.ip_address(address)
        packed = parsed.packed
        cdef const uint8_t *bytes = packed
        if parsed.version == 4:
            return _lookup4(&self.table, <uint32_t>_big_endian(bytes, 4))
        return _lookup_bytes6(&self.table, bytes)

    def find_signed(self, str address, bytes key):
        """As `find`, for a query that is signed with `key`: of the view that it has without a signature and that of
        its key, the first one in the file applies."""
        cdef int plain = self.find(address)
        cdef int signed
        cdef object table = self.keyed.get(key)
        if table is None:
            return plain
        signed = table.find(address)
        if signed >> ACCESS_VIEW_SHIFT == 0:
            return plain
        if plain >> ACCESS_VIEW_SHIFT == 0 or signed >> ACCESS_VIEW_SHIFT < plain >> ACCESS_VIEW_SHIFT:
            return signed
        return plain

    def lookup_sockaddr(self, bytes sockaddr):
        """The decision by the bytes of a struct sockaddr, by the function that the fast path calls."""
        cdef const uint8_t *bytes_ = sockaddr
        return access_lookup(&self.table, bytes_, len(sockaddr)) & ACCESS_DECISION
