"""What the tests of the signed playground share: the questions that its tables make promises about."""

from resolver.playground import atlas, signed

__all__ = ["SIGNED"]

SIGNED = signed.SPECIALS[len(atlas.SPECIALS) :]
"""The questions about signed zones, without those of the unsigned playground."""
