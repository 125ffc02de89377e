"""The layout of the rdata of each type, as needed for length checks, compression and canonical form.

One table of layout strings is used to check lengths, to expand compressed names, to lower-case names for signatures,
and to find names to compress. Rdata of other types is opaque (RFC 3597 section 3): it is never interpreted. A layout is
read from left to right:

    c    name, may be received compressed (RFC 1035 types, RFC 3597 section 4); lower case in canonical form
    u    name, may be received compressed; letter case kept in canonical form (NSEC: RFC 6840 section 5.1)
    v    name, never compressed; letter case kept
    1 2 3 4 6 8 a   that many bytes; a is 16
    s    character string;  q  one that may not be empty;  S  one or more to the end;  p  length byte and as many bytes
    r    rest, may be empty;  R  rest, at least one byte
    B    type bitmap to the end (RFC 4034 section 4.1.2);  o  EDNS options;  k  service parameters (RFC 9460)
    L    address prefixes (RFC 3123);  x  prefix length, address suffix and name of A6 (RFC 2874)
"""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from resolver.wire.consts cimport *
from resolver.wire.name cimport name_expand, name_length, name_lower
from resolver.wire.octets cimport get16

from resolver.wire.errors import WireError, reason_of

cdef const char *_low[263]           # layouts of the types below 263; NULL where rdata is opaque
cdef bint _compressible[64]


cdef void _fill() noexcept:
    """Fill the tables; runs once when the module is imported."""
    cdef uint16_t t
    memset(_low, 0, sizeof(_low))
    memset(_compressible, 0, sizeof(_compressible))
    for t in (T_NS, T_MD, T_MF, T_CNAME, T_MB, T_MG, T_MR, T_PTR, T_DNAME):
        _low[t] = "c"
    for t in (T_MINFO, T_RP):
        _low[t] = "cc"
    for t in (T_MX, T_AFSDB, T_RT, T_KX):
        _low[t] = "2c"
    for t in (T_SIG, T_RRSIG):
        _low[t] = "a2cR"
    for t in (T_TXT, T_SPF, T_NINFO, T_AVC, T_RESINFO, T_WALLET, T_ISDN):
        _low[t] = "S"
    for t in (T_DS, T_CDS):
        _low[t] = "4R"
    for t in (T_KEY, T_DNSKEY, T_CDNSKEY, T_RKEY):
        _low[t] = "4r"
    for t in (T_TLSA, T_SMIMEA):
        _low[t] = "3r"
    for t in (T_SVCB, T_HTTPS):
        _low[t] = "2vk"
    for t in (T_L32, T_EUI48):
        _low[t] = "6"
    for t in (T_NS, T_MD, T_MF, T_CNAME, T_SOA, T_MB, T_MG, T_MR, T_PTR, T_MINFO, T_MX):
        _compressible[t] = True
    _low[T_A] = "4"
    _low[T_AAAA] = "a"
    _low[T_SOA] = "cca4"
    _low[T_WKS] = "41r"
    _low[T_HINFO] = "ss"
    _low[T_X25] = "s"
    _low[T_PX] = "2cc"
    _low[T_GPOS] = "sss"
    _low[T_LOC] = "a"
    _low[T_NXT] = "cr"
    _low[T_SRV] = "6c"
    _low[T_NAPTR] = "4sssc"
    _low[T_CERT] = "41R"
    _low[T_A6] = "x"
    _low[T_OPT] = "o"
    _low[T_APL] = "L"
    _low[T_SSHFP] = "2R"
    _low[T_IPSECKEY] = "3r"
    _low[T_NSEC] = "uB"
    _low[T_DHCID] = "R"
    _low[T_NSEC3] = "4pqB"
    _low[T_NSEC3PARAM] = "4p"
    _low[T_HIP] = "4r"
    _low[T_TALINK] = "vv"
    _low[T_OPENPGPKEY] = "R"
    _low[T_CSYNC] = "6B"
    _low[T_ZONEMD] = "6R"
    _low[T_NID] = "28"
    _low[T_L64] = "28"
    _low[T_LP] = "2v"
    _low[T_EUI64] = "8"
    _low[T_URI] = "4R"
    _low[T_CAA] = "1qr"
    _low[T_AMTRELAY] = "2r"


_fill()


# --- C interface --------------------------------------------------------------------------------------------------

cdef const char *rdata_layout(uint16_t rtype, uint16_t rclass) noexcept nogil:
    """Layout of a type, NULL when its rdata is opaque. Address types have one only in class IN (RFC 3597 section 4)."""
    if rtype < 263:
        if rclass != C_IN and (rtype == T_A or rtype == T_AAAA or rtype == T_WKS or rtype == T_APL or rtype == T_A6):
            return NULL
        return _low[rtype]
    if rtype == T_CLA:
        return "S"
    if rtype == T_TA or rtype == T_DLV:
        return "4R"
    return NULL


