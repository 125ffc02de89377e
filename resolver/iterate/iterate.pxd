# C types of names in iterate.py, for its compilation by Cython: attributes are accessed without a dictionary or a
# descriptor. Without compilation this file is not used.

from resolver.effects cimport Context, Failure, Need, Question, RawReply, Task
from resolver.iterate.query_servers cimport IterationState
from resolver.iterate.delegation cimport DelegationCache, DelegationPoint, delegations_of
from resolver.iterate.scrub cimport Scrubbed
from resolver.wire.rrset cimport RRset
