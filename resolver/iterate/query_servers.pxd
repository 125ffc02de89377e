# Layout of what a walk shares when consult.py is compiled as it stands: the classes become extension types, whose
# attributes are read and written without a dictionary or a descriptor. Without compilation nothing reads this file.
# tests/unit/resolver/test_effects.py holds the names here against ``__slots__`` there.

from resolver.cache.infra cimport InfraEntry
from resolver.effects cimport Ask, Context, Failure, Need, Outcome, Question, Reply, Server, Task
from resolver.iterate.delegation cimport DelegationPoint
from resolver.iterate.scrub cimport Scrubbed
from resolver.wire.message cimport MessageView
from resolver.wire.rrset cimport RRset


cdef class IterationState:
    cdef public object avoid
    cdef public object missing
