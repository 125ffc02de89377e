"""The control socket: requests, replies and bounds, and resolverctl as its client."""

import asyncio
import contextlib
import errno
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest
from support.http_peer import run_on

from resolver import playground
from resolver.api import Resolver, make_store
from resolver.cli import control as tool
from resolver.daemon import control as control_module
from resolver.daemon.change_keeper import FleetChange
from resolver.daemon.control import ControlCommands, ControlServer, RequestError, parse_request
from resolver.daemon.management_sockets import ManagementSockets, open_management_sockets
from resolver.daemon.observation import Observation
from resolver.daemon.runtime_changes import RuntimeChanges
from resolver.daemon.sockets import ListenError
from resolver.daemon.worker_commands import WorkerCommands, merge
from resolver.daemon.worker_management import WorkerManagement
from resolver.observe import ClientCounters
from resolver.settings import (
    CacheSettings,
    ControlSettings,
    ForwardZone,
    IterationSettings,
    MetricsSettings,
    Settings,
    replace,
)
from resolver.wire import consts as c
from resolver.wire import name as names

WWW = names.from_text("www.example.playground.")


class Counters:
    def __init__(self, **counters):
        self.counters = counters

        self.observed = ClientCounters()
        self.zone_server = None

    def statistics(self):
        return self.counters

    def count_clients(self):
        return {"queries": {"udp.A": 4}, "replies": {"udp.NOERROR": 4}}

    def hit_latency(self):
        return {"0.0001": 4, "sum": 0.0}


class Serving:
    """The running configuration, with made-up counters of the listeners."""

    def __init__(self, settings, store):
        self.settings = settings
        self.resolver = Resolver(settings, store=store)
        self.lists = None
        self.balance = None
        self.hook_modules = None
        self.observation = Observation(settings, self.resolver.zones)
        self.rates = Counters()
        self.rates.buckets = object()
        self.service = Counters(queries=3, pending=1)
        self.fast = Counters(hits=4, malformed={-3: 2})


class Upgrades:
    """Of a worker whose upgrades have the given result."""

    def __init__(self):
        self.running = False
        self.result = 4711

    async def perform(self):
        if isinstance(self.result, str):
            raise ValueError(self.result)
        return self.result


class Reloads:
    """Of a worker whose reloads have the given result."""

    problem = ""

    async def perform(self):
        return self.problem


class Worker:
    """The first worker without its listeners."""

    number = 0
    channels = None
    rollover = None
    keeper = None
    closing_outputs = ()
    kept = None
    changes = RuntimeChanges()
    change_keeper = None
    watching = SimpleNamespace(watchers=0)

    def __init__(self, settings):
        self.store = make_store(settings)
        self.current = Serving(settings, self.store)
        self.configurations = [self.current]
        self.past = {"resolution": {"submitted": 10}, "clients": {"queries": {"udp.A": 20}}}
        self.reloads = Reloads()
        self.preparation = SimpleNamespace(awaiting_restart=())
        self.upgrades = Upgrades()

    def usage(self):
        return {"usage": {"items": {"jobs": 1}}}

    def keep_counters(self, statistics):
        """It has no successor."""

    def connections(self):
        return {"client_tcp": {"accepted": 2, "rejected": 1}}

    def staple_expiry(self):
        return {}

    def staples_missing(self):
        return {}

    def certificate_expiry(self):
        return {"/etc/dns.pem": 1_800_000_000}


