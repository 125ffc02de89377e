# C types of names in aggressive.py, for its compilation by Cython: attributes are accessed without a dictionary or a
# descriptor. Without compilation this file is not used.

from resolver.effects cimport Context, RawReply
from resolver.validate.security_status cimport SecurityStatus
from resolver.wire.rrset cimport RRset
