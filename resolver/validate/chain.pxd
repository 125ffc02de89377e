# Which names of chain.py are C types when it is compiled as it stands. Without compilation nothing reads this file.

from resolver.effects cimport Context, Failure, Need, Outcome, Question, Task, Verify
from resolver.validate.fields cimport Dnskey, Ds, Rrsig
from resolver.validate.security_status cimport SecurityStatus
from resolver.wire.rrset cimport RRset
