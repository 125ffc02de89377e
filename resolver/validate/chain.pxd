# C types of names in chain.py, for its compilation by Cython. Without compilation this file is not used.

from resolver.effects cimport Context, Failure, Need, Outcome, Question, Task, Verify
from resolver.validate.fields cimport Dnskey, Ds, Rrsig
from resolver.validate.security_status cimport SecurityStatus
from resolver.wire.rrset cimport RRset
