"""Published attacks on resolvers, one row each, with the tests that reproduce them.

The tests named in a row must exist, so that none is lost when it is renamed. `tests/mutants/attacks.toml` removes a
check for each row from the source, also from C, and the row's tests must fail then. `REMOVALS` does the same at run
time, where that is possible.
"""

import ast
import functools
import importlib
import importlib.util
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
from mutants import run

from resolver.verdict import Verdict
from resolver.wire import name as names

pytestmark = pytest.mark.checkout

TESTS = Path(__file__).resolve().parents[2]
UNIT = "unit/resolver"
WALK = f"{UNIT}/iterate/test_attacks.py"
HOSTILE = f"{UNIT}/iterate/test_hostile.py"
ITERATE = f"{UNIT}/iterate/test_iterate.py"
SCRUB = f"{UNIT}/iterate/test_scrub.py"
CUT = f"{UNIT}/iterate/test_delegation.py"
SIGNED = f"{UNIT}/validate/test_attacks.py"
AGGRESSIVE = f"{UNIT}/validate/test_aggressive.py"
UDP = f"{UNIT}/net/test_udp_upstream.py"
FORGED = f"{UNIT}/net/test_udp_forgeries.py"
MATCH = f"{UNIT}/net/test_match.py"
PEERS = f"{UNIT}/net/test_peers.py"
AMBIENT = f"{UNIT}/net/test_ambient.py"
SERVICE = f"{UNIT}/net/test_service.py"
STREAMS = "integration/test_service_tcp.py"
RRSETS = f"{UNIT}/cache/test_rrsets.py"
TABLE = f"{UNIT}/cache/test_table.py"
MESSAGE = f"{UNIT}/wire/test_message.py"
METRICS = f"{UNIT}/daemon/test_metrics.py"
BUILD = f"{UNIT}/wire/test_build.py"
HTTP = f"{UNIT}/net/test_http_sessions.py"
QUIC = "integration/test_service_quic.py"
ZONES = f"{UNIT}/zones"


class Attack(NamedTuple):
    """One attack: its number in the list, its names, and ``file::test`` of what plays it."""

    number: int
    name: str
    tests: tuple[str, ...]