cdef bint rdata_compressible(uint16_t rtype) noexcept nogil:
    """Whether names in rdata of this type may be sent compressed: only RFC 1035 types (RFC 3597 section 4)."""
    return rtype < 64 and _compressible[rtype]


cdef inline int _width(char step) noexcept nogil:
    """Size of a field of fixed size, 0 for other steps."""
    if c'1' <= step <= c'8':
        return step - c'0'
    return 16 if step == c'a' else 0


cdef Py_ssize_t _bitmap(const uint8_t *data, Py_ssize_t at, Py_ssize_t end) noexcept nogil:
    """Check a type bitmap: windows in ascending order, each with 1 to 32 bytes."""
    cdef int last = -1
    while at < end:
        if at + 2 > end or data[at] <= last or not 1 <= data[at + 1] <= 32 or at + 2 + data[at + 1] > end:
            return E_BITMAP
        last = data[at]
        at += 2 + data[at + 1]
    return 0


cdef Py_ssize_t _pairs(const uint8_t *data, Py_ssize_t at, Py_ssize_t end, bint ascending) noexcept nogil:
    """Check repeated code, length, value; codes of service parameters must ascend (RFC 9460 section 2.2)."""
    cdef int last = -1
    cdef int code
    while at < end:
        if at + 4 > end:
            return E_SVCPARAMS if ascending else E_OPTIONS
        code = get16(data + at)
        at += 4 + get16(data + at + 2)
        if at > end or (ascending and code <= last):
            return E_SVCPARAMS if ascending else E_OPTIONS
        last = code
    return 0


cdef Py_ssize_t _prefixes(const uint8_t *data, Py_ssize_t at, Py_ssize_t end) noexcept nogil:
    """Check repeated family, prefix, negation and length, address."""
    while at < end:
        if at + 4 > end:
            return E_APL
        at += 4 + (data[at + 3] & 127)
        if at > end:
            return E_APL
    return 0


cdef Py_ssize_t _a6(const uint8_t *data, Py_ssize_t at, Py_ssize_t end) noexcept nogil:
    """Number of bytes before the name of an A6 record."""
    if at >= end or data[at] > 128:
        return E_RDATA_SHORT
    cdef Py_ssize_t head = 1 + 16 - (data[at] >> 3)
    return head if at + head <= end else E_RDATA_SHORT


cdef Py_ssize_t rdata_check(const uint8_t *message, Py_ssize_t size, Py_ssize_t at, Py_ssize_t length,
                            const char *layout) noexcept nogil:
    """Length of the rdata with expanded names, or a negative code when it does not match its layout."""
    cdef Py_ssize_t end = at + length
    cdef Py_ssize_t total = 0
    cdef Py_ssize_t got, after, head
    cdef int width
    cdef char step
    if layout == NULL:
        return length
    while layout[0]:
        step = layout[0]
        layout += 1
        width = _width(step)
        if width:
            at += width
            total += width
            if at > end:
                return E_RDATA_SHORT
        elif step == c'c' or step == c'u':
            if at >= end:
                return E_RDATA_SHORT
            got = name_expand(message, size, at, end, NULL, &after)
            if got < 0:
                return got
            total += got
            at = after
        elif step == c'v':
            if at >= end:
                return E_RDATA_SHORT
            got = name_length(message + at, end - at)
            if got < 0:
                return E_RDATA_NAME if got == E_TRUNCATED else got
            total += got
            at += got
        elif step == c's' or step == c'p' or step == c'q':
            if at >= end:
                return E_RDATA_SHORT
            got = 1 + message[at]
            if at + got > end:
                return E_STRING
            if step == c'q' and got == 1:
                return E_RDATA_SHORT
            at += got
            total += got
        elif step == c'S':
            if at >= end:
                return E_RDATA_SHORT
            while at < end:
                got = 1 + message[at]
                if at + got > end:
                    return E_STRING
                at += got
                total += got
        elif step == c'x':
            head = _a6(message, at, end)
            if head < 0:
                return head
            if message[at] == 0:
                at += head
                total += head
            else:
                at += head
                if at >= end:
                    return E_RDATA_SHORT
                got = name_expand(message, size, at, end, NULL, &after)
                if got < 0:
                    return got
                total += head + got
                at = after
        else:
            if step == c'R':
                if at >= end:
                    return E_RDATA_SHORT
                got = 0
            elif step == c'B':
                got = _bitmap(message, at, end)
            elif step == c'o':
                got = _pairs(message, at, end, False)
            elif step == c'k':
                got = _pairs(message, at, end, True)
            elif step == c'L':
                got = _prefixes(message, at, end)
            else:
                got = 0
            if got < 0:
                return got
            total += end - at
            at = end
    if at != end:
        return E_RDATA_LONG
    return total if total <= MESSAGE_MAX else E_EXPANDED