class Room:
    """A control server on a socket in `path`, in front of a resolver in the playground."""

    def __init__(self, path):
        self.path = str(path / "control")
        self.settings = Settings(
            cache=CacheSettings(size=1 << 20, snapshot_file=str(path / "cache.bin")), control=ControlSettings(self.path)
        )

    @contextlib.asynccontextmanager
    async def open(self):
        async with await playground.start(port=0) as world:
            self.worker = Worker(world.settings(self.settings))
            self.worker.current.resolver.open(asyncio.get_running_loop())
            management = open_management_sockets(self.settings, 1)
            server = self.server = ControlServer(ControlCommands(self.worker, WorkerCommands(self.worker)))
            try:
                await server.start(management.control.dup())
                yield self
            finally:
                server.close()
                management.close()
                self.worker.current.resolver.close()

    async def ask(self, **request):
        """The lines of text, and the result; an error is raised as ValueError."""
        reader, writer = await asyncio.open_unix_connection(self.path)
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            lines = []
            while True:
                message = json.loads(await reader.readline())
                if "text" in message:
                    lines.append(message["text"])
                elif message["ok"]:
                    return lines, message["result"]
                else:
                    raise ValueError(message["error"])
        finally:
            writer.close()


@pytest.fixture(params=["corenet", "asyncio"])
def serving(request, tmp_path):
    """Run a test with a served control socket, on both loops."""

    def runner(test):
        async def main():
            async with Room(tmp_path).open() as opened:
                await test(opened)

        run_on(request.param, main())

    return runner


# --- requests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "not a line of JSON"),
        (b"flush", "not a line of JSON"),
        (b"\xff\xfe", "not a line of JSON"),
        (b"[" * 100_000, "not a line of JSON"),
        (b"[]", "an object"),
        (b"{}", "an object"),
        (b'{"command": 7}', "an object"),
        (b'{"command": "explode"}', "known commands: status"),
        (b'{"command": "status", "name": "x"}', "status has no 'name'"),
        (b'{"command": "log"}', "log needs 'level'"),
        (b'{"command": "log", "level": 7}', "must be a str"),
        (b'{"command": "flush"}', 'either a "name" or "all"'),
        (b'{"command": "flush", "name": "x", "all": true}', 'either a "name" or "all"'),
        (b'{"command": "flush", "name": "x", "type": "A", "subtree": true}', "not both"),
        (b'{"command": "flush", "all": true, "type": "A"}', "neither a type"),
        (b'{"command": "flush", "all": true, "subtree": true}', "neither a type"),
    ],
)
def test_invalid_requests_get_an_error(line, words):
    with pytest.raises(RequestError, match=words):
        parse_request(line)


def test_valid_requests_are_accepted():
    assert parse_request(b'{"command": "trace", "name": "x", "type": "A"}') == {
        "command": "trace", "name": "x", "type": "A"
    }


# --- commands -----------------------------------------------------------------------------------------------------


def test_status_and_statistics(serving):
    async def test(opened):
        _, status = await opened.ask(command="status")
        assert status["workers"][0]["queries"] == 7
        assert status["cache"]["entries_rrset"] == 0
        await opened.worker.current.resolver.resolve("www.example.playground")
        _, found = await opened.ask(command="statistics")
        assert found["resolution"]["submitted"] == 11 and found["cache"]["entries_rrset"] > 0
        assert found["fast_path"]["malformed"] == {"-3": 2}
        assert found["client_tcp"] == {"accepted": 2, "rejected": 1}
        assert found["clients"]["queries"]["udp.A"] == 24, "those of configurations replaced, and of the fast path"
        assert found["client_latency"]["hit"]["0.0001"] == 4 and found["usage"]["items"] == {"jobs": 1}
        assert opened.worker.past["clients"] == {"queries": {"udp.A": 20}}, "collecting changes nothing"

    serving(test)


