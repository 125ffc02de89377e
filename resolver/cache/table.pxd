# C door of the table object: what compiled rooms hold on to, and pass to `lookup` and `writers`.

from resolver.cache.arena cimport Arena
from resolver.cache.lookup cimport TableHeader, TableView


cdef class Table:
    cdef TableView view
    cdef readonly Arena arena
