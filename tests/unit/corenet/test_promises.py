"""Which test keeps which promise: traps that loops fall into, why people leave a loop, asyncio's whole interface.

A promise without a test, or with one that was renamed or deleted, fails here. ``file::test`` names are relative to the
folder of tests; a file alone stands for all that is in it.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

TESTS = Path(__file__).resolve().parents[2]
LOOP = "unit/corenet/loop"
CORE = "unit/corenet/core"
TRANSPORTS = "unit/corenet/transports"
TLS = "unit/corenet/tls/test_transport.py"
HANDSHAKES = "unit/corenet/tls/test_handshake.py"
STRESS = "integration/test_loop_stress.py"

#: Correctness traps: what goes wrong in loops, and the tests that would see it here.
TRAPS: dict[str, list[str]] = {
    "hang-up before data": [f"{TRANSPORTS}/test_stream.py::test_data_before_reset_or_eof_is_not_lost"],
    "a hang-up cannot be masked": [
        f"{TRANSPORTS}/test_stream.py::test_a_dead_peer_of_a_paused_reader_causes_no_busy_loop",
        f"{STRESS}::test_paused_readers_with_dead_peers_do_not_spin",
        f"{CORE}/test_poller.py::test_hangups_are_reported_without_a_request",
    ],
    "the hang-up is forgotten": [f"{STRESS}::test_paused_readers_with_dead_peers_do_not_spin"],
    "one busy descriptor starves others": [
        f"{TRANSPORTS}/test_stream.py::test_one_fast_peer_does_not_starve_another",
        f"{STRESS}::test_a_flood_starves_neither_others_nor_timers",
        f"{CORE}/test_engine.py::test_chain_of_callbacks_does_not_starve_descriptors",
    ],
    "lost wake-up of edge triggers": [
        f"{CORE}/test_poller.py::test_edge_triggered_events_report_only_new_data",
        f"{TRANSPORTS}/test_stream.py::test_a_buffered_protocol_and_a_change_of_protocol",
        f"{LOOP}/test_services.py::test_start_tls",
    ],
    "cancelled connect or handshake": [
        f"{STRESS}::test_cancelled_connects_cross_no_answers",
        f"{STRESS}::test_cancelled_handshakes_cross_no_answers",
        f"{LOOP}/test_happy_eyeballs.py::test_cancelled_connect_leaves_no_descriptor",
        f"{HANDSHAKES}::test_a_cancelled_handshake_leaves_no_connection",
    ],
    "stale event of a number used again": [
        f"{CORE}/test_poller.py::test_events_of_a_reused_descriptor_are_dropped",
        f"{CORE}/test_engine.py::test_reader_removed_in_the_same_batch_is_not_called",
        f"{LOOP}/test_descriptors.py::test_transports_on_numbers_reused_within_a_batch",
    ],
    "descriptor closed behind the loop's back": [
        f"{CORE}/test_poller.py::test_descriptor_closed_without_unwatch",
        f"{LOOP}/test_descriptors.py::test_a_reused_number_is_registered_again",
        f"{LOOP}/test_descriptors.py::test_a_duplicate_causes_no_busy_loop",
    ],
    "fork": [f"{LOOP}/test_forking.py"],
    "EMFILE on accept": [
        f"{TRANSPORTS}/test_listener.py::test_the_listener_pauses_while_descriptors_are_exhausted",
        f"{STRESS}::test_descriptors_run_out_again_and_again",
    ],
    "flood of connections": [f"{TRANSPORTS}/test_listener.py::test_a_burst_of_connections"],
    "thundering herd": [f"{CORE}/test_poller.py::test_exclusive_wakes_one_of_two_pollers"],
    "TLS close": [
        f"{TLS}::test_close_sends_everything_first",
        f"{TLS}::test_written_data_is_sent_after_close_notify_of_a_peer_that_still_reads",
        f"{TLS}::test_a_silent_peer_is_disconnected_after_the_shutdown_timeout",
        f"{TLS}::test_close_of_a_flooded_transport_is_quick_and_quiet",
    ],
    "TLS handshake": [f"{HANDSHAKES}::test_handshake_timeout", f"{STRESS}::test_waiting_handshakes_hold_nothing"],
    "TLS cycles": [f"{TLS}::test_no_cycle_outlives_a_connection"],
    "memory of the write queue": [
        f"{TRANSPORTS}/test_stream.py::test_order_of_many_small_and_large_writes",
        f"{TRANSPORTS}/test_stream.py::test_large_transfer_pauses_and_resumes_the_writer",
    ],
    "mutable data in the queue": [
        f"{TRANSPORTS}/test_stream.py::test_queued_mutable_data_is_copied",
        f"{TLS}::test_mutable_data_may_change_after_write",
    ],
    "watermarks": [f"{TRANSPORTS}/test_stream.py::test_watermarks"],
    "cancelled timers": [
        f"{CORE}/test_timers.py::test_cancel_removes_the_timer_at_once_and_releases_the_callback",
        f"{STRESS}::test_timers_set_and_cancelled",
        f"{STRESS}::test_timeouts_around_every_operation",
    ],
    "rounding of timers": [
        f"{LOOP}/test_loop.py::test_timers_are_not_early_and_keep_order",
        f"{LOOP}/test_loop.py::test_sub_millisecond_sleeps_are_short",
    ],
    "signals while in C": [
        f"{LOOP}/test_services.py::test_interrupt_ends_an_idle_program",
        f"{LOOP}/test_services.py::test_handlers_of_signal_signal_run_while_the_loop_waits",
        f"{LOOP}/test_signals.py::test_signals_are_handled_after_a_flood",
        f"{LOOP}/test_signals.py::test_system_calls_are_restarted",
    ],
    "BaseException in callbacks": [
        f"{LOOP}/test_loop.py::test_system_exit_and_keyboard_interrupt_leave_the_loop",
        f"{LOOP}/test_signals.py::test_a_handler_that_raises_exit_ends_the_loop",
    ],
    "call_soon_threadsafe": [
        f"{LOOP}/test_descriptors.py::test_no_wake_up_is_lost_between_threads",
        f"{LOOP}/test_descriptors.py::test_calls_after_the_close_are_refused",
        f"{CORE}/test_engine.py::test_inbox_wakes_a_sleeping_engine_once_and_keeps_order",
    ],
    "context": [f"{LOOP}/test_contexts.py"],
    "reference cycles": [
        f"{TRANSPORTS}/test_stream.py::test_transports_are_freed_without_the_collector",
        f"{LOOP}/test_loop.py::test_closed_loops_are_freed_without_the_collector",
        f"{CORE}/test_counters.py::test_nothing_outlives_its_loop",
    ],
    "life of the loop": [
        f"{LOOP}/test_loop.py::test_closing_leaves_no_descriptors",
        f"{LOOP}/test_loop.py::test_a_closed_loop_refuses_calls",
        f"{STRESS}::test_loops_made_and_closed",
    ],
    "datagrams": [
        f"{TRANSPORTS}/test_datagram.py::test_sizes_and_families",
        f"{TRANSPORTS}/test_datagram.py::test_empty_datagram_is_data",
        f"{TRANSPORTS}/test_datagram.py::test_refused_port_is_an_error_of_the_datagram",
        f"{TRANSPORTS}/test_datagram.py::test_burst_keeps_order",
    ],
    "subprocesses": [f"{LOOP}/test_children.py"],
    "shortcut of getaddrinfo": [
        f"{LOOP}/test_happy_eyeballs.py::test_numeric_hosts_are_resolved_as_by_socket_getaddrinfo"
    ],
    "debug checks": [f"{LOOP}/test_loop.py::test_debug_mode"],
    "subinterpreters": [f"{LOOP}/test_forking.py::test_subinterpreters_are_refused_with_an_import_error"],
}

#: What makes people leave a loop, in the order of how much it hurts; what is about speed stands in benchmarks.
PAINS: dict[str, list[str]] = {
    "answers to the wrong request": [f"{STRESS}::test_cancelled_connects_cross_no_answers"],
    "crashes and aborts": [f"{LOOP}/test_wrong_arguments.py", "fuzz/target_loop_api.py", "leaks.py", "sanitized.py"],
    "sendfile": [f"{LOOP}/test_services.py::test_sendfile", "conformance/asyncio/test_stdlib.py"],
    "sock_sendto, sock_recvfrom": [f"{LOOP}/test_services.py::test_sock_datagrams"],
    "happy eyeballs": [f"{LOOP}/test_happy_eyeballs.py"],
    "TLS close does not close": [f"{TLS}::test_close_of_a_flooded_transport_is_quick_and_quiet"],
    "TLS memory": [f"{TLS}::test_no_cycle_outlives_a_connection"],
    "write at once": [f"{TRANSPORTS}/test_stream.py::test_writes_of_a_protocol_callback_are_sent_together"],
    "eager_start in factories": [
        f"{LOOP}/test_interface.py::test_a_plain_factory_gets_only_the_given_keywords",
        f"{LOOP}/test_interface.py::test_eager_tasks",
    ],
    "isinstance and extra information": [
        f"{LOOP}/test_serving.py::test_extra_information_of_streams",
        f"{LOOP}/test_serving.py::test_extra_information_of_other_transports",
    ],
    "subprocess": [
        f"{LOOP}/test_children.py::test_stdin_is_a_real_pipe",
        f"{LOOP}/test_children.py::test_at_fork_hooks_do_not_run_in_children",
        f"{LOOP}/test_children.py::test_keywords_of_popen_are_passed_on",
        f"{LOOP}/test_children.py::test_a_handler_for_sigchld_is_called",
    ],
    "Ctrl-C": [f"{LOOP}/test_signals.py::test_ctrl_c_of_a_runner_cancels_the_main_task"],
    "datagram families": [
        f"{TRANSPORTS}/test_datagram.py::test_netlink_socket",
        f"{TRANSPORTS}/test_datagram.py::test_unix_datagrams",
    ],
    "early timers": [f"{LOOP}/test_loop.py::test_timers_are_not_early_and_keep_order"],
    "changed data is sent": [f"{TRANSPORTS}/test_stream.py::test_queued_mutable_data_is_copied"],
    "write after close": [f"{TRANSPORTS}/test_stream.py::test_writes_after_the_end_are_ignored"],
    "nothing to look at": [f"{LOOP}/test_statistics.py"],
    "typing": [f"{LOOP}/test_interface.py::test_nothing_of_this_version_is_missing"],
    "write pressure": [f"{TRANSPORTS}/test_stream.py::test_order_of_many_small_and_large_writes"],
    "the same descriptor twice": [f"{TRANSPORTS}/test_pipe.py::test_two_transports_on_one_pipe"],
    "policies go away": [f"{LOOP}/test_loop.py::test_the_public_functions_create_and_run_our_loop"],
}

#: asyncio's interface, row by row: each a plain yes.
INTERFACE: dict[str, list[str]] = {
    "run, stop, close": [f"{LOOP}/test_loop.py::test_stop_completes_the_current_iteration"],
    "asynchronous generators": [f"{LOOP}/test_loop.py::test_asynchronous_generators_are_shut_down"],
    "shutdown_default_executor(timeout)": [f"{LOOP}/test_interface.py::test_executor_shutdown_timeout"],
    "call_soon, call_later, call_at": [f"{LOOP}/test_loop.py::test_order_of_callbacks_readers_and_timers"],
    "handles": [f"{CORE}/test_engine.py::test_handle_repr_and_arguments", f"{CORE}/test_timers.py"],
    "create_task": [f"{LOOP}/test_interface.py::test_task_names_and_contexts"],
    "executors": [f"{LOOP}/test_interface.py::test_executor_runs_and_is_joined"],
    "names": [f"{LOOP}/test_services.py::test_names_are_looked_up_by_the_resolver_that_was_set"],
    "create_connection": [f"{LOOP}/test_happy_eyeballs.py", f"{LOOP}/test_connecting.py"],
    "create_server": [f"{LOOP}/test_serving.py"],
    "keep_alive": [f"{LOOP}/test_serving.py::test_keep_alive"],
    "Server": [f"{LOOP}/test_serving.py::test_serve_forever"],
    "close_clients, abort_clients": [f"{LOOP}/test_serving.py::test_close_and_abort_clients"],
    "connect_accepted_socket": [f"{LOOP}/test_happy_eyeballs.py::test_accepted_socket_becomes_a_transport"],
    "Unix sockets, cleanup_socket": [f"{LOOP}/test_serving.py::test_cleanup_socket"],
    "create_datagram_endpoint": [f"{TRANSPORTS}/test_datagram.py::test_unconnected_and_connected"],
    "sock_*": [f"{LOOP}/test_services.py::test_sock_operations"],
    "sendfile": [f"{LOOP}/test_services.py::test_sendfile"],
    "start_tls": [f"{LOOP}/test_services.py::test_start_tls"],
    "TLS timeouts": [
        f"{HANDSHAKES}::test_handshake_timeout",
        f"{TLS}::test_a_silent_peer_is_disconnected_after_the_shutdown_timeout",
    ],
    "add_reader, add_writer": [f"{LOOP}/test_interface.py::test_descriptors_as_numbers_and_objects"],
    "signals": [f"{LOOP}/test_signals.py"],
    "subprocesses": [f"{LOOP}/test_children.py"],
    "pipes": [f"{TRANSPORTS}/test_pipe.py"],
    "exception handlers": [f"{LOOP}/test_reports.py"],
    "debug mode": [f"{LOOP}/test_loop.py::test_debug_mode"],
    "context variables": [f"{LOOP}/test_contexts.py"],
    "extra information": [f"{LOOP}/test_serving.py::test_extra_information_of_streams"],
    "BufferedProtocol": [f"{TRANSPORTS}/test_stream.py::test_a_buffered_protocol_and_a_change_of_protocol"],
    "flow control": [f"{TRANSPORTS}/test_stream.py::test_watermarks"],
    "half-close": [f"{TRANSPORTS}/test_stream.py::test_half_close"],
    "TCP_NODELAY": [f"{LOOP}/test_serving.py::test_extra_information_of_streams"],
    "fork": [f"{LOOP}/test_forking.py::test_no_loop_runs_in_the_child_and_a_new_one_works"],
    "subinterpreters": [f"{LOOP}/test_forking.py::test_subinterpreters_are_refused_with_an_import_error"],
    "CPython's own tests": ["conformance/asyncio/test_stdlib.py::test_module"],
}


@cache
def named_in(path: Path) -> frozenset[str]:
    """The names of the test functions of a file."""
    tree = ast.parse(path.read_text())
    return frozenset(
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


@pytest.mark.parametrize("table", [TRAPS, PAINS, INTERFACE], ids=["traps", "pains", "interface"])
def test_every_promise_has_existing_tests(table: dict[str, list[str]]) -> None:
    missing = []
    for promise, names in table.items():
        assert names, f"{promise}: no test"
        for name in names:
            file, _, test = name.partition("::")
            path = TESTS / file
            if not path.is_file() or (test and test not in named_in(path)):
                missing.append(f"{promise}: {name}")
    assert not missing, "\n".join(missing)
