# C door of the search for damage, used when a kept file is taken up by a process that is alone with it.

from libc.stdint cimport int64_t

from resolver.cache.lookup cimport TableView

cdef int64_t table_heal(TableView *t) noexcept nogil
