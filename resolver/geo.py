"""The country of a client by a file in the format of MaxMind DB, for balanced names. It needs the package maxminddb.

The file is opened when the configuration is loaded, so a new one is used after a reload. Nothing in it can end a query
or the program: an entry of another form than expected counts as an unknown country.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ["open_countries"]

MISSING = "it needs maxminddb (pip install 'corenet-resolver[geo]')"
_KEYS = ("country", "registered_country")


def open_countries(path: str) -> Callable[[str], str]:
    """Open the file; the result gives the country of an address as two capital letters, empty when it is not known.

    Raises:
        ValueError: the package is not installed or the file cannot be used; the text names the setting.
    """
    where = "policy.geo_database"
    try:
        maxminddb: Any = import_module("maxminddb")
    except ImportError:
        raise ValueError(f"{where}: {MISSING}") from None
    try:
        reader = maxminddb.open_database(path)
    except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
        raise ValueError(f"{where}: {path!r} cannot be used: {getattr(error, 'strerror', None) or error}") from None

    def country(address: str) -> str:
        try:
            found = reader.get(address.partition("%")[0])
        except (ValueError, maxminddb.InvalidDatabaseError):
            return ""  # an IPv6 address in a file for IPv4, or a damaged part of the file
        return _country_in(found)

    return country


def _country_in(found: object) -> str:
    """The country in an entry of the file."""
    if not isinstance(found, dict):
        return ""
    for key in _KEYS:
        inner = found.get(key)
        code = inner.get("iso_code") if isinstance(inner, dict) else None
        if isinstance(code, str):
            return code
    return ""
