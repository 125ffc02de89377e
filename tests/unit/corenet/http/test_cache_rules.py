"""The rules of the cache as tables: what is stored, for how long it is fresh, what may be used when, and for whom."""

import pytest

from corenet import limits
from corenet.http import Headers
from corenet.http.cache_rules import (
    Stored,
    Use,
    age_of,
    bypasses_cache,
    cache_control,
    choose,
    conditions,
    fields_to_store,
    freshened,
    invalidates,
    lifetime_of,
    may_serve_on_error,
    may_store,
    variant_of,
    vary_names,
)

# Tue, 14 Nov 2023 22:13:20 GMT
NOW = 1_700_000_000.0
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"


def fields(*pairs: str) -> Headers:
    return Headers.of([tuple(pair.split(": ", 1)) for pair in pairs])  # type: ignore[misc]


def stored(*pairs: str, age: float = 0.0, status: int = 200, body: bytes = b"body") -> Stored:
    """A response that arrived `age` seconds before NOW."""
    return Stored(status, "OK", "HTTP/1.1", fields(*pairs), body, NOW - age, NOW - age, "", b"")


@pytest.mark.parametrize(
    ("values", "directives"),
    [
        ([], {}),
        (["max-age=5, No-Cache"], {"max-age": "5", "no-cache": None}),
        (['max-age="5" , private="a, b"'], {"max-age": "5", "private": "a, b"}),
        (["max-age=5", "public"], {"max-age": "5", "public": None}),
        (["max-age=5, max-age=5"], {"max-age": "5"}),
        (["max-age=5, max-age=6"], {"max-age": ""}),
        ([",, ,max-age = 5,"], {"max-age": "5"}),
        (["=, max-age=5"], {"max-age": "5"}),
        (["max-age=5 no-store, public"], {"public": None}),
        (['x="unfinished, max-age=5'], {"max-age": "5"}),
        (["@"], {}),
    ],
)
def test_cache_control_is_parsed(values: list[str], directives: dict[str, str | None]) -> None:
    assert cache_control(values) == directives


@pytest.mark.parametrize(
    ("method", "pairs", "passes"),
    [("GET", [], False), ("HEAD", [], True), ("POST", [], True), ("GET", ["Range: bytes=0-1"], True),
     ("GET", ["If-None-Match: x"], True), ("GET", ["if-modified-since: x"], True), ("GET", ["If-Range: x"], True),
     ("GET", ["If-Match: x"], True), ("GET", ["If-Unmodified-Since: x"], True), ("GET", ["Accept: x"], False)],
)  # fmt: skip
def test_requests_that_bypass_the_cache(method: str, pairs: list[str], passes: bool) -> None:
    assert bypasses_cache(method, fields(*pairs).raw) is passes


@pytest.mark.parametrize(
    ("method", "status", "result"),
    [("POST", 200, True), ("PUT", 204, True), ("DELETE", 301, True), ("PATCH", 200, True), ("X", 200, True),
     ("POST", 400, False), ("POST", 500, False), ("GET", 200, False), ("HEAD", 200, False), ("OPTIONS", 200, False)],
)  # fmt: skip
def test_which_requests_invalidate_stored_responses(method: str, status: int, result: bool) -> None:
    assert invalidates(method, status) is result


