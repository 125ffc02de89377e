# C types of names in validate.py, for its compilation by Cython: attributes are accessed without a dictionary or a
# descriptor. Without compilation this file is not used.

from resolver.effects cimport Context, Question, RawReply, Task
from resolver.validate.security_status cimport SecurityStatus
from resolver.validate.fields cimport Rrsig
from resolver.wire.rrset cimport RRset
