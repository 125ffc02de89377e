"""When attempts to connect start, and in which order (RFC 8305). Time is an argument."""

import math
import socket

from corenet.http.attempts import Address, Attempt, Endpoint, Schedule
from corenet.limits import HTTP_CONNECTION_ATTEMPT_DELAY, HTTP_RESOLUTION_DELAY

RESOLUTION = HTTP_RESOLUTION_DELAY / 1000
ATTEMPT = HTTP_CONNECTION_ATTEMPT_DELAY / 1000


def four(last: int) -> Address:
    return socket.AF_INET, (f"192.0.2.{last}", 443)


def six(last: int) -> Address:
    return socket.AF_INET6, (f"2001:db8::{last}", 443, 0, 0)


def origin() -> Endpoint:
    return Endpoint("www.example", 443, is_origin=True)


def started(schedule: Schedule, now: float) -> Address:
    step = schedule.next(now)
    assert isinstance(step, Attempt), step
    return step.address


def test_without_addresses_the_schedule_waits_and_then_ends() -> None:
    schedule = Schedule(origin(), records_pending=False)
    assert schedule.next(0.0) == math.inf
    schedule.complete(schedule.origin)
    assert schedule.next(0.0) is None


def test_an_ipv6_address_is_tried_at_once() -> None:
    schedule = Schedule(origin(), records_pending=False)
    schedule.add_addresses(schedule.origin, [six(1)], 1.0)
    assert started(schedule, 1.0) == six(1)


def test_an_ipv4_address_waits_for_ipv6_until_the_resolution_delay() -> None:
    schedule = Schedule(origin(), records_pending=False)
    schedule.add_addresses(schedule.origin, [four(1)], 1.0)
    assert schedule.next(1.0) == 1.0 + RESOLUTION
    schedule.add_addresses(schedule.origin, [six(1), four(1)], 1.02)
    assert started(schedule, 1.02) == six(1)

    late = Schedule(origin(), records_pending=False)
    late.add_addresses(late.origin, [four(1)], 1.0)
    assert started(late, 1.0 + RESOLUTION) == four(1)
    # A later address joins: the other family is next.
    late.add_addresses(late.origin, [six(1), four(1), four(2)], 1.1)
    assert late.next(1.1) == 1.0 + RESOLUTION + ATTEMPT
    assert started(late, 1.0 + RESOLUTION + ATTEMPT) == six(1)


def test_an_ipv4_address_does_not_wait_when_there_is_no_other() -> None:
    schedule = Schedule(origin(), records_pending=False)
    schedule.add_addresses(schedule.origin, [four(1)], 1.0)
    schedule.complete(schedule.origin)
    assert started(schedule, 1.0) == four(1)


def test_families_alternate_with_a_delay_that_a_failure_ends() -> None:
    schedule = Schedule(origin(), records_pending=False)
    schedule.add_addresses(schedule.origin, [six(1), six(2), four(1), four(2)], 0.0)
    schedule.complete(schedule.origin)
    assert started(schedule, 0.0) == six(1)
    assert schedule.next(0.1) == ATTEMPT
    assert started(schedule, ATTEMPT) == four(1)
    schedule.failed()
    assert started(schedule, ATTEMPT) == six(2)
    assert started(schedule, 2 * ATTEMPT) == four(2)
    assert schedule.next(9.0) is None


def test_https_records_are_waited_for_until_the_resolution_delay() -> None:
    schedule = Schedule(origin(), records_pending=True)
    schedule.add_addresses(schedule.origin, [six(1)], 1.0)
    schedule.complete(schedule.origin)
    assert schedule.next(1.0) == 1.0 + RESOLUTION
    assert schedule.set_endpoints([], 1.01)
    assert started(schedule, 1.01) == six(1)

    late = Schedule(origin(), records_pending=True)
    late.add_addresses(late.origin, [six(1)], 1.0)
    assert started(late, 1.0 + RESOLUTION) == six(1)
    assert not late.set_endpoints([Endpoint("alt.example", 8443)], 1.06)
    assert late.endpoints == [late.origin]


def test_without_any_address_https_records_are_waited_for() -> None:
    """A zone apex that has only an alias."""
    schedule = Schedule(origin(), records_pending=True)
    schedule.complete(schedule.origin)
    assert schedule.next(5.0) == math.inf
    other = Endpoint("alt.example", 443)
    schedule.set_endpoints([other], 5.0)
    assert schedule.next(5.0) == math.inf
    schedule.add_addresses(other, [six(1)], 5.5)
    assert started(schedule, 5.5) == six(1)


def test_endpoints_are_tried_in_order_and_the_origin_last() -> None:
    schedule = Schedule(origin(), records_pending=True)
    schedule.add_addresses(schedule.origin, [six(9)], 0.0)
    one, two = Endpoint("one.example", 443), Endpoint("two.example", 443)
    schedule.set_endpoints([one, two], 0.0)
    # The schedule waits for the best endpoint.
    schedule.add_addresses(two, [six(2)], 0.01)
    assert schedule.next(0.01) == RESOLUTION
    schedule.add_addresses(one, [six(1)], 0.02)
    assert started(schedule, 0.02) == six(1)
    assert started(schedule, 1.0) == six(2)
    assert started(schedule, 2.0) == six(9)
    assert schedule.next(3.0) == math.inf


def test_an_endpoint_without_addresses_delays_nothing() -> None:
    schedule = Schedule(origin(), records_pending=True)
    schedule.add_addresses(schedule.origin, [six(9)], 0.0)
    dead = Endpoint("dead.example", 443)
    schedule.set_endpoints([dead], 0.0)
    schedule.complete(dead)
    assert started(schedule, 0.0) == six(9)


def test_address_hints_are_used_only_until_the_answer_arrives() -> None:
    schedule = Schedule(origin(), records_pending=True)
    schedule.complete(schedule.origin)
    hinted = Endpoint("alt.example", 8443, hints=[four(1), four(2)])
    schedule.set_endpoints([hinted], 1.0)
    assert schedule.next(1.0) == 1.0 + RESOLUTION
    assert started(schedule, 1.0 + RESOLUTION) == four(1)
    schedule.add_addresses(hinted, [four(3)], 1.1)
    assert started(schedule, 2.0) == four(3)
    assert schedule.next(3.0) == math.inf


def test_a_failed_endpoint_is_not_tried_again() -> None:
    schedule = Schedule(origin(), records_pending=True)
    schedule.add_addresses(schedule.origin, [six(9)], 0.0)
    schedule.complete(schedule.origin)
    bad = Endpoint("bad.example", 443)
    schedule.set_endpoints([bad], 0.0)
    schedule.add_addresses(bad, [six(1), six(2)], 0.0)
    assert started(schedule, 0.0) == six(1)
    assert schedule.give_up(bad)
    assert started(schedule, 0.0) == six(9)
    assert not schedule.give_up(schedule.origin)
