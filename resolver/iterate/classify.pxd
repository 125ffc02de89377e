# C types of names in classify.py, for its compilation by Cython: attributes are accessed without a dictionary or a
# descriptor. Without compilation this file is not used.

from resolver.iterate.scrub cimport Scrubbed
from resolver.wire.message cimport MessageView
