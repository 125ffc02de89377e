"""The command-line tools `rdig` and `resolverctl`. This is the top layer; no other package imports it.

A tool prints results to standard output and errors to standard error. Its exit code says which of the two it was.
"""
