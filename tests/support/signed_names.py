"""What the tests of the signed playground share: the questions that its tables make promises about."""

from resolver.playground import signed, world_tables

__all__ = ["SIGNED"]

SIGNED = signed.SPECIALS[len(world_tables.SPECIALS) :]
"""The questions about signed zones, without those of the unsigned playground."""
