# Types of what is chosen from when choose.py is compiled as it stands, so that their attributes are read without a
# dictionary or a descriptor. Without compilation nothing reads this file.

from resolver.cache.servers cimport ServerInfo
from resolver.effects cimport Context, Server
from resolver.iterate.cut cimport Cut
