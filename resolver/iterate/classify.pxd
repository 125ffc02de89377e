# Types of what is classified when classify.py is compiled as it stands, so that their attributes are read without a
# dictionary or a descriptor. Without compilation nothing reads this file.

from resolver.iterate.scrub cimport Scrubbed
from resolver.wire.message cimport MessageView
