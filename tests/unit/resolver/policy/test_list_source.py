"""The schedule of fetches, and the head of stored lists."""

import hashlib

import pytest

from resolver import limits
from resolver.policy.list_source import HEAD_SIZE, ListHead, ListSource, read_head, usable_tag

HEAD = ListHead("ab" * 32, 5, 1000, '"v1"', "https://lists.example/a")


def source(**restored):
    made = ListSource("https://lists.example/a", 3600.0)
    if restored:
        made.restore(HEAD._replace(**restored), 100.0, 1600.0, 0.0)
    return made


def test_a_list_without_file_is_due_at_once_and_has_no_tag():
    made = source()
    assert made.due == 0.0 and made.begin() == [] and made.fetching


def test_a_stored_list_is_due_after_the_rest_of_its_interval():
    made = source(fetched=1000)
    assert made.due == 100.0 + 3600.0 - 600.0
    assert made.begin() == [("If-None-Match", '"v1"')]
    assert source(fetched=-10**9).due == 100.0 and source(fetched=10**9).due == 3700.0, "whatever the clock was"


def test_a_stored_list_of_another_url_is_fetched_at_once_without_condition():
    made = source(url="https://other.example/")
    assert made.due == 0.0 and made.begin() == [] and made.head is not None
    assert not made.is_current(200, HEAD.digest)


@pytest.mark.parametrize(("status", "digest", "current"), [
    (304, "", True), (200, HEAD.digest, True), (200, "cd" * 32, False),
])
def test_responses_are_classified(status, digest, current):
    assert source(fetched=1000).is_current(status, digest) is current


@pytest.mark.parametrize("status", [204, 206, 301, 404, 500, 304])
def test_other_statuses_are_failures(status):
    with pytest.raises(ValueError, match=str(status)):
        source().is_current(status)


def test_success_waits_for_the_interval_without_a_random_part():
    made = source(fetched=1000)
    made.begin()
    made.unchanged(200.0, 1700.0, 1.0)
    assert (made.due, made.fetching, made.head.fetched) == (200.0 + 3600.0 * 0.9, False, 1700)
    made.replaced(HEAD._replace(digest="cd" * 32), 300.0, 0.0)
    assert made.due == 3900.0 and made.head.digest == "cd" * 32


def test_failures_back_off_up_to_the_interval_and_keep_the_list():
    made = source(fetched=1000)
    waits = []
    for _ in range(60):
        made.begin()
        made.failed("no route", 0.0, 0.0)
        waits.append(made.due)
    retry = limits.LIST_RETRY
    assert waits[:4] == [retry, 2 * retry, 4 * retry, 8 * retry] and max(waits) == waits[-1] == 3600.0
    assert (made.error, made.failures, made.head, made.fetching) == ("no route", 60, HEAD, False)
    made.failed("no route", 0.0, 1.0)
    assert made.due == 3600.0 * 0.9
    made.unchanged(0.0, 0.0, 0.0)
    assert (made.error, made.failures) == ("", 0)


def test_heads_are_read_as_they_were_written():
    data = HEAD.encode()
    assert len(data) == HEAD_SIZE and data.endswith(b"\n") and read_head(data + b"body") == HEAD
    assert read_head(HEAD._replace(url="https://a/" + "x" * 2000).encode()).url == ""
    HEAD._replace(digest=hashlib.sha256(b"hello").hexdigest()).check(hashlib.sha256(b"hello"), 5)
    for body, size in ((b"hellO", 5), (b"hello", 4)):
        with pytest.raises(ValueError, match="damaged"):
            HEAD._replace(digest=hashlib.sha256(b"hello").hexdigest()).check(hashlib.sha256(body), size)


@pytest.mark.parametrize("data", [
    b"", b"0.0.0.0 a\n" * 500, HEAD.encode()[:-1], b"resolver list 1 {".ljust(1024), b"resolver list 1 []".ljust(1024),
    b"resolver list 1 [[[".ljust(1024, b"["), b'resolver list 1 {"digest": 1, "size": 2, "fetched": 3}'.ljust(1024),
    b'resolver list 1 {"other": 1}'.ljust(1024),
])
def test_malformed_heads_are_refused(data):
    with pytest.raises(ValueError, match="stored list"):
        read_head(data)


@pytest.mark.parametrize(("etag", "sent"), [
    ('"a"', '"a"'), ('W/"a"', 'W/"a"'), (None, ""), ("a", ""), ('"a\r\nX: y"', ""), ('"' + "a" * 300 + '"', ""),
])
def test_only_valid_entity_tags_are_sent_back(etag, sent):
    assert usable_tag(etag) == sent
