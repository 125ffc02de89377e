"""Domain names in wire form: checks, labels, comparison, canonical order, text.

A name is `bytes`: length-prefixed labels and the root's zero byte, at most 255 bytes, in the received letter case
(RFC 1035 section 3.1). It is not decoded into objects, because the same bytes are a dictionary key (after
`lower`), a cache key, and part of a packet. Every function checks its argument first, so that an invalid name raises
`WireError` and is never read past its end.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from resolver.wire.consts cimport E_COMPRESSED, E_LABEL, E_NAME_LONG, E_POINTER, E_HOPS, E_TRUNCATED, E_RDATA_NAME
from resolver.wire.consts cimport HEADER_SIZE, LABELS_MAX, NAME_MAX, T_DS
from resolver.wire.hash cimport siphash13

from resolver.limits import COMPRESSION_HOPS
from resolver.wire.errors import WireError, reason_of

ROOT = b"\0"

cdef int _hops = COMPRESSION_HOPS


# --- C interface --------------------------------------------------------------------------------------------------

cdef int name_labels(const uint8_t *name, Py_ssize_t size, uint8_t *starts) noexcept nogil:
    """Write the offsets of the labels of a checked name, without the root, to `starts` (LABELS_MAX entries). Returns
    their number."""
    cdef int count = 0
    cdef Py_ssize_t at = 0
    while at < size and name[at] != 0 and count < LABELS_MAX:
        starts[count] = <uint8_t> at
        count += 1
        at += 1 + name[at]
    return count


cdef Py_ssize_t name_expand(const uint8_t *message, Py_ssize_t size, Py_ssize_t at, Py_ssize_t limit,
                            uint8_t *out, Py_ssize_t *after) noexcept nogil:
    """Expand the possibly compressed name at `at`. Returns its uncompressed length, or a negative code.

    The name must end before `limit`, the size of the message or the end of the rdata, up to and including its first
    pointer; `after` is set to the offset after that. `out`, when not NULL, has space for 255 bytes. A `size` of 0
    means that there is no message, so pointers are errors. Each pointer must point before the labels that
    precede it, so the loop always ends (RFC 1035 section 4.1.4: "a prior occurrence").
    """
    cdef Py_ssize_t length = 0
    cdef Py_ssize_t piece = at
    cdef Py_ssize_t end = limit
    cdef Py_ssize_t target
    cdef int hops = 0
    cdef int label
    while True:
        if at >= end:
            return E_TRUNCATED if limit == size or hops else E_RDATA_NAME
        label = message[at]
        if label < 64:
            if at + 1 + label > end:
                return E_TRUNCATED if limit == size or hops else E_RDATA_NAME
            if length + 1 + label > NAME_MAX:
                return E_NAME_LONG
            if out != NULL:
                memcpy(out + length, message + at, 1 + label)
            length += 1 + label
            at += 1 + label
            if label == 0:
                if hops == 0:
                    after[0] = at
                return length
        elif label >= 192:
            if at + 2 > end:
                return E_TRUNCATED if limit == size or hops else E_RDATA_NAME
            target = ((label & 63) << 8) | message[at + 1]
            if hops == 0:
                after[0] = at + 2
            if size == 0:
                return E_COMPRESSED
            if target >= piece or target < HEADER_SIZE:
                return E_POINTER
            hops += 1
            if hops > _hops:
                return E_HOPS
            at = piece = target
            end = size
        else:
            return E_LABEL


cdef Py_ssize_t checked(bytes name) except -1:
    """Return the size of `name`, which must be exactly one valid uncompressed name.

    Raises WireError when it is not, TypeError for None.
    """
    if name is None:
        raise TypeError("a name is bytes, not None")
    cdef Py_ssize_t size = PyBytes_GET_SIZE(name)
    cdef Py_ssize_t length = name_length(<const uint8_t *> PyBytes_AS_STRING(name), size)
    if length < 0:
        raise WireError(reason_of(length))
    if length != size:
        raise WireError("bytes follow the name")
    return size


cdef inline const uint8_t *raw(bytes data) noexcept:
    return <const uint8_t *> PyBytes_AS_STRING(data)


cdef inline bytes piece_of(const uint8_t *data, Py_ssize_t size):
    return PyBytes_FromStringAndSize(<const char *> data, size)


# --- labels -------------------------------------------------------------------------------------------------------

def is_valid(object name) -> bool:
    """Whether `name` is bytes with exactly one valid uncompressed name."""
    if not isinstance(name, bytes):
        return False
    return name_length(raw(<bytes> name), PyBytes_GET_SIZE(<bytes> name)) == PyBytes_GET_SIZE(<bytes> name)


def label_count(bytes name not None) -> int:
    """Number of labels; the root has 0."""
    cdef uint8_t starts[LABELS_MAX]
    return name_labels(raw(name), checked(name), starts)


def labels(bytes name not None) -> list[bytes]:
    """Labels from left to right, without length bytes and without the root."""
    cdef uint8_t starts[LABELS_MAX]
    cdef const uint8_t *data = raw(name)
    cdef int count = name_labels(data, checked(name), starts)
    cdef int i
    cdef list found = []
    for i in range(count):
        found.append(piece_of(data + starts[i] + 1, data[starts[i]]))
    return found


def parent(bytes name not None) -> bytes:
    """The name without its first label; the root's parent is the root."""
    cdef Py_ssize_t size = checked(name)
    cdef const uint8_t *data = raw(name)
    if data[0] == 0:
        return name
    return piece_of(data + 1 + data[0], size - 1 - data[0])


