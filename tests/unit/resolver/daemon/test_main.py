"""resolverd as a process: output, exit status, serving, reload and stop. The kernel selects the ports."""

import asyncio
import errno
import os
import pwd
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from support.ports import free_port

from resolver import limits
from resolver.daemon import demo, preflight, privileges, sockets, worker
from resolver.daemon.exit_status import EXIT_CONFIG, EXIT_FAILED, EXIT_OK, print_problems
from resolver.daemon.main import _drop_root, main
from resolver.daemon.management_sockets import ManagementSockets
from resolver.daemon.preflight import clock_problem
from resolver.daemon.worker_options import Options
from resolver.settings import IterationSettings, RootServer, Settings
from resolver.wire import consts as c
from resolver.wire import edns
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView

LOC = "52 22 23.000 N 4 53 32.000 E 99999999999m"  # no altitude of 32 bits (RFC 1876 section 2)


COMMAND = [sys.executable, "-m", "resolver.daemon"]
QUIET = "[dnssec]\ntrust-anchors = []\n"
READY = r"worker \d: ready \(process (\d+)\)"


@contextmanager
def daemon(*arguments, command=COMMAND):
    """A running resolverd; its log lines so far are in `.seen`, and `.wait_for` reads on until a pattern matches."""
    # A sanitizer's report of a signal needs more than faulthandler's alternate stack has where signal frames are large.
    sanitizer = os.environ.get("ASAN_OPTIONS", "") + ":handle_segv=0:handle_sigbus=0"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "ASAN_OPTIONS": sanitizer.lstrip(":")}
    process = subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    process.seen = []
    alarm = threading.Timer(30, process.kill)  # a silent daemon must not block the test run
    alarm.start()

    def wait_for(pattern):
        for line in process.stdout:
            process.seen.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"{pattern!r} never came:\n{''.join(process.seen)}")

    process.wait_for = wait_for
    try:
        yield process
    finally:
        alarm.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


def serving_port(process):
    """The port that the log names."""
    return int(process.wait_for(r"serving 127\.0\.0\.1:(\d+)")[1])


def ask(port, name, rtype=c.A, *, tcp=False, rclass=c.IN):
    """One question over UDP or TCP."""
    query = make_query(7, names.from_text(name), rtype, qclass=rclass)
    if tcp:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as stream:
            stream.sendall(len(query).to_bytes(2, "big") + query)
            reply = stream.recv(65535)
            while len(reply) < 2 or len(reply) < 2 + int.from_bytes(reply[:2], "big"):
                reply += stream.recv(65535)
        return MessageView.parse(reply[2:])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(30)
        sock.sendto(query, ("127.0.0.1", port))
        return MessageView.parse(sock.recv(65535))


# --- only looking -------------------------------------------------------------------------------------------------


def test_check_reports_a_valid_configuration(tmp_path, capsys):
    path = tmp_path / "good.toml"
    path.write_text("[cache]\nsize = '8 MiB'\n")
    assert main(["--check", "--config", str(path)]) == EXIT_OK
    assert capsys.readouterr().out == f"{path}: configuration is valid\n"
    assert main(["--check"]) == EXIT_OK


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[cache]\n\nsizze = 1\n", ':3: cache.sizze: unknown key; did you mean "size"?'),
        ("[cache]\nsize = true\n", ":2: cache.size: expected a whole number, got true or false"),
        (
            "[dnssec]\nnegative-trust-anchors = ['a..b']\n",
            ":2: dnssec.negative-trust-anchors[0]: 'a..b' is not a domain name",
        ),
        (
            "[iteration]\ncase-randomisation-exempt = ['good.', '']\n",
            ":2: iteration.case-randomisation-exempt[1]: '' is not a domain name",
        ),
        ("[policy]\nprivate-domains = ['münchen.example']\n", "write it in its xn-- form"),
        ("[policy]\nlocal-zones = ['']\n", "policy.local-zones[0]: '': no zone"),
        ("[policy]\nlocal-data = [\n  'a A 192.0.2.1',\n  'a NONSENSE b',\n]\n", ":4: policy.local-data[1]: "),
        ("[policy]\nlocal-data = ['']\n", ":2: policy.local-data[0]: '': no record"),
        (
            "[cache]\nstale-answer-client-timeout = inf\n",
            ":2: cache.stale-answer-client-timeout: inf is outside 0..30 seconds",
        ),
        (
            "[cache]\nstale-answer-client-timeout = nan\n",
            ":2: cache.stale-answer-client-timeout: nan is outside 0..30 seconds",
        ),
        ("[server]\nupgrade-timeout = 1e308\n", ":2: server.upgrade-timeout: 1e+308 is outside 0.1..3600 seconds"),
        (f"[server]\nworkers = 0x{'F' * 4000}\n", ":2: server.workers: an integer of over 300 digits is outside 1..64"),
        (f"[policy]\nlocal-data = ['a LOC {LOC}']\n", ":2: policy.local-data[0]: "),
        ("[iteration]\nquery-timeout = '0.1 s'\n", ":2: iteration.query-timeout: 0.1 is outside 0.5..60 seconds"),
        ("[cache]\nsize = '900 GiB'\n", ":2: cache.size: 966367641600 is outside"),
        ("[cache]\nsnapshot-file = '/none/cache'\n", ":2: cache.snapshot-file: '/none/cache': its directory does not"),
        ("[cache]\nsnapshot-file = '/'\n", ":2: cache.snapshot-file: '/': it is not a file"),
        ('[cache]\nsnapshot-file = "a\\u0000b"\n', ":2: cache.snapshot-file: 'a\\x00b' is not a file name"),
        ('[control]\nsocket = "a\\u0000b"\n', ":2: control.socket: 'a\\x00b' is not a file name"),
        (f"[cache]\nsnapshot-file = '/{'x' * 300}'\n", ": File name too long"),
        (f"[server]\nlisten = ['[::1]:{'9' * 5000}']\n", "has no usable port (0..65535)"),
        ("[server]\nlisten = []\n", ":2: server.listen: the list is empty"),
        ("[[forward]]\nzone = '.'\n", "zone '.' has no servers"),
        ("[[stub]]\nzone = 'a'\n", "zone 'a' has no servers"),
        ("[policy]\nhosts-files = ['/none']\n", ":2: policy.hosts-files[0]: cannot read '/none'"),
        ("[policy]\nlocal-zones = ['a. odd']\n", ":2: policy.local-zones[0]: 'a. odd': unknown kind"),
        ("[policy]\nlocal-zones = [\n'a.',\n'b..c refuse']\n", ":4: policy.local-zones[1]: 'b..c refuse': 'b..c'"),
        ('[policy]\nlocal-data = [\n"a A 192.0.2.1",\n"a X it\'s"]\n', ":4: policy.local-data[1]: \"a X it's\": "),
        ("[policy]\nlocal-data = ['a X \\']\n", ":2: policy.local-data[0]: 'a X \\\\': "),
        ("[policy.hosts]\n'a.' = '192.0.2.1'\n'b..c' = '192.0.2.2'\n", ':3: policy.hosts."b..c": \'b..c\' is no'),
        (
            "[[forward]]\nzone = 'a'\naddresses = ['192.0.2.1']\n[[stub]]\nzone = 'A.'\naddresses = ['192.0.2.1']\n",
            "zone 'A.' is configured twice",
        ),
        ("[[forward]]\nzone = 'a..b'\naddresses = ['192.0.2.1']\n", ":2: forward[0].zone: 'a..b' is not a domain name"),
    ],
)
def test_check_names_what_is_wrong(tmp_path, capsys, text, expected):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    assert main(["--check", "-c", str(path)]) == EXIT_CONFIG
    said = capsys.readouterr()
    assert expected in said.err and said.out == ""


