"""A writer of the cache that stops in the middle: for tests of locks whose holder dies or is stopped.

Built with the checkout, loaded by tests/support/native.py.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from resolver.cache.lookup cimport TableView, first_choice, group_at, group_number, table_hash, write_begin
from resolver.cache.table cimport Table
from resolver.cache.writers cimport hide_everything, lock_arena, lock_group


def hold_locks(table: Table, uint8_t kind, key: bytes, *, arena: bool = True) -> None:
    """Take the locks an insertion of `key` would hold (without `arena` a change in place) and begin to change its bucket."""
    cdef TableView *t = &table.view
    cdef uint64_t h = table_hash(t, kind, <const uint8_t *>PyBytes_AS_STRING(key), <uint32_t>PyBytes_GET_SIZE(key))
    cdef uint64_t group = group_number(t.head.state, h)
    if (arena and lock_arena(t) != 0) or lock_group(t, group) != 0:
        raise BlockingIOError("another process holds a lock")
    write_begin(group_at(t, group) + first_choice(h))


def begin_clear(table: Table) -> None:
    """Clear the table up to the change of its serial, and keep the lock."""
    if lock_arena(&table.view) != 0:
        raise BlockingIOError("another process holds a lock")
    hide_everything(&table.view)
