# C interface of dnstap: one message as a data frame of Frame Streams.

from libc.stdint cimport uint8_t, uint32_t

from resolver.observe.event cimport Event

cdef enum:
    # Octets of a frame besides its head, its two packets and its zone: all numbers and one address, with their tags.
    FRAME_OVERHEAD = 96

cdef uint32_t write_frame(const Event *event, const uint8_t *head, uint32_t head_size, uint8_t *out) noexcept nogil