def test_print_config_shows_the_effective_configuration(tmp_path, capsys):
    path = tmp_path / "a.toml"
    path.write_text("[cache]\nsize = '8 MiB'\n")
    assert (
        main(["-c", str(path), "--print-config", "--port", "5353", "--workers", "2", "--log-level", "debug"]) == EXIT_OK
    )
    text = capsys.readouterr().out
    for line in ('size = "8 MiB"', 'listen = ["127.0.0.1:5353", "[::1]:5353"]', "workers = 2", 'level = "debug"'):
        assert line in text.splitlines()
    assert main(["--listen", "192.0.2.1", "--listen", "[::1]:9", "--print-config"]) == EXIT_OK
    assert 'listen = ["192.0.2.1", "[::1]:9"]' in capsys.readouterr().out


@pytest.mark.parametrize(("text", "expected"), [
    ('[server]\nuser = "no-such-user"\n', ":2: server.user: this system has no user 'no-such-user'"),
    ('[control]\nsocket = "{}/no/ctl"\n', ":2: control.socket: cannot create '{0}/no/ctl': there is no directory"),
    ('[control]\nsocket = "{}/file"\n', ":2: control.socket: cannot create '{0}/file': the path exists and is not"),
    ('[control]\nsocket = "{}/' + "x" * 108 + '"\n', "the path is too long"),
    ('[query-log]\nfile = "{}/no/log"\n', ":2: query-log.file: cannot open '{0}/no/log': there is no directory"),
    ('[query-log]\nfile = "{}"\n', ":2: query-log.file: cannot open '{0}': it is a directory"),
    ('[query-log]\nfile = "{}/socket"\n', ":2: query-log.file: cannot open '{0}/socket': it is a socket; name"),
    ('[server]\nlisten = ["127.0.0.1:9", "[::]:9",\n"0.0.0.0:9"]\n', ":3: server.listen[2]: '0.0.0.0:9' cannot be"),
    ('[server]\nlisten = ["[::ffff:10.0.0.1]:9"]\n', ":2: server.listen[0]: '[::ffff:10.0.0.1]:9' is an IPv4-mapped"),
    ('[server]\nlisten = ["127.0.0.1:9"]\n[metrics]\nlisten = "127.0.0.1:9"\n', ":4: metrics.listen: '127.0.0.1:9' is"),
])
def test_check_refuses_places_that_a_start_refuses(tmp_path, capsys, text, expected):
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "socket"))
    path = tmp_path / "resolverd.toml"
    path.write_text(text.replace("{}", str(tmp_path)))
    assert main(["--check", "-c", str(path)]) == EXIT_CONFIG
    assert expected.replace("{0}", str(tmp_path)) in capsys.readouterr().err


