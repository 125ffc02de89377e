"""docs/coming-from-http-clients.md: the names in its tables exist, and the defaults that it compares are those.

The claims about httpx and aiohttp are tested too, so that the page is corrected when they change.
"""

import inspect
import re
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

import corenet.http
from corenet.http import HttpClient, Limits, Timeout

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[2] / "docs" / "coming-from-http-clients.md"


def table(first: str) -> list[list[str]]:
    """The cells of the rows below the head that begins with `first`."""
    text = PAGE.read_text(encoding="utf-8")
    rows = text[text.index(f"\n| {first}") + 1 :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.mark.parametrize(("column", "module"), [(0, httpx), (1, aiohttp), (3, corenet.http)])
def test_each_error_of_the_table_exists(column: int, module: Any) -> None:
    rows = table("httpx | aiohttp | requests | corenet |")
    assert len(rows) >= 10
    builtin = {"TimeoutError"}
    for row in rows:
        for name in re.findall(r"`(\w+)`", re.sub(r"\(`\w+`.*?\)", "", row[column])):
            found = TimeoutError if name in builtin else getattr(module, name)
            assert issubclass(found, Exception), name


@pytest.mark.parametrize(
    ("column", "client", "request_of"),
    [
        (1, httpx.AsyncClient.__init__, httpx.AsyncClient.request),
        (2, aiohttp.ClientSession.__init__, aiohttp.ClientSession._request),
    ],
)
def test_each_argument_of_the_table_exists(column: int, client: Any, request_of: Any) -> None:
    known = {*inspect.signature(client).parameters, *inspect.signature(request_of).parameters}
    for row in table("feature | httpx"):
        for name in re.findall(r"`(\w+)=[^`(]*`", row[column]):
            assert name in known, f"{row[0]}: {name}"


def test_each_argument_of_ours_exists() -> None:
    known = {*inspect.signature(HttpClient).parameters, *corenet.http.RequestOptions.__annotations__}
    for row in table("feature | httpx"):
        for name in re.findall(r"`(\w+)=[^`]*`", row[4]):
            assert name in known, f"{row[0]}: {name}"


def test_the_defaults_that_are_compared() -> None:
    ours = inspect.signature(HttpClient).parameters
    theirs = inspect.signature(httpx.AsyncClient).parameters
    assert theirs["follow_redirects"].default is False and ours["follow_redirects"].default == 10
    assert theirs["trust_env"].default is True and ours["trust_env"].default is False
    assert theirs["http2"].default is False and ours["http2"].default is True
    assert not hasattr(httpx.Timeout(5.0), "total") and aiohttp.client.DEFAULT_TIMEOUT.total == 300
    assert (Timeout().total, Timeout().read, Timeout().connect) == (30, 30, 10)
    assert (Limits().connections, Limits().per_origin) == (100, 64)