ATTACKS = (
    Attack(1, "Kaminsky 2008 (CVE-2008-1447): guessed ids, poisoned siblings", (
        f"{FORGED}::test_a_reply_with_a_wrong_cookie_is_ignored",
        f"{UNIT}/iterate/test_cookies.py::test_a_forged_reply_with_all_but_the_cookie_is_ignored",
        f"{UNIT}/iterate/test_cookies.py::test_a_forger_without_a_cookie_only_forces_tcp",
        f"{FORGED}::test_a_kaminsky_flood_ends_the_udp_query",
        f"{FORGED}::test_a_forgery_is_ignored_and_the_right_reply_accepted",
        f"{UDP}::test_case_is_randomised_unless_the_ask_forbids_it",
        f"{MATCH}::test_no_changed_octet_of_id_or_question_gets_past",
        f"{HOSTILE}::test_forged_packets_that_miss_the_id_are_ignored",
        f"{HOSTILE}::test_glue_for_names_outside_the_referring_zone_is_ignored",
        f"{HOSTILE}::test_glue_for_names_that_are_no_name_servers_of_the_referral_is_ignored",
    )),
    Attack(2, "guessable generators and port pools (CVE-2025-40780, CVE-2026-50252)", (
        f"{AMBIENT}::test_numbers_differ_across_blocks_and_objects",
        f"{AMBIENT}::test_a_child_process_does_not_repeat_its_parent",
        f"{PEERS}::test_sockets_are_bound_to_scattered_ports",
        f"{UDP}::test_ports_are_replaced_and_spread_over_the_range",
    )),
    Attack(3, "fragmentation 2013 (CVE-2025-59023)", (
        f"{WALK}::test_fragments_are_not_asked_for",
        f"{ITERATE}::test_truncation_leads_to_tcp",
        f"{UDP}::test_oversized_datagram_is_no_reply",
        f"{UDP}::test_trailing_octets_make_a_reply_invalid",
    )),
    Attack(4, "SAD DNS 2020 (CVE-2020-25705, CVE-2021-20322): ICMP tells the port", (
        f"{FORGED}::test_icmp_about_a_packet_that_is_not_ours_ends_nothing",
        f"{UDP}::test_each_query_has_its_own_port_while_it_waits",
        f"{UDP}::test_probing_does_not_distinguish_an_open_port_from_a_closed_one",
        f"{UDP}::test_old_ports_are_closed",
        f"{FORGED}::test_a_kaminsky_flood_ends_the_udp_query",
        f"{HOSTILE}::test_a_forged_reply_with_the_id_but_wrong_letter_case_forces_tcp",
    )),
    Attack(5, "birthday 2002, RebirthDay 2025 (CVE-2025-5994, CVE-2025-30192)", (
        f"{WALK}::test_rebirthday_equal_questions_are_asked_once",
        f"{UNIT}/test_equal_queries.py::test_many_aliases_cause_one_query",
        f"{UNIT}/test_equal_queries.py::test_names_below_a_zone_cut_share_minimised_queries",
        f"{UNIT}/test_equal_queries.py::test_clients_of_many_subnets",
        f"{UNIT}/test_mesh.py::test_sub_queries_are_joined_as_well",
    )),
    Attack(6, "MaginotDNS 2023", (
        f"{WALK}::test_maginotdns_a_forwarder_speaks_for_its_zone_only",
        f"{ITERATE}::test_answers_of_a_forwarder_are_accepted_only_inside_its_zone",
        f"{WALK}::test_maginotdns_the_zone_around_does_not_speak_for_a_configured_one",
    )),
    Attack(7, "TuDoor 2024: malformed replies that end a wait", (
        f"{FORGED}::test_tudoor_unparsable_reply_is_waited_out",
        f"{MATCH}::test_tudoor_header_only_reply_is_ignored",
        f"{MATCH}::test_empty_question_with_records_is_ignored",
        f"{SCRUB}::test_a_reply_without_question_is_permitted_for_errors_only",
    )),
    Attack(8, "promiscuous records (CVE-2025-40778, CVE-2025-59023, CVE-2026-42960)", (
        f"{WALK}::test_promiscuous_authority_of_an_answer_moves_no_delegation",
        f"{HOSTILE}::test_a_referral_sideways_or_upwards_is_not_followed",
    )),
    Attack(9, "Kashpureff 1997, stuffed aliases", (
        f"{HOSTILE}::test_extra_records_in_answers_are_dropped",
        f"{HOSTILE}::test_cname_targets_in_other_zones_are_queried_at_their_own_servers",
        f"{SCRUB}::test_only_the_alias_chain_is_used_in_its_order",
        f"{SCRUB}::test_the_alias_chain_ends_at_the_zone_cut",
    )),
    Attack(10, "ghost domains 2012 (CVE-2012-1192, CVE-2022-30698/9, CVE-2026-40622, CVE-2026-42955)", (
        f"{ITERATE}::test_ghost_domain_the_child_cannot_prolong_its_delegation",
        f"{WALK}::test_ghost_domain_new_names_of_servers_prolong_nothing",
        f"{RRSETS}::test_a_child_cannot_prolong_its_delegation",
    )),
    Attack(11, "TsuNAME 2021", (
        f"{HOSTILE}::test_tsuname_servers_that_need_each_other_are_a_cycle_and_cost_little",
        f"{UNIT}/test_mesh.py::test_a_need_that_closes_a_cycle_is_refused",
        f"{ITERATE}::test_dead_servers_fail_quickly_and_the_failure_is_kept",
    )),
    Attack(12, "iDNS 2014 (CVE-2014-8500, CVE-2014-8602)", (
        f"{HOSTILE}::test_one_budget_bounds_all_work_of_a_query",
        f"{HOSTILE}::test_referrals_are_counted",
        f"{ITERATE}::test_a_chain_of_zones_that_need_each_other_ends_at_the_depth_limit",
        f"{UNIT}/test_mesh.py::test_depth_is_bounded",
    )),
    Attack(13, "NXNSAttack 2020 (CVE-2020-12662, -12667, -8616, -10995)", (
        f"{HOSTILE}::test_nxnsattack_a_referral_to_hundreds_of_unresolvable_servers_costs_little",
        f"{CUT}::test_no_more_than_thirteen_name_servers_are_used",
    )),
    Attack(14, "Non-Responsive Delegation 2022 (CVE-2022-3204)", (
        f"{HOSTILE}::test_non_responsive_delegation_is_given_up_after_some_packets",
        f"{CUT}::test_the_least_tried_servers_come_first_and_attempts_are_limited",
    )),
    Attack(15, "CAMP 2024 (CVE-2026-3592, CVE-2024-25590, CVE-2026-24027, CVE-2026-50045)", (
        f"{HOSTILE}::test_the_budget_is_shared_with_sub_queries_and_never_reset",
        f"{HOSTILE}::test_camp_name_servers_behind_chains_of_aliases_cost_little",
        f"{HOSTILE}::test_camp_name_servers_without_address_are_counted_for_the_whole_query",
        f"{UNIT}/test_effects.py::test_a_budget_only_shrinks_and_gives_the_reason",
    )),
    Attack(16, "DNS unchained 2018", (
        f"{WALK}::test_dns_unchained_long_chains_between_zones_end",
        f"{UNIT}/test_resolve.py::test_aliases_are_counted_and_not_replies",
    )),
    Attack(17, "DNSBomb 2024 (CVE-2024-33655)", (
        f"{SERVICE}::test_dnsbomb_one_client_cannot_take_every_slot",
        f"{SERVICE}::test_dnsbomb_answers_that_come_too_late_are_not_sent",
        f"{SERVICE}::test_dnsbomb_answers_that_were_held_back_make_no_burst",
    )),
    Attack(18, "Phoenix domains 2023", (f"{WALK}::test_phoenix_domain_a_subdomain_dies_with_its_parent",)),
    Attack(19, "KeyTrap 2024 (CVE-2023-50387)", (
        f"{SIGNED}::test_keytrap_many_signatures",
        f"{SIGNED}::test_keytrap_many_keys_of_one_tag",
        f"{SIGNED}::test_keytrap_many_ds_that_match_no_key",
        f"{SIGNED}::test_keytrap_many_malformed_signatures_hide_nothing_and_cost_nothing",
    )),
    Attack(20, "NSEC3 work 2023 (CVE-2023-50868, CVE-2026-1519, CVE-2026-42923, CVE-2026-11605)", (
        f"{SIGNED}::test_nsec3_iterations_make_a_zone_insecure_not_slow",
        f"{SIGNED}::test_the_number_of_nsec3_hashes_of_one_reply_is_bounded",
        f"{SIGNED}::test_too_many_records_of_denial",
    )),
    Attack(21, "malformed keys that are not counted (CVE-2025-8677)", (
        f"{SIGNED}::test_malformed_keys_count_as_checks",
    )),
    Attack(22, "RRSIG labels below the signer's (CVE-2026-44690, CVE-2026-11721, CVE-2026-52688)", (
        f"{SIGNED}::test_rrsig_labels_outside_signer_and_owner",
    )),
    Attack(23, "NSEC next name outside the zone (CVE-2026-13321)", (
        f"{SIGNED}::test_nsec_next_name_outside_of_the_zone",
        f"{SIGNED}::test_nsec_of_an_ancestor_delegation",
    )),
    Attack(24, "proofs of the wrong side (CVE-2026-10723, CVE-2017-15105, CVE-2026-46582)", (
        f"{SIGNED}::test_child_cannot_deny_its_own_ds",
        f"{SIGNED}::test_nsec3_not_directly_below_its_zone",
        f"{SIGNED}::test_nsec_expanded_from_a_wildcard_proves_nothing",
    )),
    Attack(25, "unvalidated data past the gate (CVE-2019-10190, CVE-2018-1000002, CVE-2026-50243)", (
        f"{UNIT}/test_resolve.py::test_data_kept_unvalidated_is_validated_before_it_is_shown",
        f"{SERVICE}::test_bogus_data_never_leaves_without_cd",
    )),
    Attack(26, "NXDOMAIN cut over a stub zone (CVE-2026-44687)", (
        f"{AGGRESSIVE}::test_configured_zone_is_not_denied_by_the_public_tree",
        f"{AGGRESSIVE}::test_a_stub_zone_without_negative_anchor_is_queried_too",
        f"{AGGRESSIVE}::test_negative_anchor_below_the_zone",
        f"{AGGRESSIVE}::test_nxdomain_above_a_stub_zone_ends_at_its_border",
        f"{AGGRESSIVE}::test_parent_asked_for_ds_does_not_deny_a_stub_zone",
        f"{WALK}::test_a_configured_zone_is_not_denied_by_its_parent_without_dnssec_either",
        f"{AGGRESSIVE}::test_dname_above_a_stub_zone_ends_at_its_border",
        f"{WALK}::test_an_alias_brings_nothing_along_for_a_local_name",
        f"{AGGRESSIVE}::test_nxdomain_of_an_unsigned_zone_cuts_nothing",
    )),
    Attack(27, "glue to oneself (CVE-2026-50251)", (
        f"{HOSTILE}::test_glue_with_unusable_addresses_is_not_queried",
        f"{ITERATE}::test_own_and_forbidden_addresses_are_never_queried",
    )),
    Attack(28, "large sets, many types (CVE-2019-19331, CVE-2024-1737, CVE-2024-4408)", (
        f"{MESSAGE}::test_numbers_of_records_per_rrset_and_message_are_limited",
        f"{MESSAGE}::test_grouping_many_owners_takes_linear_time",
        f"{MESSAGE}::test_duplicates_in_large_rrsets_are_removed",
    )),
    Attack(29, "work of compression (CVE-2024-8508, CVE-2026-44390)", (
        f"{MESSAGE}::test_the_decompressed_size_of_an_rrset_is_limited",
        f"{BUILD}::test_large_messages",
        f"{BUILD}::test_names_with_colliding_hashes_end_compression",
    )),
    Attack(30, "compression pointers (CVE-2026-10822)", (
        f"{MESSAGE}::test_pointer_that_does_not_point_backwards",
        f"{MESSAGE}::test_chain_of_pointers",
        f"{MESSAGE}::test_nothing_after_the_end_is_read",
        f"{MESSAGE}::test_name_in_rdata_must_end_there",
    )),
    Attack(31, "floods of EDNS options (CVE-2026-41292, CVE-2026-42944)", (
        f"{SERVICE}::test_option_flood_repeated_options_are_answered_once",
    )),
    Attack(32, "cookies behind PROXY (CVE-2026-54478)", (
        f"{SERVICE}::test_a_proxy_header_before_a_query_is_not_parsed",
    )),
    Attack(33, "TCP: slow loris, floods (CVE-2018-1110, CVE-2024-0760, CVE-2024-12705)", (
        f"{STREAMS}::test_slow_loris_is_ended",
        f"{STREAMS}::test_one_address_may_not_take_all_connections",
        f"{STREAMS}::test_no_more_is_sent_to_a_client_that_does_not_read",
    )),
    Attack(34, "DoH and HTTP/2 floods (CVE-2024-12705, CVE-2026-3593)", (
        f"{HTTP}::test_nothing_is_made_for_a_client_that_does_not_read",
        f"{HTTP}::test_one_connection_has_its_share_of_a_turn",
        f"{HTTP}::test_a_turn_makes_a_bounded_number_of_octets",
        "unit/corenet/http/test_h2.py::test_rapid_reset",
    )),
    Attack(35, "DoQ (CVE-2026-14586, -32665, -41637, -55991)", (
        f"{QUIC}::test_half_open_handshakes_are_bounded",
        f"{QUIC}::test_at_most_three_times_the_received_octets_are_sent",
        f"{QUIC}::test_octets_of_incomplete_queries_are_limited",
        f"{QUIC}::test_nothing_is_made_for_a_client_that_does_not_read",
    )),
    Attack(36, "jostle and queue bypass (CVE-2026-42534)", (
        f"{SERVICE}::test_dnsbomb_one_client_cannot_take_every_slot",
        f"{SERVICE}::test_one_network_cannot_take_every_slot",
    )),
    Attack(37, "cache past its limit (CVE-2023-2828)", (
        f"{TABLE}::test_no_order_of_sizes_defeats_eviction",
        f"{TABLE}::test_the_limit_holds_when_all_entries_are_used",
        f"{TABLE}::test_moved_entries_never_overtake_the_oldest",
    )),
    Attack(38, "stale data beside policies (CVE-2025-40777, CVE-2026-55717)", (
        f"{WALK}::test_no_pair_of_settings_is_a_fault",
        f"{WALK}::test_a_fault_in_stale_data_costs_nothing_else",
        f"{WALK}::test_a_fault_in_a_policy_shows_nothing_and_costs_nothing_else",
        f"{WALK}::test_a_fault_while_looking_up_is_an_answer_too",
        f"{UNIT}/test_stale.py::test_a_stale_denial_alone_denies_no_addresses_that_would_have_been_made",
    )),
    Attack(39, "ANY and RRSIG as amplifiers", (f"{SERVICE}::test_any_gets_one_small_record",)),
    Attack(40, "overlong names of error reports (CVE-2026-55973)", (
        f"{WALK}::test_no_report_is_sent_to_an_error_reporting_agent",
    )),
    Attack(41, "zone transfers from bogus hosts (CVE-2026-50248, CVE-2026-33612)", (
        f"{ZONES}/test_zone_server.py::test_other_transfers_are_refused",
        f"{ZONES}/test_zone_server.py::test_notify_only_from_primaries",
        f"{ZONES}/test_zone_transfer.py::test_a_changed_reply_is_refused",
        f"{ZONES}/test_zone_transfer.py::test_a_transfer_with_too_many_unsigned_messages_is_refused",
    )),
    Attack(42, "memory of the metrics page (CVE-2026-33256)", (
        f"{METRICS}::test_an_incomplete_request_times_out",
        f"{METRICS}::test_more_connections_than_permitted",
    )),
    Attack(43, "classes other than IN (CVE-2026-5946)", (
        f"{SERVICE}::test_other_classes_are_refused",
        f"{UNIT}/test_resolve.py::test_other_classes_are_neither_resolved_nor_answered_with_data_of_class_in",
    )),
    Attack(44, "infinite resend (CVE-2026-5950)", (
        f"{WALK}::test_infinite_resend_every_bad_reply_is_counted",
        f"{WALK}::test_infinite_resend_every_packet_passes_the_budget",
        f"{WALK}::test_letter_case_games_end",
        f"{WALK}::test_a_server_that_always_wants_another_cookie",
    )),
)


