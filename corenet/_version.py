"""The version of the package; it is defined only here. Both packages and the build read it from here."""

__version__ = "0.1.0"
