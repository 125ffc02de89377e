"""A client whose IPv4 address comes in its IPv4-mapped form (RFC 4291 section 2.5.5.2) counts as one of IPv4.

A socket for both families reports it so, which the service manager may pass, and so may a load balancer.
"""

import socket
from typing import Any

import pytest
from support.observed import Observed
from support.service_parts import Parts, Sink, positive, query

from resolver.effects import Question
from resolver.net.proxy_protocol import SIGNATURE, parse_proxy_header
from resolver.net.sockaddr import network_of
from resolver.policy import PolicyModule, PolicyPipeline
from resolver.policy.balance import Balancer, Target
from resolver.query import Query, client_address
from resolver.settings import BalanceSettings, PolicySettings, Settings, TargetSettings, ViewSettings
from resolver.wire import consts as c
from resolver.wire import name as names

PLAIN, FORMS = "192.0.2.7", ("::ffff:192.0.2.7", "::ffff:c000:207")
OTHERS = ("192.0.2.7", "2001:db8::ffff:c000:207", "::ffff:1:c000:207", "::192.0.2.7", "fe80::1%eth0", "")


@pytest.mark.parametrize("form", FORMS)
def test_a_mapped_address_has_one_form(form: str) -> None:
    assert client_address(form) == PLAIN
    assert Query(form).address == PLAIN and Query(form).packed == socket.inet_aton(PLAIN)
    assert network_of(form) == network_of(PLAIN)


@pytest.mark.parametrize("text", OTHERS)
def test_others_are_not_changed(text: str) -> None:
    assert client_address(text) == Query(text).address == text


def test_a_load_balancer_may_report_it() -> None:
    data = socket.inet_pton(socket.AF_INET6, FORMS[0]) + bytes(16) + b"\x12\x34\x03\x55"
    header = parse_proxy_header(SIGNATURE + b"\x21\x21" + len(data).to_bytes(2, "big") + data)
    assert header is not None and header.client == (PLAIN, 0x1234)


class Seen(PolicyModule):
    """Keeps the addresses of the clients that it is asked about."""

    name = "seen"

    def __init__(self) -> None:
        self.addresses: list[str] = []

    def client(self, query: Query, /) -> None:
        self.addresses.append(query.address)


@pytest.mark.parametrize("form", FORMS)
def test_access_views_and_policies_see_an_ipv4_client(form: str) -> None:
    seen = Seen()
    settings = Settings(policy=PolicySettings(allow=("192.0.2.0/24",)),
                        view=(ViewSettings(name="near", clients=("192.0.2.0/28",)),))
    parts, sink = Parts(settings, modules=(seen,)), Sink()
    assert parts.service.handle(query(), (form, 4000), sink) is not None
    assert seen.addresses == [PLAIN]
    assert parts.plan.access.view_of(form) == 1


@pytest.mark.parametrize("form", FORMS)
def test_the_query_log_masks_it_as_ipv4(form: str) -> None:
    """With the bits of IPv6, the whole IPv4 address would be recorded."""
    observed = Observed({"fields": ("client",), "client_prefix_v4": 24, "client_prefix_v6": 128})
    parts = Parts(observer=observed.observer, settings=Settings(policy=PolicySettings(allow=("0.0.0.0/0",))))
    peer: tuple[Any, ...] = (form, 4000)
    sink = Sink()
    parts.service.handle(query(), peer, sink)
    parts.mesh.finish(positive())
    assert parts.fast.answer(query(), peer, parts.clock.real) is not None
    assert observed.lines() == ["client=192.0.2.0"] * 2


@pytest.mark.parametrize("prefix", ["192.0.2.0/28", "::ffff:192.0.2.0/124"])
def test_the_nearest_target_is_found(prefix: str) -> None:
    targets = (TargetSettings("198.51.100.1", clients=(prefix,)), TargetSettings("198.51.100.2"))
    made = Target(targets[0], 1, 1)
    assert [made.match(socket.inet_aton(text)) for text in (PLAIN, "192.0.2.16")] == [28, -1]
    balancer = Balancer((BalanceSettings(name="www.example.com", policy="nearest", target=targets),), None)  # type: ignore[arg-type]
    plan = PolicyPipeline(Settings(), modules=balancer.modules())
    found = plan.views[0].own_question(Query(FORMS[0]), Question(names.from_text("www.example.com."), c.A))
    assert found is not None and [rrset.rdatas() for rrset in found.answer] == [[socket.inet_aton("198.51.100.1")]]
