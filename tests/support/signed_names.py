"""Common part of the tests of the signed playground: the queries whose results its tables promise."""

from resolver.playground import signed, world_tables

__all__ = ["SIGNED"]

SIGNED = signed.SPECIALS[len(world_tables.SPECIALS) :]
"""The questions about signed zones, without those of the unsigned playground."""
