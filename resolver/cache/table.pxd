# C interface of the table object, which compiled modules keep and pass to `lookup` and `writers`.

from resolver.cache.arena cimport Arena
from resolver.cache.lookup cimport TableHeader, TableView


cdef class Table:
    cdef TableView view
    cdef readonly Arena arena