def test_flush(serving):
    async def test(opened):
        resolver = opened.worker.current.resolver
        find = lambda: opened.worker.store.rrsets.find(WWW, c.A, resolver.clock.time())  # noqa: E731

        for request in (
            {"name": "WWW.example.playground"},
            {"name": "www.example.playground.", "type": "A"},
            {"name": "playground", "subtree": True},
            {"all": True},
        ):
            await resolver.resolve("www.example.playground")
            assert find() is not None
            _, result = await opened.ask(command="flush", **request)
            assert result["entries"] >= 1 and find() is None
        await resolver.resolve("www.example.playground")
        await opened.ask(command="flush", name="www.example.playground", type="AAAA")
        await opened.ask(command="flush", name="example.playground")
        assert find() is not None
        with pytest.raises(ValueError, match="label"):
            await opened.ask(command="flush", name="a..b")
        with pytest.raises(ValueError, match="NOTYPE"):
            await opened.ask(command="flush", name="a", type="NOTYPE")
        with pytest.raises(ValueError, match="no second-level cache"):
            await opened.ask(command="flush", name="a", fleet=True)

    serving(test)


def test_dump(serving):
    async def test(opened):
        resolver = opened.worker.current.resolver
        await resolver.resolve("www.example.playground")
        await resolver.resolve("nothing.example.playground")
        lines, _ = await opened.ask(command="dump")
        kept = re.compile(r"www\.example\.playground\. (3600|35\d\d) IN A 127\.20\.80\.1")  # real seconds pass
        assert sum(kept.fullmatch(line) is not None for line in lines) == 1
        assert any(line.startswith("; nothing.example.playground. ") and "has no data" in line for line in lines)
        below, _ = await opened.ask(command="dump", name="WWW.example.playground")
        assert len(below) == 1 and kept.fullmatch(below[0])
        with pytest.raises(ValueError, match="label"):
            await opened.ask(command="dump", name="a..b")

    serving(test)


def test_save_and_load(serving):
    async def test(opened):
        with pytest.raises(ValueError, match="cannot read"):
            await opened.ask(command="load")
        await opened.worker.current.resolver.resolve("www.example.playground")
        _, saved = await opened.ask(command="save")
        assert saved["bytes"] > 100
        await opened.ask(command="flush", all=True)
        _, loaded = await opened.ask(command="load")
        assert loaded["entries"] > 0
        assert opened.worker.store.rrsets.find(WWW, c.A, opened.worker.current.resolver.clock.time()) is not None

    serving(test)


@pytest.mark.parametrize("command", ["save", "load"])
def test_the_cache_file_without_a_thread(serving, monkeypatch, command):
    async def none_left(*_):
        raise OSError(errno.EAGAIN, "the system gives no thread")

    async def test(opened):
        monkeypatch.setattr(control_module, "in_thread", none_left)
        with pytest.raises(ValueError, match="the system gives no thread"):
            await opened.ask(command=command)

    serving(test)


def test_a_list_that_cannot_be_used_is_a_problem(serving):
    async def test(opened):
        opened.worker.current.lists = SimpleNamespace(problems=lambda: ["list ads: refused"], close=lambda: None)
        _, found = await opened.ask(command="health")
        opened.worker.current.lists = None
        assert found == {"healthy": False, "problems": ["list ads: refused"]}

    serving(test)


def test_without_a_file_there_is_nothing_to_save(serving):
    async def test(opened):
        settings = opened.worker.current.settings
        opened.worker.current.settings = replace(settings, cache=replace(settings.cache, snapshot_file=""))
        for command in ("save", "load"):
            with pytest.raises(ValueError, match="snapshot-file is not set"):
                await opened.ask(command=command)

    serving(test)


def test_trace_has_every_step(serving):
    async def test(opened):
        lines, _ = await opened.ask(command="trace", name="www.example.playground")
        assert any("ask: " in line for line in lines)
        assert lines[-1] == "www.example.playground. 3600 IN A 127.20.80.1"
        lines, _ = await opened.ask(command="trace", name="nothing.example.playground", type="MX")
        assert any(line.startswith("result: NXDOMAIN") for line in lines)
        with pytest.raises(ValueError, match="label"):
            await opened.ask(command="trace", name="a..b")

    serving(test)