def zone_lookup_name(bytes name not None, int rtype) -> bytes:
    """The name (lower case) whose zone is authoritative for a set: the parent of `name` for DS (RFC 4035 3.1.4.1)."""
    name = lower(name)
    return parent(name) if rtype == T_DS else name


def closest_in(bytes name not None, object table) -> bytes | None:
    """`name` (lower case) or its closest ancestor that is in `table`; None without any."""
    cdef Py_ssize_t size = checked(name)
    cdef const uint8_t *data = raw(name)
    cdef Py_ssize_t at = 0
    cdef bytes found = name
    while found not in table:                       # at most 128 steps: the name is checked
        if data[at] == 0:
            return None
        at += data[at] + 1
        found = piece_of(data + at, size - at)
    return found


def suffix(bytes name not None, Py_ssize_t labels) -> bytes:
    """The last `labels` labels of the name; 0 is the root.

    Raises:
        ValueError: the name has fewer.
    """
    cdef uint8_t starts[LABELS_MAX]
    cdef Py_ssize_t size = checked(name)
    cdef const uint8_t *data = raw(name)
    cdef int count = name_labels(data, size, starts)
    if not 0 <= labels <= count:
        raise ValueError(f"a name of {count} labels has no suffix of {labels} labels")
    if labels == count:
        return name
    if labels == 0:
        return ROOT
    return piece_of(data + starts[count - labels], size - starts[count - labels])


def lower(bytes name not None) -> bytes:
    """The name in lower case (ASCII letters only, RFC 4343), as used for keys."""
    cdef Py_ssize_t size = checked(name)
    cdef const uint8_t *data = raw(name)
    cdef uint8_t lowered[NAME_MAX]
    cdef Py_ssize_t i
    cdef uint8_t changed = 0
    for i in range(size):
        lowered[i] = byte_lower(data[i])
        changed |= lowered[i] ^ data[i]
    return piece_of(lowered, size) if changed else name


# --- comparing ----------------------------------------------------------------------------------------------------

def equal(bytes a not None, bytes b not None) -> bool:
    """Whether two names are equal regardless of letter case."""
    cdef Py_ssize_t size = checked(a)
    if checked(b) != size:
        return False
    return name_equal_ci(raw(a), raw(b), size)


def is_subdomain(bytes name not None, bytes zone not None) -> bool:
    """Whether `name` is `zone` or below it, regardless of letter case."""
    cdef Py_ssize_t size = checked(name)
    cdef Py_ssize_t tail = checked(zone)
    cdef Py_ssize_t at = 0
    cdef const uint8_t *data = raw(name)
    while size - at > tail:
        at += 1 + data[at]
    return size - at == tail and name_equal_ci(data + at, raw(zone), tail)


