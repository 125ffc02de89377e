# Layout of the facts about a server when servers.py is compiled as it stands: the class becomes an extension type, whose
# attributes are read and written without a dictionary or a descriptor. Without compilation nothing reads this file.
# tests/unit/resolver/test_effects.py holds the names here against ``__slots__`` there.

cdef class InfraEntry:
    cdef public double probe_after
    cdef public object cookie
    cdef public double no_cookie_until
    cdef public double edns_broken_until
    cdef public bint edns_seen
    cdef public object lame
    cdef public double updated_at
    cdef public double rttvar
    cdef public object srtt
    cdef public double tcp_until
    cdef public double timeout
    cdef public int timeouts