def test_reload_reports_errors(serving):
    async def test(opened):
        assert await opened.ask(command="reload") == ([], {"awaiting_restart": []})
        opened.worker.preparation.awaiting_restart = ("cache.size",)
        assert await opened.ask(command="reload") == ([], {"awaiting_restart": ["cache.size"]})
        opened.worker.reloads.problem = "resolverd.toml:3: server.listen: wrong"
        with pytest.raises(ValueError, match="toml:3"):
            await opened.ask(command="reload")

    serving(test)


def test_an_upgrade_tells_its_result_and_refuses_other_changes(serving):
    async def test(opened):
        upgrades = opened.worker.upgrades
        assert await opened.ask(command="upgrade") == ([], {"pid": 4711})
        upgrades.result = "the new process 4712 was refused: server.listen: wrong"
        with pytest.raises(ValueError, match=r"4712 was refused: server\.listen: wrong"):
            await opened.ask(command="upgrade")
        upgrades.running = True
        for request in ({"command": "flush", "all": True}, {"command": "flush", "name": "a."}, {"command": "load"}):
            with pytest.raises(ValueError, match="an upgrade is in progress: try again when it has ended"):
                await opened.ask(**request)

    serving(test)


def test_the_socket_file_outlives_a_worker(serving):
    """It is the daemon's: the next worker serves it again."""

    async def test(opened):
        before = os.lstat(opened.path)
        opened.server.close()
        await asyncio.sleep(0)
        assert os.path.samestat(os.lstat(opened.path), before)

    serving(test)


def test_the_log_level(serving, caplog):
    async def test(opened):
        import logging

        before = logging.getLogger().level
        try:
            _, result = await opened.ask(command="log", level="error")
            assert result == {"level": "error"} and logging.getLogger().level == logging.ERROR
            with pytest.raises(ValueError, match="not one of debug"):
                await opened.ask(command="log", level="loud")
        finally:
            logging.getLogger().setLevel(before)

    serving(test)


# --- the socket ---------------------------------------------------------------------------------------------------


def test_several_requests_on_one_connection(serving):
    async def test(opened):
        reader, writer = await asyncio.open_unix_connection(opened.path)
        for request in (b'{"command": "nonsense"}\n', b'{"command": "status"}\n'):
            writer.write(request)
        assert json.loads(await reader.readline())["ok"] is False
        assert json.loads(await reader.readline())["ok"] is True
        writer.close()

    serving(test)


@pytest.mark.parametrize("seconds", ["-1", "0", "nan", "inf", "1e9"])
def test_the_timeout_is_bounded(seconds, capsys):
    assert tool.main(["-s", "/none", "-t", seconds, "status"]) == tool.EXIT_USAGE
    assert "is not above 0 and up to 86400 seconds" in capsys.readouterr().err