def test_check_creates_neither_socket_nor_query_log(tmp_path):
    path = tmp_path / "resolverd.toml"
    path.write_text(f'[control]\nsocket = "{tmp_path}/ctl"\n[query-log]\nfile = "{tmp_path}/log"\n')
    assert main(["--check", "-c", str(path)]) == EXIT_OK
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_check_has_the_rights_of_the_user_of_a_start(tmp_path, capsys, monkeypatch):
    # The user need not be able to read this checkout.
    monkeypatch.setattr(privileges, "drop_root", lambda user: os.setresuid(*[user.pw_uid] * 3))
    tmp_path.chmod(0o755)
    path = tmp_path / "resolverd.toml"
    with open("/etc/passwd") as file:
        user = next(one.split(":")[0] for one in file if one.split(":")[2] not in ("", "0"))
    text = f'[server]\nuser = "{user}"\n[query-log]\nfile = "{tmp_path}/log"\n'
    path.write_text(text)
    assert main(["--check", "-c", str(path)]) == EXIT_CONFIG
    assert ":4: query-log.file: cannot open" in (said := capsys.readouterr().err) and "user 0 " not in said
    assert os.geteuid() == 0
    path.write_text(text.partition("[query-log]")[0])
    assert main(["--check", "-c", str(path)]) == EXIT_OK


def test_check_reports_the_missing_library_for_metrics(tmp_path, capsys, monkeypatch):
    path = tmp_path / "a.toml"
    path.write_text("[metrics]\nlisten = '127.0.0.1'\n")
    assert main(["--check", "-c", str(path)]) == EXIT_OK
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["--check", "-c", str(path)]) == EXIT_CONFIG
    assert f"{path}:2: metrics.listen: prometheus-client is not installed; run: pip install" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