cdef Py_ssize_t rdata_next_name(const uint8_t *rdata, Py_ssize_t length, const char **layout,
                                Py_ssize_t *at) noexcept nogil:
    """Advance `layout` and `at` past the next name of kind c, u or x in checked, uncompressed rdata.

    Returns the length of that name, which ends at `at`, or 0 when there are no more.
    """
    cdef char step
    cdef Py_ssize_t got
    cdef int width
    while layout[0] != NULL and layout[0][0]:
        step = layout[0][0]
        layout[0] += 1
        width = _width(step)
        if width:
            at[0] += width
        elif step == c'c' or step == c'u' or step == c'x' or step == c'v':
            if step == c'x':
                if at[0] >= length or rdata[at[0]] == 0:
                    return 0
                at[0] += 1 + 16 - (rdata[at[0]] >> 3)
            if at[0] >= length:
                return 0
            got = name_length(rdata + at[0], length - at[0])
            if got < 0:
                return 0
            at[0] += got
            if step != c'v':
                return got
        elif step == c's' or step == c'p' or step == c'q':
            if at[0] >= length:
                return 0
            at[0] += 1 + rdata[at[0]]
        else:
            return 0
    return 0


cdef Py_ssize_t rdata_expand(const uint8_t *message, Py_ssize_t size, Py_ssize_t at, Py_ssize_t length,
                             const char *layout, uint8_t *out) noexcept nogil:
    """Write checked rdata with expanded names to `out`, which has the size that `rdata_check` returned."""
    cdef Py_ssize_t end = at + length
    cdef Py_ssize_t total = 0
    cdef Py_ssize_t got, after
    cdef int width
    cdef char step
    while layout != NULL and layout[0]:
        step = layout[0]
        layout += 1
        width = _width(step)
        if step == c'x':
            # with a prefix length of 0 the whole address is here and no name follows (RFC 2874 section 3.1)
            width = 1 + 16 - (message[at] >> 3)
            step = c'c' if message[at] else c'r'
            memcpy(out + total, message + at, width)
            at += width
            total += width
            width = 0
        if width > 0:
            memcpy(out + total, message + at, width)
            at += width
            total += width
        elif step == c'c' or step == c'u':
            got = name_expand(message, size, at, end, out + total, &after)
            if got < 0:
                return got
            total += got
            at = after
        elif step == c's' or step == c'p' or step == c'q':
            got = 1 + message[at]
            memcpy(out + total, message + at, got)
            at += got
            total += got
        else:
            break
    memcpy(out + total, message + at, end - at)
    return total + end - at


cdef void rdata_lower(uint8_t *rdata, Py_ssize_t length, const char *layout) noexcept nogil:
    """Convert uncompressed rdata to canonical form in place (RFC 4034 section 6.2, RFC 6840 section 5.1)."""
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t got
    while True:
        got = rdata_next_name(rdata, length, &layout, &at)
        if got == 0:
            return
        # the last step is the kind of this name: u keeps its letter case
        if (layout - 1)[0] != c'u':
            name_lower(rdata + at - got, rdata + at - got, got)


# --- Python interface ---------------------------------------------------------------------------------------------

def check(int rtype, bytes rdata not None, int rclass=C_IN) -> None:
    """Check uncompressed rdata against the layout of its type; opaque types always pass.

    Raises:
        WireError: the rdata is too short, too long, or has an inconsistent length inside.
    """
    cdef const uint8_t *data = <const uint8_t *> PyBytes_AS_STRING(rdata)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(rdata)
    cdef Py_ssize_t got
    if size > MESSAGE_MAX:
        raise WireError(reason_of(E_EXPANDED))
    # a message size of 0: pointers are errors
    got = rdata_check(data, 0, 0, size, rdata_layout(rtype, rclass))
    if got < 0:
        raise WireError(reason_of(got))


def canonical(int rtype, bytes rdata not None, int rclass=C_IN) -> bytes:
    """Rdata in canonical form: embedded names of certain types in lower case (RFC 4034 section 6.2)."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(rdata)
    cdef const char *layout = rdata_layout(rtype, rclass)
    if layout == NULL:
        return rdata
    cdef bytes made = PyBytes_FromStringAndSize(PyBytes_AS_STRING(rdata), size)
    rdata_lower(<uint8_t *> PyBytes_AS_STRING(made), size, layout)
    return made
