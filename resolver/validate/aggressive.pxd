# Types of what is answered from proofs when aggressive.py is compiled as it stands, so that their attributes are read
# without a dictionary or a descriptor. Without compilation nothing reads this file.

from resolver.effects cimport Context, RawReply
from resolver.validate.security_status cimport SecurityStatus
from resolver.wire.rrset cimport RRset
