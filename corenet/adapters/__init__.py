"""Small pieces by which other programs take corenet's loop: workers of gunicorn, a builder of granian, a pytest plugin.

Most programs need none of them, since they take a loop factory (docs/coming-from-uvloop.md lists all). Each module here
imports the program that it is for only when it is used, so corenet depends on none of them.
"""
