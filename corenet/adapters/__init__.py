"""Adapters that make other programs use corenet: gunicorn workers, a loop builder for granian, a pytest plugin, and for
clients a transport of httpx, and a resolver and a connector of aiohttp.

Most programs accept a loop factory and need no adapter (docs/coming-from-uvloop.md lists them). Each module imports the
program that it adapts only when it is used, so corenet depends on none of them.
"""
