"""Counters with closed sets of labels, histograms, and what is kept for the successor of a worker."""

import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.effects import Failure, FailureKind, Outcome, Question, Reply, Server
from resolver.net.fastpath import FastPath
from resolver.net.quic_connection import ALERTS
from resolver.net.tls_listener import BUSY, CLOSED, TIMEOUT
from resolver.observe import ClientCounters, Histogram, LabelledCounter, SampledHistogram, UpstreamLatency, result_of
from resolver.observe.catalogue import HANDSHAKE_FAILURES, counters_of
from resolver.observe.counters import PairCounter
from resolver.observe.histogram import BOUNDS, BUCKETS
from resolver.observe.kept import HALF, HEADER, KeptCounters
from resolver.observe.labels import OTHER, RCODE_LABELS, RESULTS, TYPE_LABELS, TYPES
from resolver.query import ActionKind, Applied
from resolver.verdict import Verdict
from resolver.wire import consts as c

# --- labels ---------------------------------------------------------------------------------------------------------


def test_each_combination_is_there_from_the_start() -> None:
    counter = LabelledCounter(limit=("responses", "queries"), action=("drop", "truncate"))
    counter.add("responses", "drop")
    counter.add("responses", "drop", count=2)
    assert counter.values() == {"responses.drop": 3, "responses.truncate": 0, "queries.drop": 0, "queries.truncate": 0}


def test_a_value_outside_of_its_set_is_other_or_a_fault_of_the_program() -> None:
    counter = LabelledCounter(reason=("odd", "other"))
    counter.add("a name that a remote party has chosen")
    assert counter.values() == {"odd": 0, "other": 1}
    with pytest.raises(KeyError):
        LabelledCounter(reason=("odd",)).add("even")


@given(st.integers(0, 65535), st.integers(0, 4095))
def test_no_query_and_no_reply_makes_a_new_series(rtype: int, rcode: int) -> None:
    counters = ClientCounters()
    before = {name: set(values) for name, values in counters.statistics().items()}
    counters.note_query("udp", rtype)
    counters.note_reply("tls", rcode)
    counters.note_message("quic")
    found = counters.statistics()
    assert {name: set(values) for name, values in found.items()} == before
    assert sum(found["queries"].values()) == 2 and found["queries"]["quic.none"] == 1
    assert found["queries"][f"udp.{TYPE_LABELS.get(rtype, OTHER)}"] == 1
    assert found["replies"][f"tls.{RCODE_LABELS.get(rcode, OTHER)}"] == 1


def test_types_have_their_own_label_or_other() -> None:
    assert (TYPE_LABELS[c.AAAA], TYPE_LABELS[c.ANY]) == ("AAAA", "ANY")
    assert 65280 not in TYPE_LABELS and c.WKS not in TYPE_LABELS
    assert len(set(TYPES)) == len(TYPES) == 32


def outcome(**changes: object) -> Outcome:
    made = Outcome(Question(b"\0", c.A), c.NOERROR, [], [], Verdict.SECURE, 1)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(("made", "result"), [
    (outcome(), "miss"),
    (outcome(from_cache=True), "rrsets"),
    (outcome(from_cache=True, synthesised=True), "aggressive"),
    (outcome(synthesised=True), "miss"),
    (outcome(stale=True, from_cache=True), "stale"),
    (outcome(applied=Applied("question", "local-zones", ActionKind.ANSWER), from_cache=True), "local"),
    (outcome(authoritative=True), "local"),
    (outcome(failure=Failure(FailureKind.CACHED_ERROR, 0, "")), "failure"),
    (outcome(failure=Failure(FailureKind.TIMEOUT, 0, "")), "miss"),
])
def test_where_an_answer_came_from(made: Outcome, result: str) -> None:
    assert result_of(made) == result
    assert result in RESULTS


# --- histograms -----------------------------------------------------------------------------------------------------


def test_a_value_is_in_the_first_bucket_that_is_not_below_it() -> None:
    histogram = Histogram()
    for value in (0.0, 0.0001, 0.0002, 0.5, 0.500001, 100.0):
        histogram.add(value)
    found = histogram.values()
    assert found["sum"] == pytest.approx(101.000301)
    assert {bucket: count for bucket, count in found.items() if count and bucket != "sum"} == {
        "0.0001": 2, "0.001": 1, "0.5": 1, "1": 1, "+Inf": 1}
    assert tuple(found) == (*BUCKETS, "sum") and sorted(BOUNDS) == list(BOUNDS)


def test_a_counter_of_pairs_counts_as_one_with_labels() -> None:
    labels = {"transport": ("udp", "tcp"), "type": ("A", "MX", "other")}
    pairs, labelled = PairCounter(**labels), LabelledCounter(**labels)
    for first, second in (("udp", "A"), ("udp", "A"), ("tcp", "MX"), ("tcp", "TXT")):
        pairs.add(first, second)
        labelled.add(first, second)
    assert pairs.values() == labelled.values() and pairs.values()["tcp.other"] == 1
    for counter in (pairs, labelled):
        with pytest.raises(KeyError):
            counter.add("tls", "A")
    assert pairs.values() == labelled.values()