@pytest.mark.parametrize(
    ("asked", "status", "pairs", "result"),
    [
        ("", 200, ["Cache-Control: max-age=5"], True),
        ("", 200, ["Cache-Control: max-age=5, no-store"], False),
        ("no-store", 200, ["Cache-Control: max-age=5"], False),
        ("", 200, ["Cache-Control: max-age=5, must-understand, no-store"], True),
        ("", 299, ["Cache-Control: max-age=5, must-understand, no-store"], False),
        ("", 299, ["Cache-Control: max-age=5, must-understand"], False),
        ("", 299, ["Cache-Control: max-age=5"], True),
        ("no-store", 200, ["Cache-Control: max-age=5, must-understand"], False),
        ("", 200, ["Cache-Control: private, max-age=5"], True),
        ("", 200, ["Cache-Control: no-cache", "ETag: x"], True),
        ("", 200, ["Cache-Control: s-maxage=5"], False),
        ("", 200, [], False),
        ("", 200, ["ETag: x"], True),
        ("", 200, [f"Last-Modified: {DATE}"], True),
        ("", 200, ["Expires: 0"], False),
        ("", 206, ["Cache-Control: max-age=5"], False),
        ("", 304, ["Cache-Control: max-age=5"], False),
        ("", 302, ["Cache-Control: max-age=5"], True),
        ("", 302, ["ETag: x"], False),
        ("", 302, ["ETag: x", "Cache-Control: public"], True),
        ("", 404, ["ETag: x"], True),
        ("", 500, ["ETag: x"], False),
        ("", 200, ["Cache-Control: max-age=5", "Vary: *"], False),
        ("", 200, ["Cache-Control: max-age=5", "Vary: Accept"], True),
        ("", 200, ["Cache-Control: max-age=5", "Vary: " + ",".join(f"a{n}" for n in range(17))], False),
    ],
)
def test_which_responses_may_be_stored(asked: str, status: int, pairs: list[str], result: bool) -> None:
    assert may_store(cache_control([asked]), status, fields(*pairs)) is result


HOUR_LATER = "Tue, 14 Nov 2023 23:13:20 GMT"
DAY_BEFORE = "Mon, 13 Nov 2023 22:13:20 GMT"


@pytest.mark.parametrize(
    ("status", "pairs", "seconds"),
    [
        (200, ["Cache-Control: max-age=5"], 5),
        (200, ["Cache-Control: max-age=5, s-maxage=9", f"Expires: {HOUR_LATER}"], 5),
        (200, ["Cache-Control: max-age=x", f"Expires: {HOUR_LATER}"], 0),
        (200, ["Cache-Control: max-age=-1"], 0),
        (200, ["Cache-Control: max-age=1, max-age=2"], 0),
        (200, ["Cache-Control: max-age=" + "9" * 5000], 10**10),
        (200, [f"Date: {DATE}", f"Expires: {HOUR_LATER}"], 3600),
        (200, [f"Expires: {HOUR_LATER}"], 3600),
        (200, [f"Date: {HOUR_LATER}", f"Expires: {DATE}"], 0),
        (200, ["Expires: 0"], 0),
        (200, [f"Expires: {HOUR_LATER}", f"Expires: {DATE}"], 0),
        (200, [f"Date: {DATE}", f"Last-Modified: {DAY_BEFORE}"], 8640),
        (302, [f"Date: {DATE}", f"Last-Modified: {DAY_BEFORE}"], 0),
        (302, [f"Date: {DATE}", f"Last-Modified: {DAY_BEFORE}", "Cache-Control: public"], 8640),
        (200, [f"Date: {DATE}", f"Last-Modified: {HOUR_LATER}"], 0),
        (200, [f"Date: {DATE}", "Last-Modified: Fri, 14 Nov 2003 22:13:20 GMT"], limits.HTTP_CACHE_HEURISTIC_SECONDS),
        (200, [], 0),
    ],
)
def test_how_long_a_response_is_fresh(status: int, pairs: list[str], seconds: float) -> None:
    assert lifetime_of(status, fields(*pairs), NOW) == seconds


@pytest.mark.parametrize(
    ("pairs", "since", "age"),
    [
        ([], 10, 10),
        (["Age: 5"], 10, 15),
        (["Age: x"], 10, 10),
        (["Age: -5"], 10, 10),
        (["Age: " + "9" * 400], 10, 10**10 + 10),
        (["Age: 5, 6"], 10, 15),
        (["Age: 5", "Age: 6"], 10, 15),
        (["Age: 0x5"], 10, 10),
        ([f"Date: {DATE}"], 0, 0),
        ([f"Date: {DAY_BEFORE}"], 10, 86400),
        ([f"Date: {HOUR_LATER}"], 10, 10),
        ([], -50, 0),
    ],
)
def test_the_age_of_a_response(pairs: list[str], since: float, age: float) -> None:
    assert age_of(stored(*pairs, age=since), NOW) == age


