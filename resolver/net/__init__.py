"""Network I/O: listeners for clients, upstreams for queries to name servers, and the fast path for cached answers.

These modules use the event loop and the kernel, and do not know how a name is resolved. That is done by `mesh` and the
sans-IO packages, which get time and random numbers from `clock_random` and send queries through `upstream`. Import the
modules by name: queries do not need the fast path, and answers from the cache do not need the upstream.
"""
