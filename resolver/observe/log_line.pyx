"""Encodes a line of the query log: an answered query as ``key=value`` pairs or as a JSON object.

One query is one line, whatever its name holds: names are written as in master files (RFC 1035 section 5.1), where octets
other than visible ASCII are ``\\DDD``; JSON has each backslash and quote of that form escaped once more. All other values
are numbers, words of ours, or names of views, whose characters the configuration restricts.

A line is written into memory of at least LINE_SPACE octets; what follows its end there is overwritten. Fields come in the order of `LOG_FIELDS`.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from resolver.settings.observe import LOG_FIELDS
from resolver.wire import consts

from resolver.observe.event cimport OVER_HTTPS, OVER_QUIC, OVER_TCP, OVER_TLS, Event
from resolver.wire.consts cimport HEADER_SIZE, T_OPT
from resolver.wire.octets cimport get16

NUMBERS = frozenset({"port", "cached", "size", "ms"})
"""Fields that are not strings in JSON."""

cdef enum:
    F_TIME, F_CLIENT, F_PORT, F_TRANSPORT, F_VIEW, F_NAME, F_TYPE, F_CLASS, F_FLAGS, F_RCODE, F_CACHED, F_SIZE, F_MS
    OCTETS = 256
    TYPE_TEXTS = 264            # types below have their mnemonics in a table; few others have any
    TYPE_TEXT = 16
    RCODE_TEXTS = 24
    SECONDS_A_DAY = 86400
    NANOSECONDS = 1000000000
    BACKSLASH = 92
    QUOTE = 34

cdef uint8_t[TYPE_TEXTS][TYPE_TEXT] TYPES
cdef uint8_t[OCTETS] PLAIN         # the octets of names that are written as they are
cdef uint8_t[RCODE_TEXTS][TYPE_TEXT] RCODES


cdef int fill_table(uint8_t *row, str text) except -1:
    """A row of a table: the characters, and in its last octet their number."""
    cdef bytes encoded = text.encode("ascii")
    if len(encoded) >= TYPE_TEXT:
        raise ValueError(f"{text} is too long for the table of mnemonics")
    row[TYPE_TEXT - 1] = <uint8_t>len(encoded)
    memcpy(row, <const char *>encoded, len(encoded))
    return 0


for _number in range(33, 127):
    PLAIN[_number] = _number not in b'"$().;@\\'
for _number in range(TYPE_TEXTS):
    fill_table(TYPES[_number], consts.type_to_text(_number))
for _number in range(RCODE_TEXTS):
    fill_table(RCODES[_number], consts.rcode_to_text(_number))


cdef int form_line(LineForm *form, str kind, object fields, object views) except -1:
    """Fill `form`: `kind` is "text" or "json", `fields` are names of LOG_FIELDS, `views` the names of the views from 0 on."""
    cdef bytes opening, closing, name
    cdef int index
    cdef bint first = True
    memset(form, 0, sizeof(form[0]))
    form.second = -1
    form.json = kind == "json"
    for index, field in enumerate(LOG_FIELDS):
        if field not in fields:
            continue
        form.fields |= <uint32_t>1 << index
        key = field.encode("ascii")
        if form.json:
            string = b"" if field in NUMBERS else b'"'
            opening, closing = b'%s"%s":%s' % (b"{" if first else b",", key, string), string
        else:
            opening, closing = b"%s%s=" % (b"" if first else b" ", key), b""
        memcpy(form.opening[index], <const char *>opening, len(opening))
        form.opening_size[index] = <uint8_t>len(opening)
        memcpy(form.closing[index], <const char *>closing, len(closing))
        form.closing_size[index] = <uint8_t>len(closing)
        first = False
    for index, text in enumerate(views):
        name = text.encode("ascii")
        form.view_size[index] = <uint8_t>len(name)
        memcpy(form.views[index], <const char *>name, len(name))
    return 0


cdef inline uint8_t *put(uint8_t *p, const void *text, size_t size) noexcept nogil:
    memcpy(p, text, size)
    return p + size


cdef inline uint8_t *put_decimal(uint8_t *p, uint32_t value) noexcept nogil:
    cdef uint8_t[10] digits
    cdef int count = 0
    while True:
        digits[count] = <uint8_t>(48 + value % 10)
        count += 1
        value //= 10
        if value == 0:
            break
    while count:
        count -= 1
        p[0] = digits[count]
        p += 1
    return p


cdef inline uint8_t *put_digits(uint8_t *p, uint32_t value, int count) noexcept nogil:
    """`value` in `count` digits."""
    cdef int i
    for i in range(count - 1, -1, -1):
        p[i] = <uint8_t>(48 + value % 10)
        value //= 10
    return p + count


cdef void show_second(LineForm *form, int64_t second) noexcept nogil:
    """Make `stamp` show `second`: date and time in UTC, in the proleptic Gregorian calendar."""
    cdef int64_t days = second // SECONDS_A_DAY
    cdef uint32_t rest = <uint32_t>(second % SECONDS_A_DAY)
    # Years that begin in March, counted from 1 March 0000, so that a leap day is the last day of its year.
    cdef int64_t shifted = days + 719468
    cdef int64_t era = shifted // 146097
    cdef uint32_t day_of_era = <uint32_t>(shifted - era * 146097)
    cdef uint32_t year = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    cdef uint32_t day = day_of_era - (365 * year + year // 4 - year // 100)
    cdef uint32_t month = (5 * day + 2) // 153
    cdef uint8_t *p = form.stamp
    day = day - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    year = <uint32_t>(year + era * 400) + (1 if month <= 2 else 0)
    p = put_digits(p, year, 4)
    p[0] = 45
    p = put_digits(p + 1, month, 2)
    p[0] = 45
    p = put_digits(p + 1, day, 2)
    p[0] = 84
    p = put_digits(p + 1, rest // 3600, 2)
    p[0] = 58
    p = put_digits(p + 1, rest // 60 % 60, 2)
    p[0] = 58
    put_digits(p + 1, rest % 60, 2)
    form.second = second


cdef uint8_t *put_moment(LineForm *form, uint8_t *p, int64_t moment) noexcept nogil:
    if moment // NANOSECONDS != form.second:
        show_second(form, moment // NANOSECONDS)
    memcpy(p, form.stamp, 20)
    p += 19
    p[0] = 46
    p = put_digits(p + 1, <uint32_t>(moment % NANOSECONDS // 1000000), 3)
    p[0] = 90
    return p + 1


cdef uint8_t *put_address(uint8_t *p, const uint8_t *address, size_t size) noexcept nogil:
    """An address as text; IPv6 as RFC 5952 has it."""
    cdef int i, begun = -1, best = -1, length = 0, longest = 1
    cdef uint32_t group
    cdef const char *hexadecimal = "0123456789abcdef"
    cdef int shift
    if size == 4:
        for i in range(4):
            if i:
                p[0] = 46
                p += 1
            p = put_decimal(p, address[i])
        return p
    if size != 16:
        p[0] = 45
        return p + 1
    for i in range(8):
        if get16(address + 2 * i):
            length = 0
            continue
        if length == 0:
            begun = i
        length += 1
        if length > longest:
            longest, best = length, begun
    i = 0
    while i < 8:
        if i == best:
            p = put(p, "::", 2)
            i += longest
            continue
        if i and i != best + longest:
            p[0] = 58
            p += 1
        group = get16(address + 2 * i)
        shift = 12
        while shift and not group >> shift:
            shift -= 4
        while shift >= 0:
            p[0] = hexadecimal[group >> shift & 15]
            p += 1
            shift -= 4
        i += 1
    return p


cdef size_t end_of_question(const uint8_t *message, size_t size) noexcept nogil:
    """Where the first question ends; 0 when `message` does not begin with a question whose name is plain."""
    cdef size_t at = HEADER_SIZE
    if size < HEADER_SIZE or get16(message + 4) == 0:
        return 0
    while at < size and message[at]:
        if message[at] > 63:
            return 0
        at += 1 + message[at]
    at += 5
    return at if at <= size and at - HEADER_SIZE <= 255 + 4 else 0


cdef uint8_t *put_name(uint8_t *p, const uint8_t *name, bint json) noexcept nogil:
    """A name whose labels were checked, as `wire.name.to_text` writes it."""
    cdef int i, length
    cdef uint8_t byte
    if not name[0]:
        p[0] = 46
        return p + 1
    while name[0]:
        length = name[0]
        name += 1
        for i in range(length):
            byte = name[i]
            if PLAIN[byte]:
                p[0] = byte
                p += 1
                continue
            p[0] = BACKSLASH
            p += 1
            if json:
                p[0] = BACKSLASH
                p += 1
            if 33 <= byte <= 126:
                if json and (byte == QUOTE or byte == BACKSLASH):
                    p[0] = BACKSLASH
                    p += 1
                p[0] = byte
                p += 1
            else:
                p = put_digits(p, byte, 3)
        name += length
        p[0] = 46
        p += 1
    return p


cdef inline uint8_t *put_row(uint8_t *p, const uint8_t *row) noexcept nogil:
    memcpy(p, row, TYPE_TEXT)  # of constant size, so that it is no call
    return p + row[TYPE_TEXT - 1]


cdef uint8_t *put_type(uint8_t *p, uint32_t number) noexcept nogil:
    if number < TYPE_TEXTS:
        return put_row(p, TYPES[number])
    return put_decimal(put(p, "TYPE", 4), number)


cdef uint8_t *put_class(uint8_t *p, uint32_t number) noexcept nogil:
    if number == 1:
        return put(p, "IN", 2)
    if number == 3:
        return put(p, "CH", 2)
    return put_decimal(put(p, "CLASS", 5), number)


cdef uint8_t *put_flags(uint8_t *p, const uint8_t *message) noexcept nogil:
    """The flags of a header as dig shows them, separated by commas."""
    cdef uint32_t flags = get16(message + 2)
    cdef uint8_t *first = p
    if flags & 0x0400:
        p = put(p, "aa,", 3)
    if flags & 0x0200:
        p = put(p, "tc,", 3)
    if flags & 0x0100:
        p = put(p, "rd,", 3)
    if flags & 0x0080:
        p = put(p, "ra,", 3)
    if flags & 0x0020:
        p = put(p, "ad,", 3)
    if flags & 0x0010:
        p = put(p, "cd,", 3)
    return p - 1 if p > first else p


cdef uint8_t *put_rcode(uint8_t *p, const Event *event, size_t question_end) noexcept nogil:
    """The response code. Replies with an extended one have no records besides OPT (RFC 6891 section 6.1.3)."""
    cdef const uint8_t *reply = event.reply
    cdef uint32_t code
    if event.reply_size < HEADER_SIZE:
        return put(p, "none", 4)
    code = reply[3] & 15
    if (event.reply_size >= question_end + 11 and question_end and not get16(reply + 6) and not get16(reply + 8)
            and get16(reply + 10) and not reply[question_end] and get16(reply + question_end + 1) == T_OPT):
        code |= <uint32_t>reply[question_end + 5] << 4
    if code < RCODE_TEXTS:
        return put_row(p, RCODES[code])
    return put_decimal(put(p, "RCODE", 5), code)


cdef inline uint8_t *put_transport(uint8_t *p, int protocol) noexcept nogil:
    if protocol == OVER_TCP:
        return put(p, "tcp", 3)
    if protocol == OVER_TLS:
        return put(p, "tls", 3)
    if protocol == OVER_HTTPS:
        return put(p, "https", 5)
    if protocol == OVER_QUIC:
        return put(p, "quic", 4)
    return put(p, "udp", 3)


cdef uint32_t write_line(LineForm *form, const Event *event, uint8_t *out) noexcept nogil:
    """Write the line of `event`; return its size. A query that got no reply has the rcode "none"."""
    cdef uint8_t *p = out
    cdef size_t question_end = end_of_question(event.query, event.query_size)
    cdef const uint8_t *question = event.query + question_end - 4
    cdef int64_t took = max(event.answered - event.asked, <int64_t>0)
    cdef int field
    for field in range(LINE_FIELDS):
        if not form.fields >> field & 1:
            continue
        memcpy(p, form.opening[field], 24)  # of constant size, so that it is no call
        p += form.opening_size[field]
        if field == F_TIME:
            p = put_moment(form, p, event.answered)
        elif field == F_CLIENT:
            p = put_address(p, event.address, event.address_size)
        elif field == F_PORT:
            p = put_decimal(p, event.port)
        elif field == F_TRANSPORT:
            p = put_transport(p, event.protocol)
        elif field == F_VIEW:
            p = put(p, form.views[event.view], form.view_size[event.view])
        elif field == F_NAME:
            p = put_name(p, event.query + HEADER_SIZE, form.json) if question_end else put(p, "-", 1)
        elif field == F_TYPE:
            p = put_type(p, get16(question)) if question_end else put(p, "-", 1)
        elif field == F_CLASS:
            p = put_class(p, get16(question + 2)) if question_end else put(p, "-", 1)
        elif field == F_FLAGS:
            p = put_flags(p, event.reply if event.reply_size >= HEADER_SIZE else event.query)
        elif field == F_RCODE:
            p = put_rcode(p, event, question_end)
        elif field == F_CACHED:
            if form.json:
                p = put(p, "true", 4) if event.cached else put(p, "false", 5)
            else:
                p = put(p, "yes", 3) if event.cached else put(p, "no", 2)
        elif field == F_SIZE:
            p = put_decimal(p, <uint32_t>event.reply_size)
        elif field == F_MS:
            p = put_decimal(p, <uint32_t>(took // 1000000))
            p[0] = 46
            p = put_digits(p + 1, <uint32_t>(took // 1000 % 1000), 3)
        memcpy(p, form.closing[field], 4)
        p += form.closing_size[field]
    if form.json:
        p[0] = 125
        p += 1
    p[0] = 10
    return <uint32_t>(p + 1 - out)
