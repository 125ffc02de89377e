"""A warning that is repeated is logged once an interval, with the number of those left out."""

import logging

import pytest

from resolver.net.complaint import Complaint


def test_only_the_first_of_a_storm_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    complaint = Complaint(logging.getLogger("test.complaint"), interval=1000)
    assert complaint.say("no room for %s", "a")
    assert not any(complaint.say("no room for %s", "b") for _ in range(500))
    assert [record.getMessage() for record in caplog.records] == ["no room for a"]


def test_the_next_interval_tells_how_many_were_left_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    complaint = Complaint(logging.getLogger("test.complaint"), interval=10)
    for _ in range(4):
        complaint.say("full")
    now = 111.0
    complaint.say("full")
    assert [record.getMessage() for record in caplog.records] == ["full", "full (and 3 times since the last such line)"]
