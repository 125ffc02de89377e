"""Dates in header fields: HTTP dates (RFC 9110) and the dates of cookies (RFC 6265bis), as Unix times in seconds.

Both are always in GMT. The asctime form of an HTTP date does not say so, and `email.utils` would read it as local time.
No input raises.
"""

import re
from datetime import UTC, datetime

__all__ = ["parse_cookie_date", "parse_http_date"]

# RFC 9110 section 5.6.7: IMF-fixdate, RFC 850, asctime.
_DATES = re.compile(
    r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT"
    r"|[A-Z][a-z]{5,8}, [0-9]{2}-[A-Z][a-z]{2}-[0-9]{2} [0-9:]{8} GMT"
    r"|[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} [0-9]{4}",
    # RFC 9111 section 4.2 asks caches for it, and to refuse other time zones than GMT.
    re.IGNORECASE,
)
# RFC 6265bis section 5.1.1.
_DELIMITERS = re.compile(r"[\x09\x20-\x2f\x3b-\x40\x5b-\x60\x7b-\x7e]+")
_TIME = re.compile(r"([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(?:[^0-9].*)?", re.DOTALL)
_DAY = re.compile(r"([0-9]{1,2})(?:[^0-9].*)?", re.DOTALL)
_YEAR = re.compile(r"([0-9]{2,4})(?:[^0-9].*)?", re.DOTALL)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_FIRST_YEAR = 1601


def parse_http_date(text: str) -> float | None:
    """Parse one of the three forms of an HTTP date; a Unix time, None when it is none of them."""
    return parse_cookie_date(text) if _DATES.fullmatch(text) else None


def parse_cookie_date(text: str) -> float | None:
    """Parse a date by the lenient algorithm of RFC 6265bis section 5.1.1; a Unix time, None when it fails."""
    time = day = month = year = None
    for token in _DELIMITERS.split(text):
        if time is None and (found := _TIME.fullmatch(token)):
            time = int(found[1]), int(found[2]), int(found[3])
        elif day is None and (found := _DAY.fullmatch(token)):
            day = int(found[1])
        elif month is None and token[:3].lower() in _MONTHS:
            month = _MONTHS.index(token[:3].lower()) + 1
        elif year is None and (found := _YEAR.fullmatch(token)):
            year = int(found[1])
    if time is None or day is None or month is None or year is None:
        return None
    if 70 <= year <= 99:
        year += 1900
    elif year <= 69:
        year += 2000
    if year < _FIRST_YEAR:
        return None
    try:
        return datetime(year, month, day, *time, tzinfo=UTC).timestamp()
    except ValueError:
        # An hour of 25, or the 30th of February.
        return None
