# Types of what the walk goes by when iterate.py is compiled as it stands, so that their attributes are read without a
# dictionary or a descriptor. Without compilation nothing reads this file.

from resolver.effects cimport Context, Failure, Need, Question, RawReply, Task
from resolver.iterate.query_servers cimport IterationState
from resolver.iterate.delegation cimport DelegationPoint
from resolver.iterate.scrub cimport Scrubbed
from resolver.wire.rrset cimport RRset