def test_output_that_cannot_be_written(tmp_path):
    path = str(tmp_path / "control")
    with socket.create_server(path, family=socket.AF_UNIX) as listening:

        def serve():
            for _ in range(2):
                with listening.accept()[0] as connection:
                    connection.recv(4096)
                    connection.sendall(b'{"ok": true, "result": {"level": "info"}}\n')

        thread = threading.Thread(target=serve)
        thread.start()
        command = [sys.executable, "-m", "resolver.cli.control", "-s", path, "log", "info"]
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
        closed = subprocess.run(
            " ".join(command) + " >&-", shell=True, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
        thread.join()
    assert (done.returncode, done.stderr) == (1, "resolverctl: cannot write the output: No space left on device\n")
    assert (closed.returncode, closed.stderr) == (0, "")


def test_a_reply_ends_when_its_client_disconnects():
    ended = []

    class Endless:
        async def perform(self, request):
            try:
                while True:
                    yield "line"
            finally:
                ended.append(request["command"])

    class Gone:
        def write(self, data): ...

        async def drain(self):
            raise ConnectionResetError

    async def main():
        reader = asyncio.StreamReader()
        reader.feed_data(b'{"command": "dump"}\n')
        with pytest.raises(ConnectionResetError):
            await ControlServer(Endless())._answer(reader, Gone())
        assert ended == ["dump"]

    asyncio.run(main())


def test_an_endless_request_is_refused(serving):
    async def test(opened):
        reader, writer = await asyncio.open_unix_connection(opened.path)
        writer.write(b"x" * (control_module.REQUEST + 1000))
        assert "longer than" in json.loads(await reader.readline())["error"]
        assert await reader.read() == b""
        writer.close()

    serving(test)


def test_an_idle_client_is_disconnected(serving, monkeypatch):
    monkeypatch.setattr(control_module, "TIMEOUT", 0.02)

    async def test(opened):
        reader, writer = await asyncio.open_unix_connection(opened.path)
        writer.write(b'{"command": ')
        assert await reader.read() == b""
        writer.close()

    serving(test)


def test_more_connections_than_permitted(serving, monkeypatch):
    monkeypatch.setattr(control_module, "CONNECTIONS", 2)

    async def test(opened):
        async def ask(reader, writer):
            writer.write(b'{"command": "status"}\n')
            return json.loads(await reader.readline())

        first, second = [await asyncio.open_unix_connection(opened.path) for _ in range(2)]
        assert (await ask(*second))["ok"] and (await ask(*first))["ok"]
        # A request that is sent in part holds no place: the one that has waited longest goes.
        second[1].write(b'{"command": ')
        third = await asyncio.open_unix_connection(opened.path)
        assert "too many" in (await ask(*second))["error"] and await second[0].read() == b""
        assert (await ask(*first))["ok"] and (await ask(*third))["ok"]
        for _, writer in (first, second, third):
            writer.close()

    serving(test)


# --- the socket ---------------------------------------------------------------------------------------------------


def test_only_the_owner_may_open_it(tmp_path):
    management = open_management_sockets(Settings(control=ControlSettings(str(tmp_path / "s"))), 1)
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
    management.close()
    assert not (tmp_path / "s").exists()


def test_only_configured_sockets_are_opened():
    management = open_management_sockets(Settings(), 1)
    assert (management.control, management.metrics, management.channels) == (None, None, None)
    management.close()


def test_socket_files_of_a_dead_daemon_are_replaced(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    management = open_management_sockets(Settings(control=ControlSettings(path)), 1)
    with pytest.raises(ListenError, match="another daemon uses it"):
        open_management_sockets(Settings(control=ControlSettings(path)), 1)
    assert (tmp_path / "s").exists()
    management.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [("file", "not a socket"), ("no/such/directory", "No such file"), ("x" * 200, "too long")],
)
def test_impossible_paths_are_refused(tmp_path, name, words):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ListenError, match=words):
        open_management_sockets(Settings(control=ControlSettings(str(tmp_path / name))), 1)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_metrics_port_that_is_taken(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = Settings(control=ControlSettings(str(tmp_path / "s")), metrics=MetricsSettings(where))
        with pytest.raises(ListenError, match="for metrics"):
            open_management_sockets(settings, 1)
    assert not (tmp_path / "s").exists(), "what was opened before is closed again"


@pytest.mark.parametrize(("name", "words"), [
    ("control", "cannot listen on {path} for control: Address already in use; see control.socket"),
    ("metrics", "cannot listen on 127.0.0.1:9335 for metrics: Address already in use; see metrics.listen"),
    ("web", "cannot listen on 127.0.0.1:9336 for web: Address already in use; see web.listen"),
])
def test_a_socket_that_cannot_listen_is_named(tmp_path, name, words):
    """Binding succeeds while another socket is bound and not listening; `listen` fails when that one was first."""
    async def refuse(self, listening):
        raise OSError(errno.EADDRINUSE, "Address already in use")

    management = ManagementSockets()
    management.path, management.metrics_listen, management.web_listen = "path", "127.0.0.1:9335", "127.0.0.1:9336"
    with socket.socket() as one:
        setattr(management, name, one)
        host = SimpleNamespace(options=SimpleNamespace(management=management))
        servers = WorkerManagement(host)
        servers.servers[name] = SimpleNamespace(started=False, start=partial(refuse, None))
        with pytest.raises(ListenError) as caught:
            asyncio.run(servers.accept())
    assert caught.value.strerror == words.format(path="path") and caught.value.errno == errno.EADDRINUSE


def test_a_replaced_socket_file_is_not_removed_at_stop(tmp_path):
    path = tmp_path / "s"
    management = open_management_sockets(Settings(control=ControlSettings(str(path))), 1)
    path.unlink()
    path.write_text("new")
    management.close()
    assert path.read_text() == "new"


# --- several workers ----------------------------------------------------------------------------------------------


def test_counters_of_workers_are_summed_except_those_of_the_shared_cache():
    one = {"slow_path": {"queries": 2}, "fast_path": {"malformed": {"a": 1}},
           "cache": {"hits_answer": 3, "entries_rrset": 9, "memory_servers": 10}}
    two = {"slow_path": {"queries": 5}, "fast_path": {"malformed": {"a": 2, "b": 1}},
           "cache": {"hits_answer": 4, "entries_rrset": 9, "memory_servers": 20}}
    assert merge([one, two]) == {
        "slow_path": {"queries": 7}, "fast_path": {"malformed": {"a": 3, "b": 1}},
        "cache": {"hits_answer": 7, "entries_rrset": 9, "memory_servers": 30},
    }


# --- resolverctl --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        (["status"], {"command": "status"}),
        (["flush", "x"], {"command": "flush", "name": "x"}),
        (["flush", "x", "A"], {"command": "flush", "name": "x", "type": "A"}),
        (["flush", "x", "--subtree"], {"command": "flush", "name": "x", "subtree": True}),
        (["flush", "--all"], {"command": "flush", "all": True}),
        (["dump"], {"command": "dump"}),
        (["trace", "x", "--no-validation"], {"command": "trace", "name": "x", "type": "A", "validate": False}),
        (["log", "debug"], {"command": "log", "level": "debug"}),
    ],
)
def test_command_lines_become_requests_the_daemon_takes(words, request_):
    made = tool.request_of(tool.parser().parse_args(words))
    assert made == request_
    assert parse_request(json.dumps(made).encode()) == request_


