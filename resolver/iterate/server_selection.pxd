# Types of what is chosen from when choose.py is compiled as it stands, so that their attributes are read without a
# dictionary or a descriptor. Without compilation nothing reads this file.

from resolver.cache.infra cimport InfraEntry
from resolver.effects cimport Context, Server
from resolver.iterate.delegation cimport DelegationPoint