cdef int compare_labels(const uint8_t *a, const uint8_t *b) noexcept nogil:
    """Order of two labels as unsigned bytes in lower case; a prefix comes first."""
    cdef int shorter = a[0] if a[0] < b[0] else b[0]
    cdef int i
    cdef int difference
    for i in range(1, shorter + 1):
        difference = <int> byte_lower(a[i]) - <int> byte_lower(b[i])
        if difference:
            return difference
    return <int> a[0] - <int> b[0]


def common_labels(bytes a not None, bytes b not None) -> int:
    """Number of labels that two names have in common, from the right."""
    cdef uint8_t starts_a[LABELS_MAX]
    cdef uint8_t starts_b[LABELS_MAX]
    cdef const uint8_t *data_a = raw(a)
    cdef const uint8_t *data_b = raw(b)
    cdef int count_a = name_labels(data_a, checked(a), starts_a)
    cdef int count_b = name_labels(data_b, checked(b), starts_b)
    cdef int shared = 0
    while shared < count_a and shared < count_b and compare_labels(
            data_a + starts_a[count_a - 1 - shared], data_b + starts_b[count_b - 1 - shared]) == 0:
        shared += 1
    return shared


def compare(bytes a not None, bytes b not None) -> int:
    """The canonical order of two names: -1, 0 or 1 (RFC 4034 section 6.1), label by label from the right."""
    cdef uint8_t starts_a[LABELS_MAX]
    cdef uint8_t starts_b[LABELS_MAX]
    cdef const uint8_t *data_a = raw(a)
    cdef const uint8_t *data_b = raw(b)
    cdef int count_a = name_labels(data_a, checked(a), starts_a)
    cdef int count_b = name_labels(data_b, checked(b), starts_b)
    cdef int i
    cdef int order
    for i in range(1, (count_a if count_a < count_b else count_b) + 1):
        order = compare_labels(data_a + starts_a[count_a - i], data_b + starts_b[count_b - i])
        if order:
            return -1 if order < 0 else 1
    return (count_a > count_b) - (count_a < count_b)


def canonical_key(bytes name not None) -> bytes:
    """Bytes that sort like the names in canonical order (RFC 4034 section 6.1).

    Labels from right to left, each followed by 00 00. A zero inside a label becomes 00 01, so that a label sorts before
    its extensions and cannot contain the terminator.
    """
    cdef uint8_t starts[LABELS_MAX]
    cdef uint8_t made[2 * NAME_MAX]
    cdef const uint8_t *data = raw(name)
    cdef int count = name_labels(data, checked(name), starts)
    cdef Py_ssize_t size = 0
    cdef int i, j
    cdef const uint8_t *label
    for i in range(count - 1, -1, -1):
        label = data + starts[i]
        for j in range(1, label[0] + 1):
            made[size] = byte_lower(label[j])
            size += 1
            if label[j] == 0:
                made[size] = 1
                size += 1
        made[size] = 0
        made[size + 1] = 0
        size += 2
    return piece_of(made, size)


# --- new names ----------------------------------------------------------------------------------------------------

def join(bytes prefix not None, bytes suffix not None) -> bytes:
    """`prefix` (labels without the final zero) in front of the name `suffix`.

    Raises:
        WireError: the result is not a valid name, for example longer than 255 bytes.
    """
    cdef bytes made = prefix + suffix
    checked(suffix)
    checked(made)
    return made


def prepend(bytes label not None, bytes name not None) -> bytes:
    """The name with one more label in front.

    Raises:
        WireError: the label is empty or longer than 63 bytes, or the name becomes longer than 255.
    """
    if not 1 <= len(label) <= 63:
        raise WireError("label is empty or longer than 63 bytes")
    return join(bytes((len(label),)) + label, name)


def wildcard(bytes name not None) -> bytes:
    """The wildcard name ``*.name`` (RFC 4592).

    Raises:
        WireError: the result is longer than 255 bytes.
    """
    return join(b"\1*", name)


