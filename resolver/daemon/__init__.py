"""resolverd: the resolver as a daemon. Settings come from a TOML file, signals stop and reload it, logs go to stderr.

This package contains processes, sockets, files and messages for the operator. Resolution is in `api` and `net` and
below.
"""