@pytest.mark.parametrize("arguments", [["--check"], []], ids=["check", "start"])
def test_the_authorities_of_forwarders_are_checked_with_the_configuration(tmp_path, arguments, content):
    path, bundle = tmp_path / "a.toml", tmp_path / "ca.pem"
    path.write_text(
        f"[iteration]\ntls-cert-bundle = '{bundle}'\n[[forward]]\nzone = '.'\n"
        "addresses = ['tls://192.0.2.1#dns.example']\n"
    )
    if content is not None:
        bundle.write_text(content)
    command = [sys.executable, "-m", "resolver.daemon", *arguments, "-c", str(path), "--listen", "127.0.0.1"]
    done = subprocess.run([*command, "--port", "0"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == EXIT_CONFIG
    what = "cannot be read: No such file or directory" if content is None else "cannot be used: "
    assert f"{path}:2: iteration.tls-cert-bundle: '{bundle}': {what}" in done.stderr


LATE = """
import errno, sys
from resolver.daemon.main import main
from resolver.net.stream_listener import StreamListener
async def start(self, sock):
    raise OSError(errno.EADDRINUSE, "Address already in use")
StreamListener.start = start
sys.exit(main(sys.argv[1:]))
"""
"""resolverd beside a program that begins to listen after the sockets of resolverd were bound."""


@pytest.mark.parametrize(("workers", "late"), [("1", False), ("2", False), ("1", True)])
def test_an_address_in_use_at_start_is_named_with_its_setting(tmp_path, workers, late):
    path, port = tmp_path / "a.toml", free_port()
    path.write_text(f"[server]\nlisten = [\n'127.0.0.1:0',\n'127.0.0.1:{port}',\n]\n")
    if late:
        path.write_text(f"[server]\nlisten = [\n\n'127.0.0.1:{port}',\n]\n")
    command = [sys.executable, *(["-c", LATE] if late else ["-m", "resolver.daemon"]), "-c", path, "--workers", workers]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        if not late:
            other.bind(("127.0.0.1", port))
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == EXIT_FAILED, done.stderr
    what = f"cannot serve 127.0.0.1:{port}" if late else f"cannot listen on 127.0.0.1 port {port} (UDP)"
    number = 0 if late else 1
    assert f"{path}:4: server.listen[{number}]: '127.0.0.1:{port}': {what}: Address already in use" in done.stderr


@pytest.mark.parametrize("arguments", [["--print-config"], ["--check"]])
def test_output_that_cannot_be_written(arguments):
    command = [sys.executable, "-m", "resolver.daemon", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "resolverd: cannot write the output: No space left on device\n")
    closed = subprocess.run(f'"{sys.executable}" -m resolver.daemon {arguments[0]} >&-', shell=True,
                            stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (closed.returncode, closed.stderr) == (0, "")


def test_a_wrong_option_is_reported_as_such(tmp_path, capsys):
    path = tmp_path / "a.toml"
    path.write_text("[server]\nlisten = ['127.0.0.1']\n")
    assert main(["--check", "-c", str(path), "--port", "70000"]) == EXIT_CONFIG
    assert capsys.readouterr().err == "resolverd: server.listen: '127.0.0.1:70000' has no usable port (0..65535)\n"


@pytest.mark.parametrize("arguments", [["--port", "70000"], ["--listen", "here"], ["--workers", "0"], ["-c", "/none"],
                                       ["-c", ""]])
def test_wrong_options_have_the_exit_status_of_a_wrong_configuration(capsys, arguments):
    assert main([*arguments, "--check"]) == EXIT_CONFIG
    assert capsys.readouterr().err.startswith("resolverd: ")


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--port", "x"]])
def test_wrong_command_line(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == EXIT_CONFIG
    assert "usage: resolverd" in capsys.readouterr().err


def test_check_reads_the_file_of_trust_anchors(tmp_path, capsys):
    file = tmp_path / "anchors.txt"
    config = tmp_path / "resolverd.toml"
    config.write_text(f'[dnssec]\nauto-trust-anchor-file = "{file}"\n')
    assert main(["--check", "-c", str(config)]) == EXIT_OK
    file.write_text("; trust anchors of resolverd, cut off")
    assert main(["--check", "-c", str(config)]) == EXIT_CONFIG
    assert "auto-trust-anchor-file" in capsys.readouterr().err


@pytest.mark.parametrize(("now", "expected"), [
    (0, "1970-01-01 00:00:00 UTC is before the release of this program"),
    (limits.CLOCK_EARLIEST - 1, "2025-12-31 23:59:59 UTC is before"),
    (limits.CLOCK_EARLIEST, ""),
    (limits.CLOCK_LATEST, "too far in the future"),
])
def test_an_evidently_wrong_clock_is_reported(now, expected):
    found = clock_problem(now)
    assert bool(found) == bool(expected)
    assert expected in found
    assert not found or "timedatectl" in found


# --- serving ------------------------------------------------------------------------------------------------------


def test_start_serve_reload_and_stop(tmp_path):
    config = tmp_path / "resolverd.toml"
    base = f'{QUIET}[server]\nlisten = ["127.0.0.1:0"]\nidentity = "tested"\n'
    config.write_text(base + '[policy.hosts]\n"box.lan" = "192.0.2.1"\n')
    with daemon("-c", str(config)) as process:
        port = serving_port(process)
        process.wait_for("answers are not validated, because there are no trust anchors")
        for tcp in (False, True):
            assert ask(port, "box.lan.", tcp=tcp).answer[0].rdatas() == [b"\xc0\0\2\1"]
        assert ask(port, "x.invalid.").rcode == c.NXDOMAIN
        assert ask(port, "id.server.", c.TXT, rclass=c.CH).answer[0].rdatas() == [b"\6tested"]

        config.write_text(base + '[policy.hosts]\n"box.lan" = "192.0.2.2"\n')
        process.send_signal(signal.SIGHUP)
        process.wait_for("reload: the new configuration is in force")
        for tcp in (False, True):
            assert ask(port, "box.lan.", tcp=tcp).answer[0].rdatas() == [b"\xc0\0\2\2"]

        config.write_text(base + "[cache]\nsizze = 3\n")
        process.send_signal(signal.SIGHUP)
        process.wait_for("cache.sizze: unknown key; did you mean")
        process.wait_for("the old one stays in force")
        assert ask(port, "box.lan.").answer[0].rdatas() == [b"\xc0\0\2\2"]

        config.write_text(base + "[policy]\nlocal-zones = [\n'good. refuse',\n'bad. odd',\n]\n")
        line = config.read_text().splitlines().index("'bad. odd',") + 1
        process.send_signal(signal.SIGHUP)
        process.wait_for(rf"resolverd\.toml:{line}: policy\.local-zones\[1\]: 'bad\. odd': unknown kind")
        process.wait_for("the old one stays in force")

        config.write_text(base + "[cache]\nsize = '1 MiB'\n")
        process.send_signal(signal.SIGHUP)
        process.wait_for("reload: cache.size changed; the new value takes effect after a restart")
        process.wait_for("in force")
        assert ask(port, "localhost.").rcode == c.NOERROR

        process.send_signal(signal.SIGUSR1)
        process.wait_for(r"statistics: slow_path: .*queries=\d")
        process.wait_for(r"statistics: cache: ")

        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == EXIT_OK, "below a second, and the rest for a busy machine"
        process.wait_for("stopping on SIGTERM")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGSEGV, "Fatal Python error: Segmentation fault"),
        (signal.SIGBUS, "Fatal Python error: Bus error"),
        (signal.SIGABRT, "Fatal Python error: Aborted"),
        (signal.SIGXCPU, "Current thread .*most recent call first"),
        (signal.SIGQUIT, "Current thread .*most recent call first"),
    ],
)
def test_every_end_of_the_process_is_logged(number, words):
    with daemon("--listen", "127.0.0.1:0") as process:
        serving_port(process)
        process.send_signal(number)
        process.wait_for(words)
        assert process.wait(timeout=30) == -number


# An unexpected exception in the worker.
BROKEN = """
import sys
import resolver.daemon.worker as worker
from resolver.daemon.main import main

def announce(self):
    raise AssertionError("a fault for the test")

worker._Worker.announce = announce
sys.exit(main())
"""


def test_connections_of_clients_leave_descriptors_for_cold_queries():
    few = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256));" \
          "from resolver.daemon.main import main; sys.exit(main())"
    names = ("www.example.playground.", "example.playground.", "www.dnssec.playground.")
    with daemon("--playground", "--listen", "127.0.0.1:0", command=[sys.executable, "-c", few]) as process:
        process.wait_for("permits 40 connections of clients")
        port = serving_port(process)
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(160)]
        try:
            for name in names:
                assert ask(port, name).rcode in (c.NOERROR, c.NXDOMAIN)
            assert ask(port, names[0], tcp=True).rcode == c.NOERROR, "an idle one makes room"
        finally:
            for client in clients:
                client.close()
        process.terminate()
        assert process.wait(timeout=30) == EXIT_OK


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_limit_of_descriptors_that_is_too_low_is_named(workers):
    few = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8));" \
          "from resolver.daemon.main import main; sys.exit(main())"
    arguments = ("--listen", "127.0.0.1:0", "--workers", workers)
    with daemon(*arguments, command=[sys.executable, "-c", few]) as process:
        process.wait_for(r"level=error .*The limit of open files of this process is 8: raise it \(ulimit -n,"
                         rf" LimitNOFILE= under systemd\)\. {limits.DESCRIPTORS_LEAST} is the least")
        assert process.stdout.read() == "" and process.wait(timeout=30) == EXIT_FAILED


