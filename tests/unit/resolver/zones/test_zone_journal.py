"""The file of a transferred zone: what is written is read back, from every place at which writing may have ended."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.zone_versions import ORIGIN, difference, version

from resolver.wire import name as names
from resolver.zones.journal import (
    MAGIC,
    JournalError,
    confirmation_block,
    content_block,
    difference_block,
    read_journal,
)

VERSIONS = [version(1, 2, 3), version(2, 3, 4), version(3, 4, 5)]
FIRST = content_block(VERSIONS[0], 100)
BLOCKS = [
    FIRST,
    confirmation_block(200),
    difference_block(difference(VERSIONS[0], VERSIONS[1]), 300),
    difference_block(difference(VERSIONS[1], VERSIONS[2]), 400),
    confirmation_block(500),
]
EXPECTED = [(1, 100), (1, 200), (2, 300), (3, 400), (3, 500)]


def test_a_file_is_read_back_after_each_block() -> None:
    for count in range(1, len(BLOCKS) + 1):
        data = b"".join(BLOCKS[:count])
        saved = read_journal(data, ORIGIN)
        assert (saved.zone.serial, saved.confirmed) == EXPECTED[count - 1]
        assert sorted(saved.zone) == sorted(VERSIONS[saved.zone.serial - 1])
        assert (saved.sound, saved.content) == (len(data), len(FIRST))


def test_a_file_that_ends_anywhere_is_the_last_complete_version() -> None:
    data = b"".join(BLOCKS)
    ends = [sum(map(len, BLOCKS[:count])) for count in range(1, len(BLOCKS) + 1)]
    for size in range(len(data)):
        complete = sum(end <= size for end in ends)
        if not complete:
            with pytest.raises(JournalError):
                read_journal(data[:size], ORIGIN)
            continue
        saved = read_journal(data[:size], ORIGIN)
        assert (saved.zone.serial, saved.confirmed) == EXPECTED[complete - 1]
        assert saved.sound == ends[complete - 1]


@settings(max_examples=200)
@given(st.integers(0, len(b"".join(BLOCKS)) - 1), st.integers(1, 255))
def test_a_changed_octet_never_gives_other_content(at: int, flip: int) -> None:
    data = bytearray(b"".join(BLOCKS))
    data[at] ^= flip
    try:
        saved = read_journal(bytes(data), ORIGIN)
    except JournalError:
        return
    assert sorted(saved.zone) == sorted(VERSIONS[saved.zone.serial - 1])


@pytest.mark.parametrize(("data", "says"), [
    (b"", "no zone file"),
    (MAGIC, "no content"),
    (MAGIC + confirmation_block(1), "no content"),
    (FIRST + FIRST[len(MAGIC):], "second content"),
    (FIRST + difference_block(difference(VERSIONS[1], VERSIONS[2]), 5), "starts at serial 2, not at 1"),
    (FIRST[:60] + b"\xff" + FIRST[61:] + confirmation_block(3), "digest does not match"),
])
def test_a_damaged_file_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(JournalError, match=says):
        read_journal(data, ORIGIN)


def test_a_file_of_another_zone_is_refused() -> None:
    with pytest.raises(JournalError, match="another zone"):
        read_journal(FIRST, names.from_text("f.test."))
