"""C interface of views and of the blocks of memory that they refer to.

A receiver gets a block from `receive_block`, receives at ``data + used`` and advances `used` before other code runs.
`make_view` makes views of the received bytes. `fixed_bytes` gives senders pointer and size of an immutable payload.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t


cdef class Block:
    cdef uint8_t *data
    cdef Py_ssize_t size
    cdef Py_ssize_t used


cdef class FrameView:
    cdef object owner           # Block or bytes: never part of a cycle
    cdef const uint8_t *data
    cdef Py_ssize_t size


cdef Block receive_block()
cdef FrameView make_view(object owner, const uint8_t *data, Py_ssize_t size)

cdef inline Py_ssize_t fixed_bytes(object payload, const uint8_t **data) noexcept:
    """Set `data` to the bytes of an immutable payload and return their number; -1 for a payload of another type."""
    if type(payload) is bytes:
        data[0] = <const uint8_t *>PyBytes_AS_STRING(payload)
        return PyBytes_GET_SIZE(payload)
    if type(payload) is FrameView:
        data[0] = (<FrameView>payload).data
        return (<FrameView>payload).size
    return -1
