"""CPython's own tests of asyncio, on asyncio's loop and on ours in the same run: no failure that asyncio does not have.

Whole modules of ``test.test_asyncio`` are run, as they come with the interpreter under test, by child.py in a process
of its own, the two loops side by side. What is left out looks inside the standard selector loop, replaces modules
under it, or calls its private methods; it stands in `EXCLUDED` with the reason and, where there is public behaviour
behind it, the test of ours that covers it. A name that this version does not have is ignored.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]

#: module: which of its tests, and how many of them make a loop of ours at least, so that nothing is left out unseen.
MODULES: dict[str, tuple[str, int]] = {
    "test_base_events": ("", 40),
    "test_buffered_proto": ("", 1),
    "test_context": ("", 1),
    "test_eager_task_factory": ("", 20),
    "test_events": ("", 70),
    "test_free_threading": ("", 1),
    "test_futures2": ("", 2),
    "test_locks": ("", 30),
    "test_queues": ("", 20),
    "test_runners": ("", 0),
    "test_sendfile": ("", 15),
    "test_server": ("", 2),
    "test_sock_lowlevel": ("", 10),
    "test_ssl": ("", 15),
    "test_sslproto": ("", 10),
    "test_staggered": ("", 1),
    "test_streams": ("", 50),
    "test_subprocess": ("", 40),
    "test_taskgroups": ("", 20),
    "test_tasks": ("", 100),
    "test_threads": ("", 5),
    "test_timeouts": ("", 20),
    "test_unix_events": ("", 20),
    "test_waitfor": ("", 10),
}

NO_LOOP = "makes no loop of ours: mocks, or loops of its own with a simulated clock"
OTHERS = "other kinds of loop"
#: module: why it is not run. One that is neither here nor above fails the tests.
LEFT_OUT: dict[str, str] = {
    "test_futures": NO_LOOP,
    "test_graph": "frames of tasks, whatever loop they run on (Python 3.14 and later)",
    "test_pep492": NO_LOOP,
    "test_proactor_events": OTHERS,
    "test_protocols": NO_LOOP,
    "test_selector_events": "the selector loop's own classes, on mocks",
    "test_tools": "a command that reads the memory of another process (Python 3.14 and later)",
    "test_transports": NO_LOOP,
    "test_windows_events": OTHERS,
    "test_windows_utils": OTHERS,
}

INSIDE = "reads or replaces private parts of the selector loop"
REPLACED = "replaces the socket module inside asyncio.base_events or asyncio.unix_events"

#: test, or Class.test, or a whole Class: why it is not run.
EXCLUDED: dict[str, str] = {
    # test_events
    "test_internal_fds": f"{INSIDE}: the self-pipe",
    "test_prompt_cancellation": f"{INSIDE}: _stop_serving; test_services.py has it by public means",
    "test_timeout_rounding": f"{INSIDE}: counts calls of _run_once, which here runs until the loop is stopped",
    "test_unclosed_pipe_transport": "silences the destructor through the private _pipe; test_pipe.py has it",
    # test_ssl
    "test_remote_shutdown_receives_trailing_data": f"{INSIDE}: _test__append_write_backlog; tls has it as a twin test",
    "test_remote_shutdown_receives_trailing_data_on_slow_socket": f"{INSIDE}: _test__append_write_backlog",
    # test_sslproto, Python 3.14 and later
    "test_connection_lost_when_busy": "writes through asyncio's own SSLProtocol to a mock without a descriptor",
    "test_create_connection_ssl_failed_certificate_no_cycles": (
        "waits for connection_made of asyncio's own SSLProtocol; test_handshake.py has it"
    ),
    # test_subprocess, Python 3.14 and later
    "test_watcher_implementation": f"{INSIDE}: _watcher; every child has a pidfd",
    "test_pid_not_reaped_before_exit_published": f"{INSIDE}: _watcher._threads; the loop's own thread reaps by pidfd",
    # test_subprocess, Python 3.11 and 3.12
    "test_create_subprocess_fails_with_inactive_watcher": "child watchers are not asked: every child has a pidfd",
    # test_base_events
    "test_accept_connection_exception": f"{INSIDE}: _accept_connection; test_listener.py has it",
    "test_accept_connection_retry": f"{INSIDE}: _accept_connection; test_listener.py has it",
    "test_create_connection_bluetooth": f"{INSIDE}: expects any host to pass as an address because _ensure_resolved is",
    "test_create_connection_happy_eyeballs_empty_exceptions": "replaces asyncio's staggered_race, which is not used",
    "test_create_datagram_endpoint_no_addrinfo": f"{REPLACED}",
    "test_create_server_nosoreuseport": f"{REPLACED}: takes SO_REUSEPORT away, which Linux has",
    "test_create_server_soreuseport_only_defined": f"{REPLACED}: takes SO_REUSEPORT away, which Linux has",
    "test_log_slow_callbacks": f"{INSIDE}: _run_once on a handle made by hand; test_loop.py has it",
    # test_unix_events
    "SelectorEventLoopSignalTests": f"{INSIDE}: _signal_handlers, _csock, asyncio.unix_events.signal; test_signals.py",
    "SelectorEventLoopUnixSockSendfileTests": f"{INSIDE}: _sock_sendfile_native_impl; test_sendfile has it",
    "test_create_unix_server_bind_error": f"{REPLACED}; test_serving.py has it",
}
if sys.version_info < (3, 13):
    # Later ones connect.
    EXCLUDED["test_wait_closed_basic"] = f"{INSIDE}: Server._attach and _detach; test_serving.py has it"
    EXCLUDED["test_wait_closed_race"] = f"{INSIDE}: Server._attach and _detach; test_serving.py has it"

#: Of classes that are left out, the tests that use what is public.
RUN_ALL_THE_SAME = (
    "SelectorEventLoopSignalTests.test_add_signal_handler_coroutine_error",
    "SelectorEventLoopSignalTests.test_remove_signal_handler_cleanup_error",
    "SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_iobuffer",
    "SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_not_a_file",
    "SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_not_regular_file",
)


def run_both(module: str, only: str, directory: Path, *, skip: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """The outcomes of one module on asyncio and on corenet."""
    found: list[dict[str, Any]] = []
    children = []
    for loop in ("asyncio", "corenet"):
        out = directory / f"{loop}.json"
        log = directory / f"{loop}.log"
        command = [sys.executable, str(HERE / "child.py"), "--loop", loop, "--out", str(out), "--only", only,
                   "--skip", ",".join(EXCLUDED if skip else ()), "--keep", ",".join(RUN_ALL_THE_SAME), module]
        environment = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT)), "PYTHONHASHSEED": "0"}
        environment.pop("PYTHONASYNCIODEBUG", None)
        with log.open("wb") as file:
            # A pipe for standard output: tests put a mock, whose fileno is 1, where a socket is expected.
            child = subprocess.Popen(
                command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=file
            )
        children.append((child, out, log))
    for child, out, log in children:
        said, _ = child.communicate(timeout=300)
        text = (said + log.read_bytes()).decode(errors="replace")
        assert child.returncode == 0 and out.exists(), f"{log.name}: exit {child.returncode}\n{text[-4000:]}"
        found.append(json.loads(out.read_text()))
    return found[0], found[1]


@pytest.mark.limit(660)  # two processes, each of which ends itself after four minutes
@pytest.mark.parametrize("module", MODULES)
def test_module(module: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("test.test_asyncio") is None:
        pytest.skip("this interpreter was installed without the test package")
    if importlib.util.find_spec(f"test.test_asyncio.{module}") is None:
        return
    only, at_least = MODULES[module]
    standard, ours = run_both(module, only, tmp_path)
    assert ours and standard.keys() == ours.keys()
    worse = []
    for name, outcome in ours.items():
        before = standard[name]
        if outcome["outcome"] != "ok" and outcome["outcome"] != before["outcome"]:
            worse.append(f"{name}: {before['outcome']} on asyncio, {outcome['outcome']} here\n{outcome['text']}")
    left_here = [text for outcome in ours.values() for text in outcome["resources"]]
    left_there = [text for outcome in standard.values() for text in outcome["resources"]]
    if len(left_here) > len(left_there):
        worse.append(f"left open here: {left_here}\nleft open on asyncio: {left_there}")
    assert not worse, "\n".join(worse)
    on_ours = sum(1 for outcome in ours.values() if outcome["loops"])
    assert on_ours >= at_least, f"only {on_ours} tests made a loop of ours"


def test_every_module_is_run_or_left_out_for_a_reason() -> None:
    package = importlib.util.find_spec("test.test_asyncio")
    if package is None or package.submodule_search_locations is None:
        pytest.skip("this interpreter was installed without the test package")
    (folder,) = package.submodule_search_locations
    assert {path.stem for path in Path(folder).glob("test_*.py")} <= MODULES.keys() | LEFT_OUT.keys()


@pytest.mark.limit(660)
def test_nothing_is_left_out_that_passes(tmp_path: Path) -> None:
    """A test that asyncio passes and we pass, too, needs no reason any more."""
    left = set(EXCLUDED)
    passing = []
    for module in ("test_base_events", "test_events", "test_server", "test_unix_events"):
        names = "|".join(left)
        standard, ours = run_both(module, rf"(\.|^)({names})(\.|$)", tmp_path, skip=False)
        passing += [
            name for name, outcome in ours.items()
            if outcome["outcome"] == standard[name]["outcome"] == "ok" and not name.endswith(RUN_ALL_THE_SAME)
        ]
    assert not passing
