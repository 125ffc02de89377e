# C layout of the classes of query_servers.py, for its compilation by Cython: they become extension types, whose
# attributes are accessed without a dictionary or a descriptor. Without compilation this file is not used.
# tests/unit/resolver/test_effects.py compares the names here with ``__slots__`` there.

from resolver.cache.infra cimport InfraCache, InfraEntry, ZoneEntry
from resolver.effects cimport Ask, Context, Failure, Need, Outcome, Question, Reply, Server, Task
from resolver.iterate.delegation cimport DelegationCache, DelegationPoint, delegations_of
from resolver.iterate.fetch_quota cimport FetchQuota
from resolver.iterate.scrub cimport Scrubbed
from resolver.wire.message cimport MessageView
from resolver.wire.rrset cimport RRset


cdef class IterationState:
    cdef public object avoid
    cdef public object missing
    cdef public object qname
    cdef public object scope