def test_a_lack_of_descriptors_during_the_start_names_limit_and_remedy():
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    hint = f"The limit of open files of this process is {limit}: raise it (ulimit -n, LimitNOFILE= under systemd)."
    lacking = OSError(errno.EMFILE, "Too many open files")
    assert preflight.explain(lacking) == f"Too many open files. {hint}"
    named = sockets._explain("192.0.2.1", 53, socket.SOCK_DGRAM, lacking)
    assert named == f"cannot listen on 192.0.2.1 port 53 (UDP): Too many open files. {hint}"
    assert preflight.explain(OSError(errno.EMFILE, named)) == named, "once"
    assert preflight.explain(OSError(errno.ENOMEM, "no memory")) == "no memory"


def test_an_internal_error_logs_its_traceback():
    command = [sys.executable, "-c", BROKEN]
    with daemon("--listen", "127.0.0.1:0", command=command) as process:
        process.wait_for(r'level=critical .*"stopping after an unexpected exception.*a fault for the test')
        assert process.wait(timeout=30) == EXIT_FAILED
    with daemon("--listen", "127.0.0.1:0", "--workers", "2", command=command) as process:
        process.wait_for(r'level=critical .*worker \d: exiting after an unexpected exception.*a fault for the test')
        process.wait_for(r"start: worker \d ended \(status 1\) before all served; the log says why")
        assert process.wait(timeout=30) == EXIT_FAILED


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("text", "says"), [
    ('[[list]]\nname = "l"\nfile = "/nonexistent/list"\n', r"6: list\[0\]\.file: l: '/nonexistent/list': No such file"),
    ('[policy]\nhosts-files = ["/nonexistent/hosts"]\n', r"5: policy\.hosts-files.*/nonexistent/hosts"),
])
def test_a_wrong_file_is_named_however_many_workers_read_it(tmp_path, workers, text, says):
    path = tmp_path / "resolverd.toml"
    path.write_text(f'[server]\nlisten = ["127.0.0.1:0"]\nworkers = {workers}\n{text}')
    with daemon("--config", str(path)) as process:
        process.wait_for(rf"resolverd: {re.escape(str(path))}:{says}")
        assert process.wait(timeout=30) == EXIT_CONFIG
        assert "traceback" not in "".join(process.seen).lower()


# One of the workers hangs before it is ready, if there is a file "hangs", which it removes.
HANGS = """
import os, signal, sys
import resolver.daemon.worker as worker
from resolver.daemon.main import main

real = worker._Worker.announce

def announce(self):
    try:
        os.unlink("hangs")
    except FileNotFoundError:
        real(self)
    else:
        while True:
            signal.pause()

worker._Worker.announce = announce
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("at_start", [True, False])
def test_a_worker_that_hangs_before_it_is_ready_is_killed(tmp_path, monkeypatch, at_start):
    """At the first start that fails; later it is replaced. The limit is long enough for the worker in its place."""
    monkeypatch.chdir(tmp_path)
    config, hangs = tmp_path / "resolverd.toml", tmp_path / "hangs"
    text = f'{QUIET}[server]\nlisten = ["127.0.0.1:{free_port()}"]\nworkers = 2\nstart-timeout = '
    config.write_text(f"{text}{1 if at_start else 60}\n")
    if at_start:
        hangs.touch()
    with daemon("-c", str(config), command=[sys.executable, "-c", HANGS]) as process:
        if not at_start:
            pids = [int(process.wait_for(READY)[1]) for _ in range(2)]
            config.write_text(f"{text}3\n")
            process.send_signal(signal.SIGHUP)
            for _ in pids:
                process.wait_for("in force")
            hangs.touch()
            os.kill(pids[1], signal.SIGKILL)
            process.wait_for(r"ended \(signal SIGKILL\); starting it again in 0.1 s")
        process.wait_for(r"level=warning .*worker \d: is not ready \d s after its start \(server\.start-timeout\)")
        if at_start:
            process.wait_for(r"start: worker \d ended \(signal SIGKILL\) before all served; the log says why")
            assert process.wait(timeout=30) == EXIT_FAILED
            return
        process.wait_for(r"ended \(signal SIGKILL\); starting it again in 0.2 s")
        again = int(process.wait_for(READY)[1])
        os.kill(again, signal.SIGUSR1)
        process.wait_for(rf"pid={again} .*statistics: process: .*starts=3 start_failures=1")
        process.terminate()
        assert process.wait(timeout=30) == EXIT_OK


# A module that the user of server.user cannot load, when the worker wants it.
UNREADABLE = """
import os, pwd, sys
import resolver.daemon.worker as worker
from resolver.daemon import main, privileges

def announce(self):
    import secret_module

