"""Where bytes meet sockets: listeners towards clients, upstreams towards name servers, and the fast path between.

Everything here knows a loop and the kernel, and nothing here knows how a name is resolved; that is `mesh` and the rooms
below it, which get time and randomness from `ambient` and their packets from `upstream`. Import the modules by name:
the fast path is not needed to ask a question, nor the upstream to answer from a cache.
"""
