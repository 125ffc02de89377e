"""Adapters that make other programs use corenet's loop: gunicorn workers, a loop builder for granian, a pytest plugin.

Most programs accept a loop factory and need no adapter (docs/coming-from-uvloop.md lists them). Each module imports the
program that it adapts only when it is used, so corenet depends on none of them.
"""