os.geteuid = lambda: pwd.getpwnam("nobody").pw_uid
main._drop_root = lambda name, opened: None
worker._Worker.announce = announce
sys.exit(main.main())
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_user_that_cannot_read_the_program_gets_one_sentence(tmp_path, workers):
    config = tmp_path / "resolverd.toml"
    config.write_text(f'{QUIET}[server]\nlisten = ["127.0.0.1:0"]\nuser = "nobody"\n')
    command = [sys.executable, "-c", UNREADABLE]
    with daemon("--config", str(config), "--workers", workers, command=command) as process:
        process.wait_for("level=error .*server.user: nobody cannot load secret_module .*; install Python and all")
        assert not any("Traceback" in line for line in process.seen)


EARLY = """
import os, signal, sys
from resolver.daemon.entry import main

class Finder:
    def find_spec(self, name, *_):
        if name == "resolver.daemon.main":  # nothing is loaded yet
            os.kill(os.getpid(), signal.{})

sys.meta_path.insert(0, Finder())
sys.exit(main())
"""


def test_an_interruption_during_the_start_ends_it_without_a_traceback():
    done = subprocess.run([sys.executable, "-c", EARLY.format("SIGINT")], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


def test_an_interruption_that_is_ignored_stays_so():
    """As in a background job of a shell without job control."""
    command = "trap '' INT; exec \"$@\""
    done = subprocess.run(["sh", "-c", command, "sh", sys.executable, "-c", EARLY.format("SIGINT"), "--version"],
                          capture_output=True, timeout=60, check=False)
    assert done.returncode == 0 and done.stdout.startswith(b"resolverd ")


def test_a_signal_during_the_start_is_handled_after_it():
    with daemon("--listen", "127.0.0.1:0", command=[sys.executable, "-c", EARLY.format("SIGUSR1")]) as process:
        serving_port(process)
        process.wait_for("statistics: slow_path")


def test_a_reload_may_move_to_another_port(tmp_path):
    config = tmp_path / "resolverd.toml"
    first, second = free_port(), free_port()
    config.write_text(f'{QUIET}[server]\nlisten = ["127.0.0.1:{first}"]\n')
    with daemon("-c", str(config)) as process:
        assert serving_port(process) == first
        config.write_text(f'{QUIET}[server]\nlisten = ["127.0.0.1:{second}"]\n')
        process.send_signal(signal.SIGHUP)
        process.wait_for("in force")
        assert ask(second, "localhost.").rcode == c.NOERROR
        assert ask(second, "localhost.", tcp=True).rcode == c.NOERROR
        with pytest.raises(ConnectionRefusedError):
            ask(first, "localhost.", tcp=True)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", first))
            config.write_text(f'{QUIET}[server]\nlisten = ["127.0.0.1:{first}"]\n')
            process.send_signal(signal.SIGHUP)
            process.wait_for("Address already in use.*the old configuration stays in force")
        assert ask(second, "localhost.").rcode == c.NOERROR


@pytest.mark.slow
def test_several_workers_share_the_port_and_are_restarted(tmp_path):
    config = tmp_path / "resolverd.toml"
    port = free_port()
    config.write_text(f'{QUIET}[server]\nlisten = ["127.0.0.1:{port}"]\nworkers = 2\n')
    with daemon("-c", str(config)) as process:
        pids = {int(process.wait_for(READY)[1]) for _ in range(2)}
        assert len(pids) == 2 and process.pid not in pids
        assert all(ask(port, "localhost.").rcode == c.NOERROR for _ in range(10))
        os.kill(min(pids), signal.SIGKILL)
        process.wait_for(r"ended \(signal SIGKILL\); starting it again")
        again = int(process.wait_for(READY)[1])
        assert again not in pids
        assert all(ask(port, "localhost.").rcode == c.NOERROR for _ in range(10))
        process.send_signal(signal.SIGHUP)
        for _ in range(2):
            process.wait_for("in force")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == EXIT_OK
        for pid in {*pids, again}:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


def write_two(config, port, number, extra=""):
    """Settings of two workers that know box.lan as 192.0.2.`number`."""
    config.write_text(f"""{QUIET}[server]
listen = ["127.0.0.1:{port}"]
workers = 2
[policy.hosts]
"box.lan" = "192.0.2.{number}"
{extra}""")


def addresses(port):
    """The addresses of box.lan, queried from enough ports to reach every worker."""
    return {ask(port, "box.lan.").answer[0].rdata(0)[3] for _ in range(30)}


@pytest.mark.slow
def test_several_workers_reload_together_with_those_started_later(tmp_path):
    config = tmp_path / "resolverd.toml"
    port = free_port()
    write_two(config, port, 1)
    with daemon("-c", str(config)) as process:
        pids = {int(process.wait_for(READY)[1]) for _ in range(2)}
        write_two(config, port, 2)
        process.send_signal(signal.SIGHUP)
        for _ in range(2):
            process.wait_for("in force")
        assert addresses(port) == {2}
        write_two(config, port, 3, "[nonsense]")
        process.send_signal(signal.SIGHUP)
        process.wait_for("nonsense")
        process.wait_for("the old one stays in force")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            process.wait_for(r"ended \(signal SIGKILL\); starting it again")
            process.wait_for(READY)
        assert addresses(port) == {2}
        assert sum("nonsense" in line for line in process.seen) == 1


@pytest.mark.slow
def test_a_restarted_worker_has_the_active_configuration(tmp_path):
    config = tmp_path / "resolverd.toml"
    port = free_port()
    write_two(config, port, 1, '[cache]\nsize = "1 MiB"')
    with daemon("-c", str(config)) as process:
        first, second = sorted(int(process.wait_for(READY)[1]) for _ in range(2))
        os.kill(second, signal.SIGSTOP)
        write_two(config, port, 2, '"late.lan" = "192.0.2.9"\n[cache]\nsize = "2 MiB"')
        process.send_signal(signal.SIGHUP)
        process.wait_for(rf"pid={first} .*cache.size changed")  # it has prepared, and waits for the other
        process.send_signal(signal.SIGSTOP)
        os.kill(second, signal.SIGCONT)
        for _ in range(2):
            process.wait_for("the new configuration is in force")
        write_two(config, port, 3, "[nonsense]")
        os.kill(first, signal.SIGKILL)
        process.send_signal(signal.SIGCONT)
        process.wait_for("starting it again in")
        process.wait_for(READY)
        os.kill(second, signal.SIGKILL)
        process.wait_for("starting it again in")
        process.wait_for(READY)
        assert ask(port, "late.lan.").answer[0].rdata(0)[3] == 9  # not queried before, so not cached
        assert not any("nonsense" in line for line in process.seen)


@pytest.mark.slow
def test_a_reload_is_repeated_when_the_first_worker_dies(tmp_path):
    config = tmp_path / "resolverd.toml"
    port = free_port()
    write_two(config, port, 1, '[cache]\nsize = "1 MiB"')
    with daemon("-c", str(config)) as process:
        first, second = sorted(int(process.wait_for(READY)[1]) for _ in range(2))
        os.kill(second, signal.SIGSTOP)
        write_two(config, port, 2, '[cache]\nsize = "2 MiB"')
        process.send_signal(signal.SIGHUP)
        process.wait_for(rf"pid={first} .*cache.size changed")  # it has prepared, and waits for the other
        os.kill(first, signal.SIGKILL)
        process.wait_for("starting it again in")
        process.wait_for(READY)
        os.kill(second, signal.SIGCONT)
        for _ in range(2):
            process.wait_for("the new configuration is in force")
        assert addresses(port) == {2}


def test_workers_exit_when_their_supervisor_has_died(tmp_path):
    port = free_port()
    with daemon("--listen", f"127.0.0.1:{port}", "--workers", "2") as process:
        pids = [int(process.wait_for(READY)[1]) for _ in range(2)]
        process.kill()
        for _ in pids:
            process.wait_for("stopping on exit of the supervisor")


@pytest.mark.slow
def test_workers_killed_together_repeatedly_are_restarted():
    port = free_port()
    with daemon("--listen", f"127.0.0.1:{port}", "--workers", "4") as process:
        for _ in range(2):
            pids = [int(process.wait_for(READY)[1]) for _ in range(4)]
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            for _ in pids:
                process.wait_for(r"ended \(signal SIGKILL\); starting it again")
        for _ in range(4):
            process.wait_for(READY)
        assert process.poll() is None
        process.terminate()
        assert process.wait(timeout=30) == EXIT_OK


@pytest.mark.slow
def test_a_taken_port_is_explained():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for workers in ("1", "2"):
            with daemon("--listen", f"127.0.0.1:{port}", "--workers", workers) as process:
                said = process.wait_for("cannot listen")[0] and process.seen[-1]
                assert f"127.0.0.1 port {port} (TCP): Address already in use" in said
                assert f"ss -ltnp 'sport = :{port}'" in said and "--port" in said
                assert process.wait(timeout=30) == EXIT_FAILED


def test_the_playground_answers_without_a_network():
    with daemon("--playground", "--show-example", "--listen", "127.0.0.1:0", "--workers", "2") as process:
        process.wait_for("server.workers is reduced to 1")
        port = serving_port(process)
        process.wait_for(r"^www\.example\.playground\. 3600 IN A 127\.20\.80\.1")
        process.wait_for(rf"^;; Query time: \d+ ms, server 127\.0\.0\.1:{port}")
        process.wait_for(f"^Try it: dig @127.0.0.1 -p {port} www.example.playground")
        assert ask(port, "www.example.playground.").answer[0].rdatas() == [bytes([127, 20, 80, 1])]


def test_bogus_data_is_one_line_in_the_log_and_an_extended_error_in_each_reply(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("[log]\nrate-limit-interval = 3600\n")  # the same is not said again, however slow this machine is
    with daemon("--playground", "--listen", "127.0.0.1:0", "-c", str(path)) as process:
        port = serving_port(process)
        for _ in range(3):
            reply = ask(port, "www.expired.dnssec.playground.")
            (code, told), = [edns.parse_ede(value) for code, value in reply.edns.options if code == c.OPTION_EDE]
            assert (reply.rcode, code) == (c.SERVFAIL, c.EDE_SIGNATURE_EXPIRED)
            assert "the signature expired" in told
        process.terminate()
        assert process.wait(timeout=30) == EXIT_OK
        said = [line for line in (*process.seen, *process.stdout) if "SERVFAIL for" in line]
    assert len(said) == 1
    assert "www.expired.dnssec.playground. A: " in said[0] and "the signature expired" in said[0]


def test_the_playground_changes_no_files_and_says_so(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(f"[cache]\nsnapshot-file = '{tmp_path / 'cache'}'\n")
    with daemon("--playground", "--listen", "127.0.0.1:0", "-c", str(path)) as process:
        process.wait_for("playground: cache.snapshot-file and")
        serving_port(process)
        process.terminate()
        assert process.wait(timeout=30) == EXIT_OK
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def root_server():
    """A loopback socket that answers like a root server, or not at all."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        yield sock


def probing(sock, answer):
    """`demo.root_servers_reachable` with hints that lead to `sock`."""

    async def main():
        loop = asyncio.get_running_loop()

        def reply():
            query, peer = sock.recvfrom(512)
            sock.sendto(b"rubbish", peer)
            sock.sendto(query[:2] + b"\x84" + query[3:], peer)

        if answer:
            loop.add_reader(sock, reply)
        iteration = IterationSettings(upstream_port=sock.getsockname()[1])
        settings = Settings(iteration=iteration, root_hints=(RootServer("k.", ("127.0.0.1",)),))
        try:
            return await demo.root_servers_reachable(settings)
        finally:
            loop.remove_reader(sock)

    return asyncio.run(main())


def test_root_servers_that_answer_are_noticed(root_server):
    assert probing(root_server, True) is True


def test_silent_root_servers_are_noticed(root_server, monkeypatch):
    monkeypatch.setattr(limits, "PROBE", 20)
    assert probing(root_server, False) is False


def test_without_a_route_the_root_check_does_not_wait():
    # The query would wait for longer than the test may take.
    assert asyncio.run(demo.ask([("255.255.255.255", 53)], ".", c.NS, 3600.0)) is None


def test_the_start_does_not_load_modules_for_queries():
    code = (
        "import sys\n"
        "from resolver.daemon import worker, supervisor, sockets, log, config\n"
        "from resolver.daemon.main import main\n"
        "print([name for name in ('dns', 'cryptography', 'prometheus_client', 'idna') if name in sys.modules])\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize(("text", "expected"), [
    ('[[zone]]\nname = "e."\nfile = "{}/missing"\n', ":3: zone[0].file: '{}/missing': No such file"),
    ('[[zone]]\nname = "e.test."\nfile = "{}/zone"\n', "zone:3: "),
    ('[zones]\ndirectory = "{}/missing"\n[[zone]]\nname = "e."\nprimaries = ["192.0.2.1"]\n',
     ":2: zones.directory: '{}/missing' does not exist"),
    ('[zones]\ndirectory = "{}/zone"\n[[zone]]\nname = "e."\nprimaries = ["192.0.2.1"]\n',
     ":2: zones.directory: '{}/zone' is not a directory"),
])
def test_check_reads_zones(tmp_path, capsys, text, expected):
    (tmp_path / "zone").write_text("$TTL 300\n@ SOA ns host 7 3600 600 86400 60\n@ A 192.0.2.x\n")
    config = tmp_path / "resolverd.toml"
    config.write_text(text.replace("{}", str(tmp_path)))
    assert main(["--check", "--config", str(config)]) == EXIT_CONFIG
    assert expected.replace("{}", str(tmp_path)) in capsys.readouterr().err


def test_check_reads_the_files_of_the_second_level_cache(tmp_path, capsys):
    file = tmp_path / "resolverd.toml"
    file.write_text('[second-level-cache]\nservers = ["127.0.0.1"]\nsecret-file = "/nonexistent/secret"\n')
    assert main(["--config", str(file), "--check"]) == EXIT_CONFIG
    said = capsys.readouterr().err
    assert f"{file}:3: second-level-cache.secret-file: cannot read '/nonexistent/secret'" in said


@pytest.mark.parametrize(("effective", "warned"), [(pwd.getpwnam("nobody").pw_uid, False), (12345, True)])
def test_a_user_that_this_process_cannot_become_is_told(caplog, monkeypatch, effective, warned):
    """As after an upgrade with another server.user: the new process has no rights of root."""
    monkeypatch.setattr(os, "geteuid", lambda: effective)
    _drop_root("nobody", ManagementSockets())
    told = [record.getMessage() for record in caplog.records]
    assert told == (["server.user: this process is not root, so it remains user 12345 and does not become nobody: stop"
                     " it, and start it as root or as that user"] if warned else [])


def test_threads_give_the_interpreter_back_to_the_loop_soon(monkeypatch):
    """With Python's default of 5 ms, each system call of a loop that serves beside a reading thread takes that long."""
    intervals = []

    async def main(self):
        intervals.append(sys.getswitchinterval())
        return 7

    monkeypatch.setattr(worker._Worker, "main", main)
    before = sys.getswitchinterval()
    try:
        assert worker.run(Settings(), [], reload=Settings, options=Options()) == 7
    finally:
        sys.setswitchinterval(before)
    assert intervals == [limits.THREAD_SWITCH / 1_000_000] and intervals[0] < before


def test_an_error_of_the_environment_is_not_one_of_the_file(tmp_path, capsys):
    path = tmp_path / "resolverd.toml"
    path.write_text("")
    print_problems(str(path), ValueError("environment variable LISTEN_FDS: 'x' is not a number"))
    assert capsys.readouterr().err == "resolverd: environment variable LISTEN_FDS: 'x' is not a number\n"


def test_the_name_of_a_file_does_not_command_a_terminal(tmp_path, capsys):
    assert main(["--check", "-c", str(tmp_path / "a\x1b[2J")]) == EXIT_CONFIG
    assert "\x1b" not in (said := capsys.readouterr().err) and "a\\027[2J: cannot read" in said
