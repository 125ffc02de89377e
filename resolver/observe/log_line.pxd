# C interface of log_line: one answered query as a line.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from resolver.observe.event cimport Event

cdef enum:
    LINE_FIELDS = 13
    LINE_SPACE = 2048           # more than the longest line and 24 octets: names take at most 1,275 characters

# How lines are written. `opening` and `closing` stand around the value of each field.
cdef struct LineForm:
    bint json
    uint32_t fields             # bits of the fields that are written
    uint8_t opening[13][24]
    uint8_t opening_size[13]
    uint8_t closing[13][4]
    uint8_t closing_size[13]
    uint8_t views[256][64]
    uint8_t view_size[256]
    int64_t second              # the second that `stamp` shows
    uint8_t stamp[20]

cdef int form_line(LineForm *form, str kind, object fields, object views) except -1
cdef uint32_t write_line(LineForm *form, const Event *event, uint8_t *out) noexcept nogil
cdef size_t end_of_question(const uint8_t *message, size_t size) noexcept nogil
