# C types of names in stale_answers.py, for its compilation by Cython: attributes are accessed without a dictionary or a
# descriptor. Without compilation this file is not used.

from resolver.effects cimport Context, Failure, Outcome, Question
from resolver.partial_response cimport PartialResponse
from resolver.wire.rrset cimport RRset
