# C types of names in cached_replies.py, for its compilation by Cython: attributes are accessed without a dictionary or a
# descriptor. Without compilation this file is not used.

from resolver.effects cimport Context, Failure, RawReply
from resolver.wire.rrset cimport RRset
