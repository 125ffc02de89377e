# Types of what is judged when validate.py is compiled as it stands, so that their attributes are read without a
# dictionary or a descriptor. Without compilation nothing reads this file.

from resolver.effects cimport Context, Question, RawReply, Task
from resolver.validate.security_status cimport SecurityStatus
from resolver.validate.fields cimport Rrsig
from resolver.wire.rrset cimport RRset