def test_the_duration_of_the_request_adds_to_the_age() -> None:
    response = stored("Age: 5")
    response.request_time -= 3
    assert age_of(response, NOW) == 8


@pytest.mark.parametrize(
    ("asked", "said", "age", "use"),
    [
        ("", "max-age=10", 9, Use.FRESH),
        ("", "max-age=10", 10, Use.VALIDATE),
        ("", "max-age=10, no-cache", 0, Use.VALIDATE),
        ("", 'max-age=10, no-cache="x"', 0, Use.VALIDATE),
        ("no-cache", "max-age=10", 0, Use.VALIDATE),
        ("max-age=5", "max-age=10", 5, Use.FRESH),
        ("max-age=5", "max-age=10", 6, Use.VALIDATE),
        ("max-age=0", "max-age=10", 1, Use.VALIDATE),
        ("min-fresh=5", "max-age=10", 5, Use.FRESH),
        ("min-fresh=5", "max-age=10", 6, Use.VALIDATE),
        ("max-stale", "max-age=10", 1000, Use.FRESH),
        ("max-stale=5", "max-age=10", 15, Use.FRESH),
        ("max-stale=5", "max-age=10", 16, Use.VALIDATE),
        ("max-stale=x", "max-age=10", 16, Use.VALIDATE),
        ("max-stale", "max-age=10, must-revalidate", 16, Use.VALIDATE),
        ("", "max-age=10, stale-while-revalidate=5", 9, Use.FRESH),
        ("", "max-age=10, stale-while-revalidate=5", 14, Use.WHILE_REVALIDATING),
        ("", "max-age=10, stale-while-revalidate=5", 15, Use.VALIDATE),
        ("", "max-age=10, stale-while-revalidate=5, must-revalidate", 12, Use.VALIDATE),
        ("max-age=11", "max-age=10, stale-while-revalidate=5", 12, Use.VALIDATE),
        ("min-fresh=1", "max-age=10, stale-while-revalidate=5", 12, Use.VALIDATE),
        ("", "max-age=10, proxy-revalidate, s-maxage=0", 5, Use.FRESH),
    ],
)
def test_how_a_stored_response_may_be_used(asked: str, said: str, age: float, use: Use) -> None:
    assert choose(stored(f"Cache-Control: {said}", age=age), cache_control([asked]), NOW) is use


@pytest.mark.parametrize(
    ("asked", "said", "age", "status", "result"),
    [
        ("", "max-age=10, stale-if-error=5", 14, 500, True),
        ("", "max-age=10, stale-if-error=5", 14, None, True),
        ("", "max-age=10, stale-if-error=5", 15, 500, False),
        ("", "max-age=10, stale-if-error=5", 14, 501, False),
        ("", "max-age=10, stale-if-error=5", 14, 404, False),
        ("", "max-age=10, stale-if-error=5", 14, 504, True),
        ("", "max-age=10", 14, 500, False),
        ("stale-if-error=5", "max-age=10", 14, 503, True),
        ("", "max-age=10, stale-if-error=5, must-revalidate", 14, 500, False),
        ("", "max-age=10, stale-if-error=5, no-cache", 14, 500, False),
        ("no-cache", "max-age=10, stale-if-error=5", 14, 500, False),
    ],
)
def test_when_stale_responses_replace_errors(
    asked: str, said: str, age: float, status: int | None, result: bool
) -> None:
    assert may_serve_on_error(stored(f"Cache-Control: {said}", age=age), cache_control([asked]), NOW, status) is result


def test_variants_differ_by_the_fields_listed_in_vary() -> None:
    names = vary_names(fields("Vary: Accept-Language, accept", "Vary: ACCEPT"))
    assert names == "accept accept-language" and vary_names(fields("Vary: a, *")) is None and vary_names(fields()) == ""
    english = variant_of(names, fields("Accept-Language: en", "X: 1").raw)
    assert english == variant_of(names, fields("X: 2", "accept-language:  en ").raw)
    assert english != variant_of(names, fields("Accept-Language: de").raw)
    assert english != variant_of(names, fields("Accept-Language: en", "Accept: x").raw)
    assert variant_of(names, fields("Accept: ").raw) != variant_of(names, fields().raw)
    assert variant_of(names, fields("Accept: a", "Accept: b").raw) == variant_of(names, fields("Accept: a,b").raw)


