"""resolverd: the resolver as a service. Settings come from a TOML file, signals stop and reload it, logs go to stderr.

The room is thin on purpose: everything that answers questions lies below `api` and `net`; here are only processes,
sockets, files and words for the operator.
"""