@pytest.mark.parametrize("words", [["flush"], ["flush", "x", "--all"], ["flush", "x", "A", "--subtree"], ["status"]])
def test_invalid_command_lines_are_refused(words, capsys, monkeypatch):
    monkeypatch.delenv(tool.VARIABLE, raising=False)
    assert tool.main(words) == tool.EXIT_USAGE
    assert capsys.readouterr().err.startswith("resolverctl: ")


def serve_once(path, *lines):
    """A thread that accepts one request on `path` and replies with `lines`."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()

    def run():
        with listening, listening.accept()[0] as connection:
            connection.recv(4096)
            connection.sendall(b"".join(lines))

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("lines", "code", "out", "err"),
    [
        ([b'{"text": "a"}\n', b'{"ok": true, "result": {}}\n'], tool.EXIT_DONE, "a\n", ""),
        ([b'{"ok": false, "error": "no"}\n'], tool.EXIT_REFUSED, "", "resolverctl: no\n"),
        ([b'{"text": "\\u001b[2J"}\n', b'{"ok": false, "error": "a\\u001b\\nb"}\n'], tool.EXIT_REFUSED, "\\027[2J\n",
         "resolverctl: a\\027\nb\n"),
        ([], tool.EXIT_UNREACHABLE, "", "without a result"),
        ([b'{"text": '], tool.EXIT_UNREACHABLE, "", "middle of a line"),
        ([b"HTTP/1.1 400\r\n"], tool.EXIT_UNREACHABLE, "", "not of a resolverd"),
        ([b"[]\n"], tool.EXIT_UNREACHABLE, "", "not of a resolverd"),
    ],
)
def test_the_reply_decides_the_exit_status(tmp_path, capsys, lines, code, out, err):
    path = str(tmp_path / "s")
    thread = serve_once(path, *lines)
    assert tool.main(["-s", path, "dump"]) == code
    thread.join()
    captured = capsys.readouterr()
    assert captured.out == out and err in captured.err


def test_what_the_locale_cannot_represent_is_escaped(tmp_path):
    """And text of others cannot command the terminal."""
    path = str(tmp_path / "s")
    reason = "St\xf6rung\n\x1b[2J\udcff"
    change = {"name": "a.", "values": [], "reason": reason, "check": True, "first": False, "left": 60}
    result = {"kind": "nta", "changes": [change], "configured": [], "error": ""}
    thread = serve_once(path, json.dumps({"ok": True, "result": result}).encode() + b"\n")
    done = subprocess.run([sys.executable, "-m", "resolver.cli.control", "-s", path, "nta", "list"], check=False,
                          capture_output=True, timeout=60, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    thread.join()
    assert (done.stdout, done.stderr) == (b"a.: 1 min left (St\\xf6rung\\010\\027[2J\\56575)\n", b"")


def test_a_configuration_is_printed_in_the_encoding_in_which_it_is_read(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("[server]\nidentity = '\xf6'\n", encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "resolver.daemon", "-c", path, "--print-config"], check=True,
                          capture_output=True, timeout=60, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert 'identity = "\xf6"' in done.stdout.decode("utf-8")


def test_a_path_that_is_no_socket_is_named_as_such(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    for path, why in ((str(file), "it is not a socket"), (str(tmp_path / ("x" * 200)), "path too long")):
        assert tool.main(["-s", path, "status"]) == tool.EXIT_UNREACHABLE
        said = capsys.readouterr().err
        assert said.startswith(f"resolverctl: {path!r}: ") and why in said


def test_an_upgrade_without_a_result_may_be_in_progress(tmp_path, capsys):
    """The worker that was asked has ended, but the supervisor does the upgrade."""
    path = str(tmp_path / "s")
    thread = serve_once(path)
    assert tool.main(["-s", path, "upgrade"]) == tool.EXIT_UNREACHABLE
    thread.join()
    assert "may still be in progress" in capsys.readouterr().err


def test_an_absent_daemon_is_an_error(tmp_path, capsys):
    assert tool.main(["-s", str(tmp_path / "s"), "status"]) == tool.EXIT_UNREACHABLE
    assert "is the daemon running" in capsys.readouterr().err
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    assert tool.main(["-s", str(tmp_path / "s"), "status"]) == tool.EXIT_UNREACHABLE
    assert "has exited" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (3600, "1 h"), (90061, "1 d 1 h"), (725, "12 min 5 s")]
)
def test_durations_as_text(seconds, text):
    assert tool.duration(seconds) == text


def test_anchors_without_a_file_give_a_reason(serving):
    async def check(opened):
        with pytest.raises(ValueError, match="auto-trust-anchor-file is not set"):
            await opened.ask(command="anchors")
        with pytest.raises(ValueError, match="unknown command"):
            await opened.ask(command="take-anchors", text="")

    serving(check)


@pytest.mark.parametrize(("prefix", "reached"), [("", "192.0.2.7"), ("64:ff9b::/96", "64:ff9b::c000:207")])
def test_configured_servers_are_shown_with_what_is_known_of_the_path(prefix, reached):
    settings = Settings(cache=CacheSettings(size=1 << 20), iteration=IterationSettings(nat64_prefix=prefix),
                        forward=(ForwardZone("corp.example.", ("192.0.2.7",)),))
    store = make_store(settings)
    store.servers.note_reply((reached, 53), names.from_text("corp.example."), 0.25, time.monotonic())
    commands = WorkerCommands(SimpleNamespace(store=store, current=SimpleNamespace(settings=settings)))
    [found] = commands._servers({})["servers"]
    assert found["server"] == "192.0.2.7" and found["seconds"] is not None


def test_lists_are_shown_with_their_state(serving):
    async def test(opened):
        assert await opened.ask(command="lists") == ([], {"lists": []})

    serving(test)


def test_lists_as_text():
    lists = [{"name": "ads", "entries": 7, "left_out": 1, "unsupported": 3, "age": 61, "error": "no route"},
             {"name": "rpz.example", "entries": 2, "left_out": 0, "unsupported": 0, "age": None, "error": ""}]
    assert list(tool.list_lines({"lists": lists})) == [
        "ads: 7 entries, 1 left out, 3 rules without effect, fetched or confirmed 1 min 1 s ago; error: no route",
        "rpz.example: 2 entries"]
    assert list(tool.list_lines({"lists": []})) == ["no lists are configured"]


def test_anchors_as_text():
    zone = {
        "zone": ".", "last_probe": 5, "last_success": 0, "next_probe": 86400, "error": "no reply", "trusted": True,
        "keys": [],
    }
    keys = [
        {"tag": 7, "algorithm": 13, "state": "valid", "since": 60, "until": 0},
        {"tag": 8, "algorithm": 8, "state": "addpend", "since": 60, "until": 120},
    ]
    gone = {**zone, "zone": "example.", "error": "", "trusted": False, "keys": keys}
    lines = list(tool.anchor_lines({"file": "/x", "error": "cannot write", "zones": [zone, gone]}))
    assert lines == [
        "file /x; error: cannot write",
        "zone .: last success never, next probe 1970-01-02 00:00:00 UTC; last probe failed: no reply",
        "  configured anchors, not probed yet",
        "zone example., not a trust anchor because all keys are revoked: last success never,"
        " next probe 1970-01-02 00:00:00 UTC",
        "  key 7, algorithm 13: valid since 1970-01-01 00:01:00 UTC",
        "  key 8, algorithm 8: addpend since 1970-01-01 00:01:00 UTC, hold-down ends 1970-01-01 00:02:00 UTC",
    ]


class Told:
    """A second-level cache that takes messages to the fleet, or says why not."""

    def __init__(self, trouble="", secret=True):
        self.trouble, self.secret = trouble, secret
        self.sent = []

    def check_message(self, kind):
        if not self.secret:
            raise ValueError(f"{kind} needs a secret")

    def publish(self, kind, fields):
        if self.trouble:
            raise ValueError(self.trouble)
        self.sent.append((kind, fields))


def test_a_change_for_the_fleet_is_made_here_first_and_told_by_the_new_configuration(serving):
    async def test(room):
        made, old, new = [], Told(), Told()
        real, resolver = room.worker.current.resolver, SimpleNamespace(second_level=None)
        room.worker.current.resolver = resolver

        async def perform(request):
            made.append(request["name"])
            resolver.second_level = new
            return {"changes": made}

        room.worker.change_keeper = SimpleNamespace(
            perform=perform, fleet_message=lambda request: FleetChange("nta-add", {"name": request["name"]}))
        change = {"command": "change", "kind": "nta", "action": "add", "name": "a.test", "fleet": True}
        with pytest.raises(ValueError, match="no second-level cache"):
            await room.ask(**change)
        resolver.second_level = Told(secret=False)
        with pytest.raises(ValueError, match="needs a secret"):
            await room.ask(**change)
        assert made == []
        resolver.second_level = old
        await room.ask(**change)
        assert (made, old.sent, new.sent) == (["a.test"], [], [("nta-add", {"name": "a.test"})])
        new.trouble = "it cannot be reached"
        with pytest.raises(ValueError, match="in force here, and other resolvers are not told: it cannot be reached"):
            await room.ask(**change)
        await room.ask(**{**change, "fleet": False})
        assert made == ["a.test"] * 3
        room.worker.current.resolver = real

    serving(test)
