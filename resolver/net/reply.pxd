# C types of names in reply.py, for its compilation by Cython: attributes are accessed without a dictionary or a
# descriptor. Without compilation this file is not used.

from resolver.effects cimport Outcome
from resolver.net.fastpath cimport ClientQuery
from resolver.wire.build cimport Builder
from resolver.wire.rrset cimport RRset
