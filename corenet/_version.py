"""The one place where the version stands. Both packages and the build read it from here."""

__version__ = "0.1.0"