@functools.cache
def names_in(file: str) -> frozenset[str]:
    """The names of all test functions of a file, read and not imported."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    found = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in found if node.name.startswith("test_"))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.number}")
def test_each_attack_has_tests(attack: Attack) -> None:
    assert attack.tests
    for place in attack.tests:
        file, _, name = place.partition("::")
        assert name in names_in(file), place


def test_the_list_is_complete() -> None:
    assert [attack.number for attack in ATTACKS] == list(range(1, 45))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.number}")
def test_each_attack_works_with_some_mutant(attack: Attack) -> None:
    mutants = [one for one in run.load() if one.area == "attacks" and one.what.split()[0] == f"{attack.number}"]
    assert mutants
    for mutant in mutants:
        assert set(mutant.tests) <= {f"tests/{place}" for place in attack.tests}, mutant.name


# --- a test that passes without its check proves nothing ----------------------------------------------------------


class Removal(NamedTuple):
    """A check taken out of the running code, and the test that must fail then.

    `patches` are (module, attribute, what stands there instead); checks in C and in extension types cannot be replaced
    like that, and their tests try every octet or count what happens.
    """

    number: int
    test: str
    patches: tuple[tuple[str, str, Any], ...]
    arguments: dict[str, Any] = {}


def _everything_below(*_: object) -> bool:
    return True


IN_EVERY_ZONE = "is_subdomain", _everything_below


def _without_bailiwick() -> SimpleNamespace:
    """The module of names, in which every name lies below every other."""
    found = {name: getattr(names, name) for name in dir(names) if not name.startswith("__")}
    return SimpleNamespace(**{**found, "is_subdomain": _everything_below})


class UsableAddress:
    """An address like any other to the checks of `DelegationCache`."""

    version = 4
    is_unspecified = is_multicast = is_loopback = False

    def __init__(self, given: bytes | str) -> None:
        self.text = str(ip_address(given))

    def __str__(self) -> str:
        return self.text


def _no_limit(name: str) -> tuple[str, str, Any]:
    return "resolver.limits", name, 1_000_000


SCRUBBING = (("resolver.iterate.scrub", *IN_EVERY_ZONE),)
REMOVALS = (
    Removal(1, f"{HOSTILE}::test_glue_for_names_outside_the_referring_zone_is_ignored", SCRUBBING),
    Removal(
        6,
        f"{WALK}::test_maginotdns_a_forwarder_speaks_for_its_zone_only",
        (
            *SCRUBBING,
            ("resolver.iterate.query_servers", "_stop_at_configured_zone", lambda *_: None),
        ),
    ),
    Removal(
        6,
        f"{WALK}::test_maginotdns_the_zone_around_does_not_speak_for_a_configured_one",
        (("resolver.iterate.query_servers", "_stop_at_configured_zone", lambda *_: None),),
        {"kind": "stub"},
    ),
    Removal(
        8,
        f"{HOSTILE}::test_a_referral_sideways_or_upwards_is_not_followed",
        SCRUBBING,
    ),
    Removal(9, f"{HOSTILE}::test_cname_targets_in_other_zones_are_queried_at_their_own_servers", SCRUBBING),
    Removal(
        10,
        f"{ITERATE}::test_ghost_domain_the_child_cannot_prolong_its_delegation",
        (("resolver.iterate.iterate", "_clamp", lambda *_: None),),
    ),
    Removal(12, f"{HOSTILE}::test_referrals_are_counted", (("resolver.iterate.iterate", "REFERRALS", 1_000_000),)),
    Removal(
        13,
        f"{HOSTILE}::test_nxnsattack_a_referral_to_hundreds_of_unresolvable_servers_costs_little",
        (
            ("resolver.iterate.query_servers", "LOOKUPS", 1_000_000),
            ("resolver.iterate.query_servers", "MISSING", 1_000_000),
        ),
    ),
    Removal(
        13,
        f"{CUT}::test_no_more_than_thirteen_name_servers_are_used",
        (("resolver.iterate.delegation", "NAME_SERVERS", 1_000_000),),
    ),
    Removal(
        14,
        f"{CUT}::test_the_least_tried_servers_come_first_and_attempts_are_limited",
        (("resolver.iterate.server_selection", "TRIES", 1_000_000),),
    ),
    Removal(
        14,
        f"{HOSTILE}::test_non_responsive_delegation_is_given_up_after_some_packets",
        (("resolver.iterate.query_servers", "TRIES_PER_CUT", 1_000_000),),
    ),
    Removal(
        16, f"{WALK}::test_dns_unchained_long_chains_between_zones_end", (("resolver.resolve", "ALIASES", 1_000_000),)
    ),
    Removal(
        19,
        f"{SIGNED}::test_keytrap_many_signatures",
        (
            ("resolver.validate.chain", "CHECKS", 1_000_000),
            ("resolver.validate.chain", "SIGNATURES", 1_000_000),
        ),
    ),
    Removal(
        19,
        f"{SIGNED}::test_keytrap_many_keys_of_one_tag",
        (
            ("resolver.validate.chain", "KEYS_PER_TAG", 1_000_000),
            ("resolver.validate.chain", "CHECKS", 1_000_000),
        ),
    ),
    Removal(19, f"{SIGNED}::test_keytrap_many_ds_that_match_no_key", (_no_limit("DS_MISMATCHES"),)),
    Removal(20, f"{SIGNED}::test_too_many_records_of_denial", (_no_limit("DENIAL_RRSETS"),)),
    Removal(
        22,
        f"{SIGNED}::test_rrsig_labels_outside_signer_and_owner",
        (("resolver.validate.chain", "Chain._fault", lambda *_: None),),
        {"labels": 1, "verdict": Verdict.BOGUS},
    ),
    Removal(
        23,
        f"{SIGNED}::test_nsec_next_name_outside_of_the_zone",
        (("resolver.validate.nsec", "names", _without_bailiwick()),),
    ),
    Removal(
        24,
        f"{SIGNED}::test_child_cannot_deny_its_own_ds",
        (("resolver.validate.chain", "_may_sign", _everything_below),),
        {"nsec3_chain": None},
    ),
    Removal(
        26,
        f"{WALK}::test_a_configured_zone_is_not_denied_by_its_parent_without_dnssec_either",
        (("resolver.cached_replies", "_denies_configured_zone", lambda *_: False),),
    ),
    Removal(
        26,
        f"{WALK}::test_an_alias_brings_nothing_along_for_a_local_name",
        (("resolver.iterate.query_servers", "_stop_at_configured_zone", lambda *_: None),),
    ),
    Removal(
        27,
        f"{HOSTILE}::test_glue_with_unusable_addresses_is_not_queried",
        (("resolver.iterate.delegation", "ip_address", UsableAddress),),
    ),
)


@functools.cache
def module_of(file: str) -> ModuleType:
    """A test file as a module."""
    spec = importlib.util.spec_from_file_location(f"attacks_{Path(file).parent.name}_{Path(file).stem}", TESTS / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("removal", REMOVALS, ids=lambda removal: f"{removal.number}-{removal.test.split('::')[1]}")
def test_without_its_check_the_test_fails(removal: Removal, monkeypatch: pytest.MonkeyPatch) -> None:
    assert removal.test in next(attack.tests for attack in ATTACKS if attack.number == removal.number)
    file, _, name = removal.test.partition("::")
    test = getattr(module_of(file), name)
    test(**removal.arguments)
    for module, attribute, instead in removal.patches:
        place: Any = importlib.import_module(module)
        *path, last = attribute.split(".")
        for step in path:
            place = getattr(place, step)
        monkeypatch.setattr(place, last, instead)
    with pytest.raises(AssertionError):
        test(**removal.arguments)
