# C layout of the classes of infra.py, for its compilation by Cython: they become extension types, whose attributes are
# accessed without a dictionary or a descriptor. Without compilation this file is not used.
# tests/unit/resolver/test_effects.py checks that the names agree with ``__slots__``.

cdef class ZoneEntry:
    cdef public double lame_until
    cdef public double probe_after
    cdef public double timed_out_at
    cdef public double timeout
    cdef public int timeouts
    cdef public double until


cdef class InfraEntry:
    cdef public object cookie
    cdef public double no_cookie_until
    cdef public bint edns_seen
    cdef public int fetch_timeouts
    cdef public int fetches
    cdef public double quota_share
    cdef public double timed_out_at
    cdef public double timeout_ratio
    cdef public double updated_at
    cdef public double rttvar
    cdef public object srtt
    cdef public double tcp_until
    cdef public double timeout
    cdef public int timeouts
    cdef public double no_subnet_until
    cdef public object zones
    cpdef ZoneEntry zone_at(self, bytes zone, double now)
    cpdef double expected(self, ZoneEntry entry)
    cpdef double timeout_of(self, ZoneEntry entry)


cdef class InfraCache:
    cdef public object _capacity
    cdef public dict _known
    cdef public object _zones
    cdef public object _evicted
    cdef public object limit
    cdef public object name
    cpdef InfraEntry find(self, address)
    cpdef ZoneEntry zone_at(self, address, bytes zone, double now)
    cpdef double timeout(self, address, bytes zone, double now)
    cpdef double quota_share(self, address)
    cpdef note_reply(self, address, bytes zone, double rtt, double now, bint edns=*)
    cpdef int note_fetch(self, address, bint timed_out)
    cpdef InfraEntry _note(self, address, double now)
