"""The command-line tools: `rdig` asks and explains. This package is the top of the staircase; nothing imports it.

The rule kept here: a tool prints to standard output what was asked for and to standard error why it cannot, and its
exit code says which of the two a script got.
"""