def replace_suffix(bytes name not None, bytes old not None, bytes new not None) -> bytes | None:
    """`name` with its suffix `old` replaced by `new`: the substitution of a DNAME (RFC 6672 section 2.2).

    Returns None when the result is longer than 255 bytes.

    Raises:
        ValueError: `name` does not end in `old`.
    """
    if not is_subdomain(name, old):
        raise ValueError("the name does not end in the suffix to replace")
    checked(new)
    cdef Py_ssize_t kept = len(name) - len(old)
    if kept + len(new) > NAME_MAX:
        return None
    return name[:kept] + new


# --- text ---------------------------------------------------------------------------------------------------------

def to_text(bytes name not None) -> str:
    """Text form with the final dot; special bytes are escaped as in master files (RFC 1035 section 5.1)."""
    cdef Py_ssize_t size = checked(name)
    cdef const uint8_t *data = raw(name)
    cdef uint8_t made[4 * NAME_MAX]
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t used = 0
    cdef Py_ssize_t i
    cdef uint8_t byte
    if size == 1:
        return "."
    while data[at]:
        for i in range(at + 1, at + 1 + data[at]):
            byte = data[i]
            if 33 <= byte <= 126:
                # " $ ( ) . ; @ \ have a meaning in master files
                if byte in (34, 36, 40, 41, 46, 59, 64, 92):
                    made[used] = 92
                    used += 1
                made[used] = byte
                used += 1
            else:
                made[used] = 92
                made[used + 1] = 48 + byte // 100
                made[used + 2] = 48 + byte // 10 % 10
                made[used + 3] = 48 + byte % 10
                used += 4
        made[used] = 46
        used += 1
        at += 1 + data[at]
    return piece_of(made, used).decode("ascii")


def from_text(str text not None) -> bytes:
    """Name from text with or without the final dot; escapes are those of master files (RFC 1035 section 5.1).

    Raises:
        WireError: an empty or too long label or name, an invalid escape, or a character outside ASCII (callers convert
            internationalised names first).
    """
    cdef bytes source
    cdef bytearray made = bytearray()
    cdef bytearray label = bytearray()
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t size
    cdef const uint8_t *data
    cdef int byte
    if text == ".":
        return ROOT
    try:
        source = text.encode("ascii")
    except UnicodeEncodeError:
        raise WireError("name contains characters outside ASCII") from None
    data = raw(source)
    size = PyBytes_GET_SIZE(source)
    if size == 0:
        raise WireError("name is empty")
    while at < size:
        byte = data[at]
        at += 1
        if byte == 46:
            _end_label(made, label)
            continue
        if byte == 92:
            if at >= size:
                raise WireError("name ends in an escape character")
            byte = data[at]
            if 48 <= byte <= 57:
                if at + 3 > size or not (48 <= data[at + 1] <= 57 and 48 <= data[at + 2] <= 57):
                    raise WireError("escape in a name needs three digits")
                byte = (byte - 48) * 100 + (data[at + 1] - 48) * 10 + (data[at + 2] - 48)
                if byte > 255:
                    raise WireError("escape in a name is above 255")
                at += 3
            else:
                at += 1
        label.append(byte)
    if label:
        _end_label(made, label)
    made.append(0)
    if len(made) > NAME_MAX:
        raise WireError(reason_of(E_NAME_LONG))
    return bytes(made)


cdef int _end_label(bytearray made, bytearray label) except -1:
    """Append `label` to `made`, and clear it."""
    if not 1 <= len(label) <= 63:
        raise WireError("label is empty or longer than 63 bytes")
    made.append(len(label))
    made += label
    label.clear()
    return 0


def reverse_address(str address not None) -> bytes:
    """The name of an address below in-addr.arpa or ip6.arpa (RFC 1035 section 3.5, RFC 3596 section 2.5).

    Raises:
        ValueError: it is not an address.
    """
    # Imported here, because it takes a millisecond of start-up and few processes need it.
    import ipaddress
    return from_text(ipaddress.ip_address(address).reverse_pointer)


def keyed_hash(object k0, object k1, bytes data not None) -> int:
    """SipHash-1-3 of `data` with the key (k0, k1), as an unsigned 64-bit number. For tests and offline tools."""
    return siphash13(k0, k1, raw(data), PyBytes_GET_SIZE(data))