@given(st.lists(st.tuples(st.integers(0, 100_000), st.lists(st.integers(0, 50), min_size=15, max_size=15)), max_size=8))
def test_a_sampled_histogram_counts_all_and_never_goes_back(steps: list[tuple[int, list[int]]]) -> None:
    histogram, total, samples = SampledHistogram(), 0, [0] * len(BUCKETS)
    before = list(histogram.counts)
    for new, more in steps:
        total += new
        samples = [old + one for old, one in zip(samples, more, strict=True)]
        histogram.update(total, samples, sum(samples) * 0.001)
        assert sum(histogram.counts) == total
        assert all(now >= then for now, then in zip(histogram.counts, before, strict=True))
        before = list(histogram.counts)


def test_values_that_were_not_measured_are_where_the_measured_ones_are() -> None:
    histogram = SampledHistogram()
    histogram.update(10, [0] * len(BUCKETS), 0.0)
    assert histogram.counts[0] == 10, "without a sample: the first bucket"
    histogram.update(1010, [3, 0, 1, *[0] * (len(BUCKETS) - 3)], 0.008)
    assert histogram.counts[:3] == [760, 0, 250] and histogram.seconds == pytest.approx(2.0)


class Described:
    """An encrypted connection."""

    def describe(self) -> dict[str, object]:
        return {}


def test_replies_are_counted_by_their_transport() -> None:
    latency = UpstreamLatency()
    server = Server("192.0.2.1", 53)
    view = None
    latency.note_reply(Reply(view, 0.02, False, server))  # type: ignore[arg-type]
    latency.note_reply(Reply(view, 0.02, True, server))  # type: ignore[arg-type]
    latency.note_reply(Reply(view, 0.02, True, server, b"", Described()))  # type: ignore[arg-type]
    found = latency.values()
    assert {name: values["0.025"] for name, values in found.items()} == {
        "udp": 1, "tcp": 1, "tls": 1, "https": 0, "quic": 0}


# --- kept counters --------------------------------------------------------------------------------------------------


def test_each_worker_has_its_last_counters() -> None:
    kept = KeptCounters(2)
    assert kept.load(0) == kept.load(1) == {}
    for turn in range(5):
        kept.save(0, {"fast_path": {"hits": turn}})
        assert kept.load(0) == {"fast_path": {"hits": turn}}
    kept.save(1, {"other": {}})
    assert (kept.load(0), kept.load(1)) == ({"fast_path": {"hits": 4}}, {"other": {}})


@pytest.mark.parametrize("written", [0, 8, HEADER.size, HEADER.size + 5])
def test_a_worker_killed_while_it_writes_leaves_what_was_before(written: int) -> None:
    """`written` octets of the third writing replace the first, in whatever order."""
    kept = KeptCounters(1)
    kept.save(0, {"count": {"one": 1}})
    kept.save(0, {"count": {"two": 2}})
    at = HALF  # the first writing is in the second half
    memory: mmap.mmap = kept._memory
    memory[at:at + written] = HEADER.pack(3, 20, 7)[:written].ljust(written, b"x")
    assert kept.load(0) == {"count": {"two": 2}}
    kept.save(0, {"count": {"three": 3}})
    assert kept.load(0) == {"count": {"three": 3}}


def test_what_does_not_fit_leaves_what_was_before() -> None:
    kept = KeptCounters(1)
    kept.save(0, {"count": {"one": 1}})
    with pytest.raises(ValueError, match="more than"):
        kept.save(0, {"count": {"x" * HALF: 1}})
    assert kept.load(0) == {"count": {"one": 1}}


def test_gauges_are_not_kept() -> None:
    given = {
        "slow_path": {"queries": 3, "pending": 2}, "usage": {"items": {"jobs": 1}}, "cache": {"hits_answer": 1},
        "client_latency": {"hit": {"0.0001": 1, "sum": 0.1}},
    }
    assert counters_of(given) == {
        "slow_path": {"queries": 3}, "cache": {"hits_answer": 1}, "client_latency": given["client_latency"]}


def test_every_failure_that_a_listener_names_has_a_label() -> None:
    assert {*ALERTS.values(), BUSY, CLOSED, OTHER, TIMEOUT} <= HANDSHAKE_FAILURES


def test_the_fast_path_knows_no_other_transports() -> None:
    from support.service_parts import Parts

    fast: FastPath = Parts().fast
    with pytest.raises(IndexError):
        fast.answer_frames([], transport=5)
    with pytest.raises(IndexError):
        fast.answer_encrypted(b"", b"", 0, transport=-1)