def test_private_responses_are_stored_per_user() -> None:
    one, two = fields("Authorization: one").raw, fields("Authorization: two").raw
    assert len({variant_of("", one), variant_of("", two), variant_of("", [])}) == 3
    assert variant_of("", one, public=True) == variant_of("", two, public=True) == variant_of("", [], public=True)


def test_conditional_fields_are_added() -> None:
    response = stored('ETag: W/"1"', f"Last-Modified: {DATE}")
    assert conditions(response) == [(b"If-None-Match", b'W/"1"'), (b"If-Modified-Since", DATE.encode())]
    assert conditions(stored("Cache-Control: max-age=1")) == []


def test_a_304_updates_the_fields_but_not_those_of_the_body() -> None:
    old = stored('ETag: "1"', "Cache-Control: max-age=1", "Content-Encoding: gzip", "Content-Length: 9", "Age: 7",
                 "X: old")  # fmt: skip
    new = fields('ETag: "1"', "Cache-Control: max-age=60", "Content-Encoding: br", "Content-Length: 0", "X: new",
                 "Connection: hop, close", "Hop: 1", "Y: 1")  # fmt: skip
    updated = freshened(old, new, NOW + 1, NOW + 2)
    assert updated is not None and updated.body == b"body" and updated.status == 200
    assert (updated.request_time, updated.response_time) == (NOW + 1, NOW + 2)
    assert dict(updated.headers) == {
        "ETag": '"1"', "Cache-Control": "max-age=60", "Content-Encoding": "gzip", "Content-Length": "9", "X": "new",
        "Y": "1",
    }  # fmt: skip


@pytest.mark.parametrize(("tag", "result"), [('"1"', True), ('W/"1"', True), ('"2"', False), (None, True)])
def test_a_304_with_another_tag_is_refused(tag: str | None, result: bool) -> None:
    new = fields() if tag is None else fields(f"ETag: {tag}")
    assert (freshened(stored('ETag: "1"'), new, NOW, NOW) is not None) is result


@pytest.mark.parametrize(
    ("said", "result"),
    [
        ([f"Last-Modified: {DATE}"], True),
        (["Last-Modified: Tue, 14 Nov 2023 22:13:21 GMT"], False),
        (['ETag: "1"', "Last-Modified: Tue, 14 Nov 2023 22:13:21 GMT"], True),
        ([], True),
    ],
)
def test_a_304_with_another_date_is_refused(said: list[str], result: bool) -> None:
    """RFC 9111 section 4.3.4: without a tag the date identifies the representation."""
    old = stored('ETag: "1"', f"Last-Modified: {DATE}")
    assert (freshened(old, fields(*said), NOW, NOW) is not None) is result


@pytest.mark.parametrize(("tag", "result"), [('"2"', False), ('W/"2"', True)])
def test_a_304_with_a_strong_tag_updates_no_response_without_one(tag: str, result: bool) -> None:
    """RFC 9111 section 4.3.4: a strong validator selects the responses that have it, and here none has."""
    old = stored(f"Last-Modified: {DATE}")
    assert (freshened(old, fields(f"ETag: {tag}", f"Last-Modified: {DATE}"), NOW, NOW) is not None) is result


def test_fields_that_are_not_stored() -> None:
    """RFC 9111 section 3.1; fields that the cache rules read are kept, so Connection cannot remove no-store."""
    said = fields(
        "Connection: close, A", "Connection: cache-control", "Keep-Alive: timeout=5", "A: 1", "B: 2", "Trailer: T",
        "Transfer-Encoding: chunked", "Proxy-Authenticate: Basic", "Cache-Control: no-store",
    )  # fmt: skip
    assert dict(fields_to_store(said)) == {"B": "2", "Trailer": "T", "Cache-Control": "no-store"}
