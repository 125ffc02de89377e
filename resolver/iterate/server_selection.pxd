# C types of names in server_selection.py, for its compilation by Cython: attributes are accessed without a dictionary
# or a descriptor. Without compilation this file is not used.

from resolver.cache.infra cimport InfraCache, InfraEntry, ZoneEntry
from resolver.effects cimport Context, Server
from resolver.iterate.delegation cimport DelegationCache, DelegationPoint, delegations_of
