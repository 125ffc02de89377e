# Types of what the walk goes by when iterate.py is compiled as it stands, so that their attributes are read without a
# dictionary or a descriptor. Without compilation nothing reads this file.

from resolver.effects cimport Context, Failure, Need, Question, RawReply, Task
from resolver.iterate.consult cimport Search
from resolver.iterate.cut cimport Cut
from resolver.iterate.scrub cimport Scrubbed
from resolver.wire.rrset cimport RRset
