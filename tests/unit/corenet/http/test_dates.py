"""Dates in header fields: the three forms of HTTP dates, and the lenient dates of cookies."""

import pytest

from corenet.http.dates import parse_cookie_date, parse_http_date

NOW = 1_700_000_000.0
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"


@pytest.mark.parametrize(
    "text", [DATE, "Tuesday, 14-Nov-23 22:13:20 GMT", "Tue Nov 14 22:13:20 2023", "TUE, 14 nov 2023 22:13:20 gmt"]
)
def test_http_dates_of_the_three_formats_are_parsed(text: str) -> None:
    assert parse_http_date(text) == NOW


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "14 Nov 2023 22:13:20", DATE.replace("GMT", "EST"), DATE + " ", DATE.replace("22", "25", 1)]
)
def test_malformed_http_dates_are_ignored(text: str) -> None:
    assert parse_http_date(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "Tue, 14 Nov 2023 22:13:20 GMT",
        "Tuesday, 14-Nov-23 22:13:20 GMT",
        "Tue Nov 14 22:13:20 2023",
        "14 Nov 2023 22:13:20",
        "22:13:20 2023 november 14th",
        "2023/14/Nov 22:13:20",
        "14 NOV 23 22:13:20 +0100",
        "14;Nov,2023!22:13:20",
        "14 Nov 2023 22:13:20abc",
    ],
)
def test_cookie_dates_are_parsed_in_any_order(text: str) -> None:
    assert parse_cookie_date(text) == NOW


@pytest.mark.parametrize(
    ("text", "year"),
    [("1 Jan 70 0:0:0", 1970), ("1 Jan 99 0:0:0", 1999), ("1 Jan 00 0:0:0", 2000), ("1 Jan 69 0:0:0", 2069)],
)
def test_two_digit_years_are_completed(text: str, year: int) -> None:
    assert parse_cookie_date(text) == parse_cookie_date(f"1 Jan {year} 00:00:00")


@pytest.mark.parametrize(
    "text",
    ["", "14 Nov 2023", "Nov 2023 22:13:20", "14 2023 22:13:20", "14 Nov 22:13:20", "32 Nov 2023 22:13:20",
     "31 Nov 2023 22:13:20", "0 Nov 2023 22:13:20", "14 Nov 1600 22:13:20", "14 Nov 2023 24:13:20",
     "14 Nov 2023 22:60:20", "14 Nov 2023 22:13:60", "14 Nov 20233 22:13:20", "14 Nov 2023 22:13", "14 Nov 1 1:1:1",
     "\u0661\u0664 Nov 2023 22:13:20"],
)  # fmt: skip
def test_invalid_cookie_dates_are_ignored(text: str) -> None:
    assert parse_cookie_date(text) is None
