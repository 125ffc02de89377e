"""A reload is all or nothing: whatever fails before the switch leaves the old settings, sockets and descriptors."""

import asyncio
import contextlib
import errno
import gc
import itertools
import os
import pickle
import re
import resource
import select
import signal
import socket
import ssl
import threading
import weakref
from types import SimpleNamespace

import pytest
from support.certs import Authority
from support.cycles import left_in_cycles
from support.http_peer import run_on
from support.ports import free_port
from support.service_parts import Sink

from corenet.serving.processes import WorkerSlot
from resolver import limits
from resolver.api import Resolver, make_store
from resolver.cache import Store
from resolver.daemon import (
    config,
    list_updates,
    reload_sockets,
    replaced_configs,
    runtime_config,
    sockets,
    supervisor,
    worker_reload,
)
from resolver.daemon import worker as module
from resolver.daemon.change_keeper import ChangeKeeper
from resolver.daemon.config_reload import align_workers, merge_restart_only
from resolver.daemon.management_sockets import ManagementSockets, open_management_sockets
from resolver.daemon.runtime_changes import RuntimeChanges, make_change
from resolver.daemon.runtime_config import Listeners, RuntimeConfig
from resolver.daemon.service_manager import ServiceManager
from resolver.daemon.sockets import open_endpoints
from resolver.daemon.worker_ipc import NO_RELOAD, RELOAD_BEGINS, ReloadChannel, WorkerError
from resolver.daemon.worker_options import Options
from resolver.log_limit import LimitedWarning
from resolver.mesh import Mesh
from resolver.net.encryption_probing import Outcome
from resolver.net.in_thread import in_thread
from resolver.net.stream_listener import StreamListener
from resolver.net.udp_listener import UdpListener
from resolver.settings import ControlSettings, Settings, replace
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView

BOX = '[dnssec]\ntrust-anchors = []\n[cache]\nsize = "1 MiB"\n[policy.hosts]\n"box.lan" = "192.0.2.{number}"\n'


class Opened:
    """A worker that serves the addresses of its configuration file, without signals and without a log of its own."""

    def __init__(self, path):
        self.path = path / "resolverd.toml"
        self.port = free_port()
        self.write(1, self.port)
        settings = config.load(self.path)
        self.endpoints = open_endpoints(settings.server.endpoints)[0]
        options = Options(config=str(self.path))
        self.worker = module._Worker(settings, self.endpoints, lambda: config.load(self.path), options, None, None)

    def write(self, number, *ports, extra=""):
        listen = "".join(f'    "127.0.0.1:{port}",\n' for port in ports)
        self.path.write_text(f"{extra}[server]\nlisten = [\n{listen}]\n{BOX.format(number=number)}")

    async def serve(self):
        worker = self.worker
        worker.loop = asyncio.get_running_loop()
        worker.stopping = worker.loop.create_future()
        worker.current = RuntimeConfig(worker.configured, worker.store, worker.loop)
        for endpoint in self.endpoints:
            listeners = Listeners(endpoint, worker.turns)
            await listeners.start(worker.current)
            worker.listeners.append(listeners)

    async def reload(self, number, *ports, extra=""):
        self.write(number, *ports, extra=extra)
        return await self.worker.reloads.perform()

    async def numbers(self, port):
        """What box.lan is now, over UDP and TCP."""
        query = make_query(7, names.from_text("box.lan."), c.A)
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as datagram:
            datagram.connect(("127.0.0.1", port))
            await loop.sock_sendall(datagram, query)
            async with asyncio.timeout(30):
                replies = [await loop.sock_recv(datagram, 4096)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(len(query).to_bytes(2, "big") + query)
        replies.append(await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")))
        writer.close()
        return [MessageView.parse(reply).answer[0].rdata(0)[3] for reply in replies]

    async def descriptors(self):
        """How many are open once what was closed has gone; asked before, so that what is made once has been made."""
        await self.numbers(self.worker.endpoints[0].port)
        while any(listeners.tcp.connections for listeners in self.worker.listeners):
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        gc.collect()
        return len(os.listdir("/proc/self/fd"))


@pytest.fixture(params=["corenet", "asyncio"])
def serving(request, tmp_path, monkeypatch):
    """Run a test beside a worker that serves, on both loops."""
    monkeypatch.setattr(module.log, "set_up", lambda settings: None)

    def runner(test):
        async def main():
            opened = Opened(tmp_path)
            try:
                await opened.serve()
                await test(opened)
                await opened.worker.drain()
            finally:
                sockets.close_all([opened.endpoints])

        run_on(request.param, main())

    return runner


def test_all_listeners_of_a_worker_share_its_work_budget(serving):
    async def test(opened):
        assert await opened.reload(1, opened.port, free_port()) == ""
        assert [listeners.tcp.turns for listeners in opened.worker.listeners] == [opened.worker.turns] * 2

    serving(test)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_an_address_in_use_changes_nothing(serving, kind):
    async def test(opened):
        taken, free = free_port(), free_port()
        await opened.reload(1, opened.port)
        before = await opened.descriptors()
        with socket.socket(socket.AF_INET, kind) as other:
            other.bind(("127.0.0.1", taken))
            if kind == socket.SOCK_STREAM:
                other.listen()
            said = await opened.reload(2, free, taken)
            assert said.startswith(f"{opened.path}:4: server.listen[1]: '127.0.0.1:{taken}': cannot listen on 127.")
            assert "Address already in use" in said
            assert await opened.numbers(opened.port) == [1, 1]
        with pytest.raises(ConnectionRefusedError):
            await opened.numbers(free)
        assert await opened.descriptors() == before
        assert await opened.reload(3, free, taken) == ""
        assert await opened.numbers(free) == await opened.numbers(taken) == [3, 3]

    serving(test)


def test_files_are_compared_with_the_control_socket_that_stays(serving):
    """The control socket keeps its path until a restart, so the new query log may not have that path before."""

    async def test(opened):
        one, other = (str(opened.path.parent / name) for name in ("one", "other"))
        opened.worker.configured = replace(opened.worker.configured, control=ControlSettings(one))
        extra = f"[control]\nsocket = '{other}'\n[query-log]\nfile = '{{}}'\n"
        said = await opened.reload(2, opened.port, extra=extra.format(one))
        assert said.startswith(f"{opened.path}:2: control.socket: '{one}' is the file of control.socket, which"), said
        assert "query-log.file" in said and await opened.numbers(opened.port) == [1, 1]
        said = await opened.reload(2, opened.port, extra=extra.format(opened.path))
        assert said.startswith(f"{opened.path}:4: query-log.file: ") and "the configuration" in said, said
        assert opened.path.read_text().startswith("[control]")

    serving(test)


@pytest.mark.parametrize("listener", [UdpListener, StreamListener])
def test_a_listener_that_cannot_start_changes_nothing(serving, monkeypatch, listener):
    """Binding may succeed and serving still fail: listen() may be refused, or the registration with epoll."""

    async def test(opened):
        first, second = free_port(), free_port()
        real = listener.start

        async def start(self, sock):
            if sock.getsockname()[1] == second:
                raise OSError(errno.EADDRINUSE, "Address already in use")
            await real(self, sock)

        await opened.reload(1, opened.port)
        before = await opened.descriptors()
        with monkeypatch.context() as patched:
            patched.setattr(listener, "start", start)
            said = await opened.reload(2, first, second)
        assert said == (
            f"{opened.path}:4: server.listen[1]: '127.0.0.1:{second}': cannot serve 127.0.0.1:{second}: Address already"
            " in use"
        )
        assert await opened.numbers(opened.port) == [1, 1]
        assert await opened.descriptors() == before
        assert await opened.reload(3, first, second) == ""
        assert await opened.numbers(first) == await opened.numbers(second) == [3, 3]

    serving(test)


def test_a_cache_that_cannot_be_emptied_changes_nothing(serving, monkeypatch):
    async def test(opened):
        def held(store):
            raise BlockingIOError("a lock of the cache is held by a process that does not run")

        new = free_port()
        before = await opened.descriptors()
        with monkeypatch.context() as patched:
            patched.setattr(Store, "clear", held)
            assert "a lock of the cache is held" in await opened.reload(2, opened.port, new)
        assert await opened.numbers(opened.port) == [1, 1]
        assert await opened.descriptors() == before
        assert await opened.reload(3, opened.port, new) == ""
        assert await opened.numbers(opened.port) == await opened.numbers(new) == [3, 3]

    serving(test)


def test_shortage_of_memory_changes_nothing_and_closes_the_new_resolver(serving, monkeypatch):
    async def test(opened):
        def short(*arguments, **keywords):
            raise MemoryError

        closed = []
        real = Resolver.close
        with monkeypatch.context() as patched:
            patched.setattr(runtime_config, "Service", short)
            patched.setattr(Resolver, "close", lambda resolver: closed.append(resolver) or real(resolver))
            assert await opened.reload(2, opened.port) == "out of memory"
        assert len(closed) == 1 and closed[0] is not opened.worker.current.resolver
        assert await opened.numbers(opened.port) == [1, 1]

    serving(test)


def test_anchor_changes_during_a_reload_are_not_lost(serving, monkeypatch):
    async def test(opened):
        worker = opened.worker
        monkeypatch.setattr(worker.anchors, "probe", lambda: None)  # there is no name server
        anchors = f"""[dnssec]
trust-anchors = ["test. DS 1 8 2 {"ab" * 32}"]
auto-trust-anchor-file = "{opened.path.parent / 'anchors'}"
[server]
listen = ["127.0.0.1:{{port}}"]
"""
        opened.path.write_text(anchors.format(port=opened.port))
        assert await worker.reloads.perform() == ""
        [(zone, point)] = worker.rollover.points.items()
        real = StreamListener.start

        async def start(self, sock):
            await real(self, sock)
            point.looked = 1_800_000_000

        monkeypatch.setattr(StreamListener, "start", start)
        opened.path.write_text(anchors.format(port=free_port()))
        assert await worker.reloads.perform() == ""
        assert worker.rollover.points[zone] is not point
        assert worker.rollover.points[zone].looked == 1_800_000_000

    serving(test)


def test_counters_of_connections_outlive_their_listeners(serving):
    async def test(opened):
        await opened.descriptors()
        assert await opened.reload(2, free_port()) == ""
        await opened.descriptors()
        found = opened.worker.commands.perform({"command": "statistics"})["client_tcp"]
        assert found == {
            "accepted": 2, "rejected": 0, "access_closed": 0, "timed_out": 0, "malformed": 0,
            "write_overrun": 0, "evicted": 0,
            "connections": 0, "bad_proxy_headers": 0,
        }
        assert len(opened.worker.listeners) == 1

    serving(test)


def test_concurrent_reloads_are_serialised(serving):
    async def test(opened):
        new = free_port()
        opened.write(2, new)
        assert await asyncio.gather(opened.worker.reloads.perform(), opened.worker.reloads.perform()) == ["", ""]
        assert await opened.numbers(new) == [2, 2]
        assert len(opened.worker.listeners) == len(opened.endpoints) == 1

    serving(test)


def test_signals_during_a_reload_cause_one_more(serving):
    async def test(opened):
        worker = opened.worker
        async with worker.reloads.lock:
            for _ in range(3):
                worker.reloads.on_signal()
            assert len(worker.tasks) == 1
            await asyncio.sleep(0)
            opened.write(2, opened.port)
        await next(iter(worker.tasks))
        assert await opened.numbers(opened.port) == [2, 2]
        worker.stopping.set_result("for the test")
        worker.reloads.on_signal()
        assert not worker.tasks

    serving(test)


def test_a_foreign_source_address_is_refused_as_at_the_start(serving):
    async def test(opened):
        extra = '[iteration]\nquery-source-v4 = "192.0.2.77"\n'
        assert (await opened.reload(2, opened.port, extra=extra)).startswith("cannot send from 192.0.2.77: ")
        assert await opened.numbers(opened.port) == [1, 1]

    serving(test)


def test_an_address_that_contains_one_that_is_served_needs_a_restart(serving):
    async def test(opened):
        opened.path.write_text(f'[server]\nlisten = ["0.0.0.0:{opened.port}"]\n{BOX.format(number=2)}')
        said = await opened.worker.reloads.perform()
        assert said.endswith(f"while this daemon serves 127.0.0.1:{opened.port}; restart to change it")
        assert await opened.numbers(opened.port) == [1, 1]

    serving(test)


def test_a_host_without_ipv6_can_reload_the_addresses_that_are_the_default(serving, monkeypatch):
    async def test(opened):
        real = sockets.open_udp_socket

        def without(address, port, **options):
            if ":" in address:
                raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
            return real(address, port, **options)

        monkeypatch.setattr(sockets, "open_udp_socket", without)
        [endpoint] = opened.endpoints
        served = [replace(endpoint, wanted=Settings().server.endpoints[0][1])]
        assert reload_sockets.open_new(Settings(), served, "") == []

    serving(test)


# --- what has been replaced ---------------------------------------------------------------------------------------


class Replaced:
    """A generation whose last client is answered when it was looked at often enough."""

    def __init__(self, looks, *, flush_on_close=False):
        self.looks, self.flush_on_close, self.open = looks, flush_on_close, True
        self.names_on_close = ()
        self.hook_modules = None
        self.settings = Settings()
        self.service = self.resolver = self.observation = self.rates = self.buckets = self

    def statistics(self, _others=()):
        return {}

    @property
    def waiting(self):
        self.looks -= 1
        assert self.open
        return max(self.looks, 0)

    def close(self, _successor=None):
        assert self.looks <= 0, "somebody still waits"
        self.open = False
        return []


def test_stop_waits_for_clients_of_the_previous_configuration_too(serving, monkeypatch):
    monkeypatch.setattr(replaced_configs, "of_runtime", lambda old: {})
    turn = asyncio.sleep
    # However slow the machine, the limit does not end first; looks follow each other at once.
    monkeypatch.setattr(limits, "DRAIN", 60_000)
    monkeypatch.setattr(asyncio, "sleep", lambda _seconds: turn(0))

    async def test(opened):
        old = Replaced(3)
        opened.worker.replaced.draining[old] = opened.worker.loop.create_task(asyncio.sleep(0))
        await opened.worker.drain()
        assert not old.open and not opened.worker.replaced.draining

    serving(test)


def test_records_of_a_stopped_output_are_counted(serving, tmp_path, caplog):
    """The collector is absent, so nothing that was recorded for it is sent before the reload that ends dnstap."""
    extra = f"[dnstap]\nsocket = '{tmp_path / 'none'}'\n"

    async def test(opened):
        worker = opened.worker
        assert await opened.reload(1, opened.port, extra=extra) == ""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as datagram:
            datagram.connect(("127.0.0.1", opened.port))
            for number in range(3):
                await loop.sock_sendall(datagram, make_query(number, names.from_text("box.lan."), c.A))
                async with asyncio.timeout(30):
                    await loop.sock_recv(datagram, 4096)
        before = worker.commands.collect()["dnstap"]
        assert before["dropped_stopped"] == 0
        assert await opened.reload(1, opened.port) == ""
        await asyncio.gather(*worker.replaced.draining.values())
        for output in worker.replaced.closing_outputs:
            await in_thread(output.join)
        worker.replaced.collect_ended_outputs()
        assert not worker.replaced.closing_outputs
        found = worker.commands.collect()["dnstap"]
        assert found["records"] == before["records"] == 6 == found["dropped_stopped"]
        assert worker.commands.collect()["dnstap"] == found, "once"

    serving(test)
    assert [record.message for record in caplog.records if "dnstap: it has ended" in record.message] == [
        "dnstap: it has ended, and the last 6 records were not written"]


def test_a_changed_content_of_a_named_file_is_a_change(serving, tmp_path):
    hosts = tmp_path / "hosts"
    extra = f'[policy]\nhosts-files = ["{hosts}"]\n'

    async def address(opened, name):
        query = make_query(7, names.from_text(name), c.A)
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as datagram:
            datagram.connect(("127.0.0.1", opened.port))
            await loop.sock_sendall(datagram, query)
            async with asyncio.timeout(30):
                view = MessageView.parse(await loop.sock_recv(datagram, 4096))
        return [rrset.rdata(0)[3] for rrset in view.answer]

    async def test(opened):
        worker = opened.worker
        hosts.write_text("192.0.2.5 first.lan\n192.0.2.6 second.lan\n")
        assert await opened.reload(1, opened.port, extra=extra) == ""
        for _ in range(2):  # the second time as finished answers
            assert await address(opened, "first.lan.") == [5]
            assert await address(opened, "second.lan.") == [6]
        kept = lambda: worker.store.statistics()["entries_answer"]  # noqa: E731
        before = kept()
        assert before
        assert await opened.reload(1, opened.port, extra=extra) == ""
        assert kept() == before, "nothing has changed"
        hosts.write_text("192.0.2.7 first.lan\n192.0.2.6 second.lan\n")
        assert await opened.reload(1, opened.port, extra=extra) == ""
        assert await address(opened, "first.lan.") == [7]
        assert await address(opened, "second.lan.") == [6]

    serving(test)


@pytest.mark.parametrize("flush_on_close", [True, False])
def test_results_of_the_old_configuration_are_not_cached_after_the_switch(serving, monkeypatch, flush_on_close):
    monkeypatch.setattr(replaced_configs, "of_runtime", lambda old: {})

    async def test(opened):
        worker = opened.worker
        old = Replaced(0, flush_on_close=flush_on_close)
        worker.replaced.add(old)
        now = worker.current.resolver.clock.time()
        worker.store.rrsets.put_failure(names.from_text("late.test."), c.A, kind=7, verdict=None, ede=0, text="",
                                        ttl=60, now=now)
        await worker.replaced.draining[old]
        assert not old.open and not worker.replaced.draining
        assert (sum(v for k, v in worker.store.statistics().items() if k.startswith("entries_")) == 0) is flush_on_close

    serving(test)


def test_counters_go_on_after_a_reload_and_without_their_listener(serving):
    async def test(opened):
        other = free_port()
        seen = lambda: opened.worker.commands.perform({"command": "statistics"})  # noqa: E731
        assert await opened.reload(1, opened.port, other) == ""
        for port in (opened.port, opened.port, other):
            await opened.numbers(port)
        for turn, ports in enumerate(((opened.port, other), (opened.port,)), 2):
            before = seen()
            assert await opened.reload(turn, *ports) == ""
            assert seen()["clients"] == before["clients"], "also while the old configuration is there"
            while opened.worker.replaced.draining:
                await asyncio.sleep(0)
            after = seen()
            for group in ("clients", "client_latency", "fast_path", "slow_path", "upstream", "client_tcp"):
                for name, value in before[group].items():
                    if name not in ("connections", "pending", "pending_verified"):
                        assert after[group][name] == value, (group, name)
        await opened.numbers(opened.port)
        found = seen()["clients"]
        assert (found["queries"]["udp.A"], found["queries"]["tcp.A"]) == (4, 4)
        assert (found["replies"]["udp.NOERROR"], found["replies"]["tcp.NOERROR"]) == (4, 4)

    serving(test)


# --- several workers ----------------------------------------------------------------------------------------------


class Company:
    """Workers that share a store, a configuration file and channels, in one process; there is no supervisor."""

    def __init__(self, path, count=3):
        self.path = path / "resolverd.toml"
        self.write(1)
        settings = config.load(self.path)
        self.management = open_management_sockets(settings, count)
        self.lifeline = os.pipe()
        self.store = make_store(settings, shared=True)
        self.workers = [self.make(number) for number in range(count)]

    def make(self, number, successor=False):
        options = Options(
            config=str(self.path), number=number, management=self.management, successor=successor)
        reload = lambda: config.load(self.path)  # noqa: E731
        worker = module._Worker(reload(), [], reload, options, self.store, self.lifeline[0])
        return worker

    def write(self, number, extra=""):
        self.path.write_text(f"{extra}{BOX.format(number=number)}")

    async def begin(self, worker):
        worker.loop = asyncio.get_running_loop()
        worker.stopping = worker.loop.create_future()
        worker.current = RuntimeConfig(worker.configured, worker.store, worker.loop)
        await worker.start_management()

    def numbers(self):
        """What box.lan is in each worker's settings."""
        return [dict(worker.current.settings.policy.hosts)["box.lan"][0][-1] for worker in self.workers]

    def prepared(self):
        return [worker.preparation.held is not None for worker in self.workers]


@pytest.fixture(params=["corenet", "asyncio"])
def company(request, tmp_path, monkeypatch):
    """Run a test with three workers, on both loops."""
    monkeypatch.setattr(module.log, "set_up", lambda settings: None)

    def runner(test):
        async def main():
            company = Company(tmp_path)
            try:
                for worker in company.workers:
                    await company.begin(worker)
                await test(company)
                for worker in company.workers:
                    await worker.drain()
            finally:
                company.management.close()
                for end in company.lifeline:
                    os.close(end)

        run_on(request.param, main())

    return runner


def test_all_workers_switch(company):
    async def test(company):
        company.write(2)
        before = {worker.current for worker in company.workers}
        assert await company.workers[0].reloads.perform() == ""
        assert company.numbers() == ["2", "2", "2"]
        assert not before & {worker.current for worker in company.workers}
        assert company.prepared() == [False, False, False]

    company(test)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "worker 2: out of memory"),
        (OSError(errno.EMFILE, "Too many open files"), "worker 2: Too many open files"),
        (ValueError("policy.hosts: no good"), "worker 2: .*policy.hosts: no good"),
    ],
)
def test_no_worker_switches_when_one_cannot(company, monkeypatch, caplog, error, words):
    async def test(company):
        def refuse():
            raise error

        closed = []
        real = Resolver.close
        monkeypatch.setattr(Resolver, "close", lambda resolver: closed.append(resolver) or real(resolver))
        company.write(2)
        before = [worker.current for worker in company.workers]
        with monkeypatch.context() as patched:
            patched.setattr(company.workers[2], "reload", refuse)
            assert re.match(words, await company.workers[0].reloads.perform())
        assert [worker.current for worker in company.workers] == before
        assert company.numbers() == ["1", "1", "1"] and company.prepared() == [False, False, False]
        assert len(closed) == 2 and not set(closed) & {current.resolver for current in before}
        assert "stays in force" in caplog.text
        assert await company.workers[0].reloads.perform() == "" and company.numbers() == ["2", "2", "2"]

    company(test)


LIST = "[[list]]\nname = 'ads'\nfile = '{path}'\n"


def hold_loads(monkeypatch):
    """Loading a list waits for a permit. Returns the permits, and the names of the lists that wait or are loaded."""
    permits, started, real = threading.Semaphore(0), [], list_updates.load

    def load(settings, *given):
        started.append(settings.name)
        assert permits.acquire(timeout=30)
        return real(settings, *given)

    monkeypatch.setattr(list_updates, "load", load)
    return permits, started


def test_workers_go_on_while_a_new_list_is_loaded(company, tmp_path, monkeypatch):
    """It may have millions of names. Requests that come meanwhile are replied to by all workers."""

    async def test(company):
        (tmp_path / "ads").write_text("ads.example\n")
        company.write(2, LIST.format(path=tmp_path / "ads"))
        permits, started = hold_loads(monkeypatch)
        first = company.workers[0]
        reload = asyncio.ensure_future(first.reloads.perform())
        while not started:
            await asyncio.sleep(0)
        permits.release()
        while len(started) < 3:
            await asyncio.sleep(0)
        replies = await asyncio.gather(*(first.channels.ask(number, {"command": "status"}) for number in (1, 2)))
        assert [one["worker"] for one in replies] == [1, 2] and company.numbers() == ["1", "1", "1"]
        permits.release(2)
        assert await reload == "" and company.numbers() == ["2", "2", "2"]
        assert [len(worker.current.lists.describe()) for worker in company.workers] == [1, 1, 1]

    company(test)


def test_an_abort_waits_for_the_preparation(company, tmp_path, monkeypatch):
    """A worker that prepares for too long refuses the reload; what it has prepared in the end is discarded."""

    async def test(company):
        (tmp_path / "ads").write_text("ads.example\n")
        company.write(2, LIST.format(path=tmp_path / "ads"))
        permits, _ = hold_loads(monkeypatch)
        worker, closed = company.workers[1], []
        prepared = asyncio.ensure_future(worker.reloads.prepare())
        aborted = asyncio.ensure_future(worker.reloads.abort())
        real = RuntimeConfig.close
        monkeypatch.setattr(RuntimeConfig, "close", lambda one, *given: closed.append(one) or real(one, *given))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not aborted.done()
        permits.release()
        await asyncio.gather(prepared, aborted)
        assert company.prepared() == [False, False, False] and len(closed) == 1 and company.numbers() == ["1", "1", "1"]

    company(test)


VIEW = '[[view]]\nname = "{name}"\nclients = ["127.0.0.{client}/32"]\n[view.hosts]\n"www.lan" = "198.51.100.{client}"\n'


def test_workers_with_other_views_do_not_share_finished_answers(company, monkeypatch):
    """The first worker has switched, the others have not: the number of a view means two views."""
    packet = make_query(7, names.from_text("www.lan."), c.A)

    def ask(worker, client):
        """The last octet of the answer, and whether it came from the cache."""
        peer, runtime = (f"127.0.0.{client}", 4000), worker.current
        reply, sink = runtime.fast.answer(packet, peer), Sink()
        if reply is None:
            runtime.service.handle(packet, peer, sink)
        view = sink.last if reply is None else MessageView.parse(reply)
        return view.answer[0].rdata(0)[3], reply is not None

    async def test(company):
        old, new = ("".join(VIEW.format(name=f"view{one}", client=one) for one in order) for order in ((2, 3), (3, 2)))
        first = company.workers[0]
        company.write(1, old)
        assert await first.reloads.perform() == ""
        seen = []
        real = worker_reload.commit_workers

        async def ask_between(*given):
            for _ in range(2):
                for worker in reversed(company.workers):
                    seen.extend((client, *ask(worker, client)) for client in (2, 3))
            return await real(*given)

        with monkeypatch.context() as patched:
            patched.setattr(worker_reload, "commit_workers", ask_between)
            company.write(1, new)
            assert await first.reloads.perform() == ""
        assert all(client == answer for client, answer, _ in seen), seen
        assert all(hit for _, _, hit in seen[len(seen) // 2 :]), "workers with the same settings share answers"
        for worker in company.workers:
            assert [ask(worker, client)[0] for client in (2, 3)] == [2, 3]
        assert await first.reloads.perform() == "", "with the same settings"
        for worker in company.workers:
            assert [ask(worker, client) for client in (2, 3)] == [(2, True), (3, True)]

    company(test)


def test_changes_that_another_file_replaces_are_named(company, tmp_path, caplog):
    old, new = tmp_path / "old", tmp_path / "new"
    RuntimeChanges(old, (make_change("nta", "a.test", until=1 << 39),)).write(old)

    async def test(company):
        first = company.workers[0]
        for file in (old, new):
            company.write(2, extra=f"[control]\nchanges-file = '{file}'\n")
            assert await first.reloads.perform() == ""
        assert first.changes.entries == ()
        [message] = [one.getMessage() for one in caplog.records if "no longer apply" in one.getMessage()]
        assert f"the 1 run-time changes in {old}" in message

    company(test)


@pytest.mark.parametrize("fails", [False, True])
def test_a_change_outlives_a_power_failure_or_a_warning_says_so(company, tmp_path, monkeypatch, caplog, fails):
    """The new name of a file is on disk when its directory was synchronised after the renaming (fsync(2))."""
    path = tmp_path / "changes"
    durable = b""

    def fsync(descriptor):
        nonlocal durable
        if os.path.samestat(os.fstat(descriptor), tmp_path.stat()):
            durable = path.read_bytes()
            if fails and durable != empty:
                raise OSError(errno.EIO, "Input/output error")

    async def test(company):
        first = company.workers[0]
        company.write(2, extra=f"[control]\nchanges-file = '{path}'\n")
        assert await first.reloads.reload_all() == ""
        await first.change_steps.apply(first.changes.add(make_change("nta", "a.test", until=1 << 39)))
        assert all(one.changes.entries for one in company.workers)

    RuntimeChanges(path, ()).write(path)
    empty = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        company(test)
    assert durable == path.read_bytes() != empty
    warned = [one.getMessage() for one in caplog.records if "when the power fails" in one.getMessage()]
    assert len(warned) == fails and all(f"{path} may lose them" in one for one in warned)


def test_an_unexpected_error_is_the_problem_of_the_last_reload(company, monkeypatch):
    async def test(company):
        reloads = company.workers[0].reloads
        company.write(2, "[nonsense]\n")
        assert "nonsense" in await reloads.perform()

        async def fail(*_):
            raise RuntimeError("unexpected")

        with monkeypatch.context() as patched:
            patched.setattr(worker_reload, "prepare_workers", fail)
            company.write(2)
            with pytest.raises(RuntimeError, match="unexpected"):
                await reloads.perform()
            assert reloads.problem == "unexpected"
        assert await reloads.perform() == "" and reloads.problem == ""

    company(test)


def test_a_negative_trust_anchor_ends_in_all_workers_although_the_file_is_damaged(company, tmp_path):
    path = tmp_path / "changes"
    RuntimeChanges(path, (make_change("nta", "a.test", until=1),)).write(path)

    async def test(company):
        first = company.workers[0]
        company.write(2, extra=f"[control]\nchanges-file = '{path}'\n")
        assert await first.reloads.reload_all() == ""
        path.write_bytes(path.read_bytes() + b"edited\n")
        damaged = path.read_bytes()
        company.write(3, extra=f"[control]\nchanges-file = '{path}'\n")
        assert await first.reloads.reload_all() == ""
        anchors = lambda: [one.current.settings.dnssec.negative_trust_anchors for one in company.workers]  # noqa: E731
        assert anchors() == [("a.test. 1",)] * 3
        keeper = ChangeKeeper(first)
        await keeper.end_anchors()
        keeper.stop()
        assert anchors() == [()] * 3
        assert path.read_bytes() == damaged and sorted(tmp_path.glob("changes*")) == [path]
        assert all("checksum" in one.changes.trouble for one in company.workers)

    company(test)


@pytest.mark.parametrize("number", [0, 1])
def test_with_a_damaged_file_all_workers_have_the_changes_of_the_first(company, tmp_path, number):
    """A restarted worker cannot read them. If it is the first, all continue without; else it gets them."""
    path = tmp_path / "changes"
    RuntimeChanges(path, (make_change("nta", "a.test", until=1 << 39),)).write(path)

    async def test(company):
        company.write(2, extra=f"[control]\nchanges-file = '{path}'\n")
        assert await company.workers[0].reloads.reload_all() == ""
        path.write_bytes(path.read_bytes() + b"edited\n")
        await company.workers[number].drain()
        successor = company.workers[number] = company.make(number, successor=True)
        await company.begin(successor)
        successor.current.close()
        successor.current = successor.make_first()
        first = company.workers[0]
        if not number:
            for worker in company.workers[1:]:  # all use one `WorkerChannels` here, which the first worker has stopped
                company.management.channels.serve(worker.loop, worker.number, worker.commands.perform_request)
            await first.alignment.align_others()
        else:
            company.management.channels.listen(first.loop)
            company.management.channels.on_event = first.on_event
            company.management.channels.serve(first.loop, 2, company.workers[2].commands.perform_request)
            assert not successor.changes.entries
            successor.alignment.ask_for_changes()
            while not first.tasks:
                await asyncio.sleep(0)
            await asyncio.gather(*first.tasks)
        entries = [one.changes.entries for one in company.workers]
        assert entries == [first.changes.entries] * 3 and len(first.changes.entries) == min(number, 1)
        negative = [one.current.settings.dnssec.negative_trust_anchors for one in company.workers]
        assert negative == [(f"a.test. {1 << 39}",) if number else ()] * 3
        assert number or all("checksum" in one.changes.trouble for one in company.workers)

    company(test)


def test_a_file_that_changes_during_a_reload_is_refused(company, monkeypatch):
    """Each worker reads it, and all must use the same settings."""

    async def test(company):
        company.write(2)
        real = worker_reload.prepare_workers

        async def write_and_prepare(*given):
            company.write(3)
            await real(*given)

        with monkeypatch.context() as patched:
            patched.setattr(worker_reload, "prepare_workers", write_and_prepare)
            refused = await company.workers[0].reloads.perform()
        assert "the configuration file has changed during the reload" in refused
        assert company.numbers() == ["1", "1", "1"] and company.prepared() == [False, False, False]
        assert await company.workers[0].reloads.perform() == "" and company.numbers() == ["3", "3", "3"]

    company(test)


@pytest.mark.parametrize("in_force", [1, 2])
@pytest.mark.parametrize("committed", [0, 1, 2])
def test_a_successor_of_the_first_worker_aligns_the_others(company, in_force, committed):
    """The first worker dies in a reload: it has reported its new settings or not, and some workers have switched."""

    async def test(company):
        company.write(2)
        for worker in company.workers[1:]:
            await worker.reloads.prepare()
        for worker in company.workers[1 : 1 + committed]:
            await worker.reloads.commit()
        assert company.numbers() == ["1", *(["2"] * committed + ["1"] * 2)[:2]]
        await company.workers[0].drain()
        company.write(in_force)
        successor = company.workers[0] = company.make(0)
        await company.begin(successor)
        for worker in company.workers[1:]:  # all use one `WorkerChannels` here, which the first worker has stopped
            company.management.channels.serve(worker.loop, worker.number, worker.commands.perform_request)
        company.write(9)
        before = [worker.current for worker in company.workers]
        await successor.alignment.align_others()
        assert company.numbers() == [str(in_force)] * 3 and company.prepared() == [False, False, False]
        changed = [worker.current is not old for worker, old in zip(company.workers, before, strict=True)]
        assert changed == [False, (1 <= committed) != (in_force == 2), (2 <= committed) != (in_force == 2)]

    company(test)


def test_a_worker_that_reads_late_gets_the_whole_configuration():
    """Descriptors of one file share a position; so each worker has a file of its own."""
    late = []

    class Channels:
        others = (1, 2)

        async def ask(self, number, request, timeout, *, file):
            received = open(os.dup(file.fileno()), "rb")
            if number == 1:
                late.append(received)
                raise WorkerError("worker 1 does not answer")
            with received:
                assert pickle.load(received) == (Settings(), "changes")
                with late[0] as first:
                    assert pickle.load(first) == (Settings(), "changes")

    asyncio.run(align_workers(Channels(), Settings(), "changes"))
    assert len(late) == 1 and late[0].closed


def test_a_silent_worker_makes_the_reload_fail_for_all(company, monkeypatch):
    async def test(company):
        company.write(2)
        company.workers[1].channels.stop()
        first = company.workers[0]
        company.management.channels.listen(first.loop)
        company.management.channels.serve(first.loop, 2, company.workers[2].commands.perform_request)
        with monkeypatch.context() as patched:
            patched.setattr(limits, "RELOAD_TIMEOUT", 100)
            assert await first.reloads.perform() == "worker 1 does not answer"
        assert company.numbers() == ["1", "1", "1"] and company.prepared() == [False, False, False]
        # It reads its messages in the end: prepare, and abort.
        company.management.channels.serve(first.loop, 1, company.workers[1].commands.perform_request)
        assert await first.reloads.perform() == "" and company.numbers() == ["2", "2", "2"]

    company(test)


def test_a_stop_during_a_reload_leaves_no_socket_open(company, monkeypatch):
    async def test(company):
        made = []
        real = Resolver.open
        monkeypatch.setattr(Resolver, "open", lambda resolver, loop: made.append(resolver) or real(resolver, loop))
        closed = []
        end = Resolver.close
        monkeypatch.setattr(Resolver, "close", lambda resolver: closed.append(resolver) or end(resolver))
        company.write(2)
        task = asyncio.ensure_future(company.workers[0].reloads.perform())
        while len(made) < 2:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert company.numbers() == ["1", "1", "1"] and made[0] in closed
        for worker in company.workers[1:]:
            worker.preparation.discard()
        assert set(made) == set(closed)

    company(test)


def test_a_failing_flush_makes_the_reload_fail_for_all(company, monkeypatch):
    async def test(company):
        def held(store):
            raise BlockingIOError("a lock of the cache is held by a process that does not run")

        company.write(2)
        with monkeypatch.context() as patched:
            patched.setattr(Store, "clear", held)
            assert "a lock of the cache is held" in await company.workers[0].reloads.perform()
        assert company.numbers() == ["1", "1", "1"] and company.prepared() == [False, False, False]

    company(test)


def test_a_worker_started_in_between_prepares_at_the_commit(company, monkeypatch, caplog):
    async def test(company):
        company.write(2)
        real = worker_reload.prepare_workers

        async def prepare_and_lose(*given):
            await real(*given)
            company.workers[1].preparation.discard()

        monkeypatch.setattr(worker_reload, "prepare_workers", prepare_and_lose)
        assert await company.workers[0].reloads.perform() == "" and company.numbers() == ["2", "2", "2"]

        async def prepare_and_spoil(*given):
            await prepare_and_lose(*given)
            company.write(4, "[nonsense]\n")

        company.write(3)
        monkeypatch.setattr(worker_reload, "prepare_workers", prepare_and_spoil)
        said = await company.workers[0].reloads.perform()
        assert re.match("the new configuration is in force, but not in all workers: worker 1: .*nonsense", said)
        assert company.numbers() == ["3", "2", "3"] and "still uses the old configuration" in caplog.text

    company(test)


def test_only_the_first_worker_acts_on_a_signal(company, caplog):
    async def test(company):
        caplog.set_level("INFO")
        company.write(2)
        company.workers[1].reloads.on_signal()
        assert not company.workers[1].tasks and "worker 1 ignores SIGHUP" in caplog.text
        company.workers[0].reloads.on_signal()
        await asyncio.gather(*company.workers[0].tasks)
        assert company.numbers() == ["2", "2", "2"]

    company(test)


def test_the_supervisor_gets_the_result(company):
    async def test(company):
        first, reloads = company.workers[0], company.management.channels.reloads
        reloads.request(1)
        assert await first.reloads.perform() == ""
        assert select.select([reloads], [], [], 0)[0]
        assert reloads.results() == [(1, (first.configured, first.current.settings))]
        assert not select.select([reloads], [], [], 0)[0]
        reloads.request(2)
        reloads.request(3)
        company.write(2, "[nonsense]\n")
        assert "nonsense" in await first.reloads.perform()
        assert reloads.results() == [(3, None)]

    company(test)


def test_the_supervisor_is_told_of_reloads_that_it_has_not_requested(company):
    async def test(company):
        first, reloads = company.workers[0], company.management.channels.reloads
        assert await first.reloads.perform() == ""
        assert reloads.results() == [(RELOAD_BEGINS, None), (0, (first.configured, first.current.settings))]
        company.write(2, "[nonsense]\n")
        assert "nonsense" in await first.reloads.perform()
        assert reloads.results() == [(RELOAD_BEGINS, None), (0, None)]

    company(test)


def test_a_result_that_cannot_be_sent_is_logged(company, monkeypatch, caplog):
    async def test(company):
        def refuse(*_arguments):
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(os, "memfd_create", refuse)
        assert await company.workers[0].reloads.perform() == ""
        assert "cannot report the result to the supervisor: Too many open files; restarted workers" in caplog.text

    company(test)


def test_the_supervisor_gets_the_active_settings_and_repeats_unfinished_reloads(caplog):
    link = ReloadChannel()
    watching = supervisor._Supervisor.__new__(supervisor._Supervisor)
    watching.settings = before = Settings()
    watching.reloads, watching.requested, watching.answered, watching.reported_ready = link, 2, 0, False
    try:
        link.report(1, None)
        watching.take_results()
        assert watching.settings is before and watching.answered == 1
        changed = replace(before, log=replace(before.log, level="error"))
        with_changes = replace(changed, log=replace(before.log, level="debug"))
        link.report(2, (changed, with_changes))
        link.report(0, None)  # by resolverctl
        watching.take_results()
        assert watching.settings == changed and watching.answered == watching.requested == 2
        assert watching.in_force == with_changes
        watching.requested = 3
        link.report(0, None)
        link.report(3, (before, before))
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        with open(os.devnull) as highest:
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest.fileno(), limit[1]))
            try:
                watching.take_results()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        assert watching.settings == changed and "cannot receive the result: Too many open files" in caplog.text
        assert watching.answered == 3, "its number was not lost, so the reload is not repeated"
    finally:
        link.close()


def test_a_worker_is_started_with_settings_that_were_reported_just_before(monkeypatch):
    """The first worker may report and die between the supervisor's poll and its check of the children."""
    link = ReloadChannel()
    watching = supervisor._Supervisor.__new__(supervisor._Supervisor)
    watching.slots = [WorkerSlot(0, children=["a child"])]
    watching.settings, watching.reloads, watching.requested, watching.answered = Settings(), link, 1, 0
    watching.all_started = watching.reported_ready = watching.reload_shown = False
    started = []
    monkeypatch.setattr(supervisor.Processes, "start", lambda self, slot: started.append((slot, self.settings)))
    try:
        changed = replace(Settings(), log=replace(Settings().log, level="error"))
        link.report(1, (changed, changed))
        watching.start(watching.slots[0])
        assert started == [(watching.slots[0], changed)] and watching.answered == 1
    finally:
        link.close()


@pytest.fixture
def notified(tmp_path, monkeypatch):
    """A supervisor whose workers serve, and the lines that its service manager gets, without values of the time."""
    monkeypatch.setattr(supervisor.Processes, "start", lambda self, slot: None)
    watching = supervisor._Supervisor.__new__(supervisor._Supervisor)
    watching.slots = [WorkerSlot(0), WorkerSlot(1)]
    watching.settings, watching.reloads, watching.requested, watching.answered = Settings(), ReloadChannel(), 0, 0
    watching.all_started = watching.reported_ready = True
    watching.replaced_by = 0
    watching.reload_shown = watching.reload_after = False
    watching.status = watching.successor = watching.predecessor = None
    watching.describe = lambda: "2 workers serve"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        watching.manager = ServiceManager(str(tmp_path / "notify"))

        def told():
            lines = []
            while select.select([manager], [], [], 0)[0]:
                lines += manager.recv(4096).decode().splitlines()
            return [re.sub(r"(MONOTONIC_USEC)=\d+", r"\1", line) for line in lines]

        yield watching, told
    watching.reloads.close()


BEGINS = ["RELOADING=1", "MONOTONIC_USEC"]
SERVES = ["READY=1", "STATUS=2 workers serve"]


def test_the_manager_is_notified_of_the_begin_and_the_end_of_each_reload(notified):
    watching, told = notified
    in_force = (watching.settings, watching.settings)
    watching.reloads.report(RELOAD_BEGINS, None)  # by resolverctl
    watching.take_results()
    assert told() == BEGINS
    watching.reloads.report(0, in_force)
    watching.take_results()
    assert told() == SERVES
    watching.on_signal(signal.SIGHUP)
    assert told() == BEGINS
    watching.reloads.report(NO_RELOAD, in_force)  # a run-time change
    watching.reloads.report(0, in_force)  # by resolverctl, begun before
    watching.take_results()
    assert told() == [], "the reload of the signal has not ended"
    watching.reloads.report(1, None)
    watching.take_results()
    assert told() == ["READY=1", "STATUS=the last reload was refused; see the log"]
    watching.reloads.report(RELOAD_BEGINS, None)
    watching.reloads.report(0, in_force)
    watching.take_results()
    assert told() == [*BEGINS, *SERVES], "in this order, also when both were waiting"


def test_the_manager_does_not_wait_for_a_reload_whose_worker_has_died(notified):
    watching, told = notified
    watching.start(watching.slots[0])
    assert told() == []
    watching.reloads.report(RELOAD_BEGINS, None)
    watching.start(watching.slots[1])
    assert told() == BEGINS
    watching.start(watching.slots[0])
    assert told() == ["READY=1", "STATUS=the last reload was not completed; see the log"]
    watching.start(watching.slots[0])
    assert told() == []


def test_signals_to_a_new_process_wait_until_it_is_the_main_one(notified, caplog):
    """The old one notifies the manager until then, and a report would tell the worker that the upgrade has failed."""
    watching, told = notified
    confirmed = SimpleNamespace(fileno=lambda: 0, close=lambda: None, flushed=False)
    watching.predecessor = confirmed
    watching.poll = SimpleNamespace(unregister=lambda descriptor: None)
    watching.options = Options(management=ManagementSockets())
    watching.upgrades = SimpleNamespace(report=lambda message: pytest.fail("the upgrade has not ended"))
    watching.refusals, watching.next_check = LimitedWarning(supervisor.logger), 0.0
    for number in (signal.SIGHUP, signal.SIGUSR2):
        watching.on_signal(number)
    assert told() == [] and watching.requested == 0
    assert "upgrade: refused: an upgrade is in progress" in caplog.text
    watching.take_over(confirmed)
    assert told() == [*SERVES, *BEGINS] and watching.requested == 1 and not watching.reload_after


def test_a_failed_duplicate_of_an_endpoint_leaves_no_socket_open():
    [[endpoint]] = open_endpoints((("127.0.0.1", 0),))
    endpoint.tcp.close()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        endpoint.duplicate()
    assert len(os.listdir("/proc/self/fd")) == before, caught
    endpoint.close()


# --- listeners with TLS and access lists ------------------------------------------------------------------------------


def tls(leaf, port, *more, protocol="tls"):
    """The tables of a listener with TLS."""
    lines = "".join(f"{line}\n" for line in more)
    return (
        f'[tls]\ncertificate = "{leaf.certificate}"\nkey = "{leaf.key}"\nname = "dns.example"\n[[listener]]\n'
        f'address = "127.0.0.1:{port}"\nprotocol = "{protocol}"\n{lines}'
    )


async def over_tls(port, authority, context=None):
    """The number of box.lan over DNS over TLS; None when the query is refused."""
    context = context or ssl.create_default_context(cafile=str(authority.cafile))
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="dns.example")
    query = make_query(7, names.from_text("box.lan."), c.A)
    writer.write(len(query).to_bytes(2, "big") + query)
    reply = MessageView.parse(await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")))
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()
    return reply.answer[0].rdata(0)[3] if reply.answer else None


def test_a_tls_listener_is_added_changed_and_removed(serving, tmp_path):
    authority = Authority(tmp_path)
    leaf = authority.leaf("dns.example")
    port = free_port()

    async def test(opened):
        assert await opened.reload(1, opened.port, extra=tls(leaf, port)) == ""
        assert await over_tls(port, authority) == 1
        assert await opened.reload(2, opened.port, extra=tls(leaf, port, 'refuse = ["127.0.0.0/8"]')) == ""
        assert await over_tls(port, authority) is None
        assert await opened.numbers(opened.port) == [2, 2], "the list is of this listener alone"
        assert await opened.reload(3, opened.port) == ""
        with pytest.raises(ConnectionRefusedError):
            await over_tls(port, authority)
        counters = opened.worker.commands.perform({"command": "statistics"})["client_dot"]
        assert (counters["accepted"], counters["handshakes"], "connections" in counters) == (2, 2, False)

    serving(test)


def test_a_new_certificate_is_used_and_a_bad_one_changes_nothing(serving, tmp_path):
    authority = Authority(tmp_path)
    leaf = authority.leaf("dns.example")
    port = free_port()

    async def test(opened):
        extra = tls(leaf, port)
        assert await opened.reload(1, opened.port, extra=extra) == ""
        before = opened.worker.current.certificates
        assert await opened.reload(2, opened.port, extra=extra) == ""
        assert opened.worker.current.certificates is before, "the same files: sessions are resumed"
        good = leaf.key.read_bytes()
        leaf.key.write_bytes(b"no key")
        said = await opened.reload(3, opened.port, extra=extra)
        assert said.startswith(f"{opened.path}:3: tls.key: ") and str(leaf.key) in said
        assert await over_tls(port, authority) == 2 and await opened.numbers(opened.port) == [2, 2]
        leaf.key.write_bytes(good)
        other_folder = tmp_path / "other"
        other_folder.mkdir()
        other = Authority(other_folder)
        new = other.leaf("dns.example")
        leaf.certificate.write_bytes(new.certificate.read_bytes())
        assert "is not the key of" in await opened.reload(3, opened.port, extra=extra)
        leaf.key.write_bytes(new.key.read_bytes())
        assert await opened.reload(3, opened.port, extra=extra) == ""
        assert await over_tls(port, other) == 3
        with pytest.raises(ssl.SSLCertVerificationError):
            await over_tls(port, authority)

    serving(test)


def test_staples_are_replaced_all_or_none(serving, tmp_path):
    authority = Authority(tmp_path)
    leaf, staple, port = authority.leaf("dns.example"), tmp_path / "leaf.ocsp", free_port()
    extra = tls(leaf, port).replace('name =', f'ocsp-staple = "{staple}"\nname =')

    async def test(opened):
        staple.write_bytes(authority.staple(leaf, hours=40))
        assert await opened.reload(1, opened.port, extra=extra) == ""
        [until] = opened.worker.staple_expiry().values()
        staple.write_bytes(authority.staple(leaf, revoked=True))
        said = await opened.reload(2, opened.port, extra=extra)
        assert said.startswith(f"{opened.path}:4: tls.ocsp-staple: '{staple}': the certificate was revoked on"), said
        assert await over_tls(port, authority) == 1
        assert opened.worker.staple_expiry() == {str(staple): until}
        staple.write_bytes(authority.staple(leaf, hours=60))
        assert await opened.reload(3, opened.port, extra=extra) == ""
        found = opened.worker.commands.perform({"command": "statistics"})["tls"]
        assert found["staple_expiry"][str(staple)] > until and len(found["certificate_expiry"]) == 1

    serving(test)


def test_the_encryption_state_of_servers_survives_a_reload(serving):
    """As long as the option is on (RFC 9539)."""
    on, off = '[iteration]\nopportunistic-encryption = "dot"\n', ""

    async def test(opened):
        assert await opened.reload(1, opened.port, extra=on) == ""
        table = opened.worker.current.resolver.upstream._opportunistic().table
        table.begin("192.0.2.1", 1.0)
        table.end("192.0.2.1", Outcome.FAILED, 2.0)
        for extra, kept in ((on, True), (off, False), (on, False)):
            assert await opened.reload(2, opened.port, extra=extra) == ""
            if extra:
                found = opened.worker.current.resolver.upstream._opportunistic().table
                assert (found is table) is kept

    serving(test)


def test_ticket_keys_are_changed_in_time(serving, tmp_path, monkeypatch):
    leaf, port = Authority(tmp_path).leaf("dns.example"), free_port()

    async def test(opened):
        monkeypatch.setattr(limits, "TICKET_KEY_PERIOD", 0.05)
        assert not opened.worker.timers.running("tickets")
        assert await opened.reload(1, opened.port, extra=tls(leaf, port)) == ""
        keys = opened.worker.current.certificates.ticket_keys
        before = keys.current()
        while keys.current()[0] in before:
            await asyncio.sleep(0)
        assert opened.worker.timers.running("tickets")
        assert await opened.reload(2, opened.port) == ""
        assert not opened.worker.timers.running("tickets"), "no listener has TLS"

    serving(test)


def test_the_path_of_https_and_discovery_follow_a_reload(serving, tmp_path):
    leaf = Authority(tmp_path).leaf("dns.example")
    port = free_port()
    question = make_query(7, names.from_text("_dns.resolver.arpa."), c.SVCB)

    async def announced(opened):
        reader, writer = await asyncio.open_connection("127.0.0.1", opened.port)
        writer.write(len(question).to_bytes(2, "big") + question)
        reply = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        writer.close()
        return [rrset.rdata(0) for rrset in MessageView.parse(reply).answer]

    async def test(opened):
        assert await announced(opened) == []
        assert await opened.reload(1, opened.port, extra=tls(leaf, port, 'path = "/one"', protocol="https")) == ""
        [rdata] = await announced(opened)
        assert b"/one{?dns}" in rdata
        assert await opened.reload(1, opened.port, extra=tls(leaf, port, 'path = "/two"', protocol="https")) == ""
        [rdata] = await announced(opened)
        assert b"/two{?dns}" in rdata
        [listener] = [one.tcp for one in opened.worker.listeners if not one.udp]
        assert listener.path == b"/two"

    serving(test)


def test_an_access_list_of_a_listener_without_tls_holds_for_udp_and_tcp(serving):
    port = free_port()

    async def test(opened):
        extra = f'[[listener]]\naddress = "127.0.0.1:{port}"\nallow = ["192.0.2.0/24"]\n'
        assert await opened.reload(1, opened.port, extra=extra) == ""
        for _ in range(2):  # the second query could be answered from the cache
            assert await opened.numbers(opened.port) == [1, 1]
            with pytest.raises(IndexError):
                await opened.numbers(port)
        assert await opened.reload(1, opened.port, extra=extra.replace("192.0.2.0/24", "127.0.0.1")) == ""
        assert await opened.numbers(port) == [1, 1]

    serving(test)


def test_several_workers_keep_their_addresses(caplog):
    old = config.parse('[server]\nlisten = ["127.0.0.1:53"]\n[[listener]]\naddress = "127.0.0.2:53"\n')
    new = config.parse(
        '[server]\nlisten = ["127.0.0.1:53"]\n[[listener]]\naddress = "127.0.0.3:53"\n'
    )
    merged, kept = merge_restart_only(old, new, several=True)
    assert merged.listeners == old.listeners and kept == ("listener",)
    assert "listener" in caplog.text
    assert merge_restart_only(old, new, several=False)[0].listeners == new.listeners
    same = config.parse(
        '[server]\nlisten = ["127.0.0.1:53"]\n[[listener]]\naddress = "127.0.0.2:53"\nallow = ["0.0.0.0/0"]\n'
    )
    assert merge_restart_only(old, same, several=True)[0].listener == same.listener, "its other settings do change"


def test_a_new_token_takes_effect_although_the_address_of_the_page_does_not():
    web = '[web]\nlisten = "127.0.0.1:{port}"\ntoken-file = "{file}"\n'
    old, new = (config.parse(web.format(port=port, file=file)) for port, file in ((9336, "old"), (9337, "new")))
    merged, kept = merge_restart_only(old, new, several=False)
    assert kept == ("web.listen",)
    assert (merged.web.listen, merged.web.token_file) == (old.web.listen, "new")
    for one, other in ((old, Settings()), (Settings(), new)):
        assert merge_restart_only(one, other, several=False)[0].web == one.web


ENCRYPTED = """[iteration]
tls-cert-bundle = '{bundle}'
[[forward]]
zone = "example"
addresses = ["tls://192.0.2.1#dns.example"]
"""


def test_authorities_of_forwarders_that_cannot_be_used_refuse_a_reload(serving, tmp_path):
    """Both kinds: a file that is missing, and one whose certificate only the library finds to be wrong."""

    async def test(opened):
        bundle = tmp_path / "ca.pem"
        extra = ENCRYPTED.format(bundle=bundle)
        before = opened.worker.current
        for content, words in (
            (None, "cannot be read: No such file or directory"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be used: "),
        ):
            if content is not None:
                bundle.write_text(content)
            problem = await opened.reload(2, opened.port, extra=extra)
            assert f"{opened.path}:2: iteration.tls-cert-bundle: '{bundle}': {words}" in problem
            assert opened.worker.current is before
        assert await opened.numbers(opened.port) == [1, 1]

    serving(test)


def test_contexts_of_forwarders_are_ready_after_a_reload_and_kept_by_the_next(serving, tmp_path):
    async def test(opened):
        (tmp_path / "ca").mkdir()
        extra = ENCRYPTED.format(bundle=Authority(tmp_path / "ca").cafile)
        assert await opened.reload(2, opened.port, extra=extra) == ""
        contexts = opened.worker.current.resolver.tls_contexts
        assert len(contexts._made) == 1
        assert await opened.reload(3, opened.port, extra=extra) == ""
        assert opened.worker.current.resolver.tls_contexts is contexts, "sessions are resumed"
        extra = ENCRYPTED.format(bundle=Authority(tmp_path / "ca", "Another CA").cafile)
        assert await opened.reload(4, opened.port, extra=extra) == ""
        assert opened.worker.current.resolver.tls_contexts is not contexts
        assert await opened.numbers(opened.port) == [4, 4]

    serving(test)


def test_a_replaced_configuration_is_freed(serving):
    """Its tables may be large, and the garbage collector, which counts objects, would not come for long."""

    def alive():
        return sum(isinstance(one, Mesh) for one in gc.get_objects())

    async def test(opened):
        gc.collect()
        before = alive()
        gc.disable()
        try:
            for number in (2, 3):
                assert await opened.reload(number, opened.port) == ""
                await asyncio.gather(*opened.worker.replaced.draining.values())
            assert alive() == before
        finally:
            gc.enable()

    serving(test)


# --- what a reload leaves ---------------------------------------------------------------------------------------------

CONFIGURED = {
    "nothing": "",
    "lists": """
[[list]]
name = "l"
file = "{path}/list"
[[rpz]]
name = "rpz.e."
file = "{path}/rpz"
""",
    "balance": """
[[balance]]
name = "www.example.com."
check = "http"
check-port = 1
[[balance.target]]
address = "127.0.0.1"
""",
    "forward": """
[[forward]]
zone = "f.example."
addresses = ["tls://127.0.0.1#a.example"]
[[forward]]
zone = "g.example."
addresses = ["https://127.0.0.1/dns-query#a.example"]
[[forward]]
zone = "h.example."
addresses = ["127.0.0.1"]
[iteration]
opportunistic-encryption = "dot"
""",
    "views": """
[[view]]
name = "v"
clients = ["10.0.0.0/8"]
[[view]]
name = "w"
clients = ["11.0.0.0/8"]
[[view.forward]]
zone = "."
addresses = ["127.0.0.1"]
[client-subnet]
zones = ["."]
""",
    "zones": """
[[zone]]
name = "z.example."
file = "{path}/zone"
""",
    "query log": """
[query-log]
file = "{path}/queries"
[dnstap]
socket = "{path}/tap"
""",
}


@pytest.mark.parametrize("configured", CONFIGURED)
def test_a_replaced_configuration_is_in_no_cycle(configured, tmp_path, monkeypatch):
    """Else it would stay, with the tables of its lists and zones, until a collection, which is rare in the daemon. On
    asyncio's loop the connections of clients are in cycles."""
    monkeypatch.setattr(module.log, "set_up", lambda settings: None)
    (tmp_path / "list").write_text("bad.example\n")
    (tmp_path / "zone").write_text("$TTL 60\n@ SOA a. b. 1 1 1 1 1\n@ NS a.\n")
    (tmp_path / "rpz").write_text("$TTL 60\n@ SOA a. b. 1 1 1 1 1\n@ NS a.\nbad.com CNAME .\n")
    extra = CONFIGURED[configured].format(path=tmp_path)
    numbers = itertools.count(1)

    async def main():
        opened = Opened(tmp_path)

        async def reload():
            number = next(numbers)
            assert not await opened.reload(number, opened.port, extra=extra)
            assert await opened.numbers(opened.port) == [number, number]
            async with asyncio.timeout(30):
                while opened.worker.replaced.draining or opened.worker.closing_outputs:
                    await asyncio.sleep(0)

        try:
            await opened.serve()
            assert await left_in_cycles(reload) == []
            await opened.worker.drain()
        finally:
            sockets.close_all([opened.endpoints])

    run_on("corenet", main())


def test_the_variables_of_a_replaced_hook_module_are_freed(serving, tmp_path):
    """A module and its functions are a cycle, and its tables may be large."""
    file = tmp_path / "hook.py"
    file.write_text("class Table:\n    pass\n\ntable = Table()\n\ndef client(query, question):\n    return None\n")
    extra = f'[policy]\nmodules = ["{file}"]\n'

    async def test(opened):
        assert not await opened.reload(1, opened.port, extra=extra)
        [[hook]] = opened.worker.current.hook_modules._loaded.values()
        table = weakref.ref(hook.function.__globals__["table"])
        del hook
        assert not await opened.reload(2, opened.port, extra=extra)
        async with asyncio.timeout(30):
            while table() is not None:
                await asyncio.sleep(0)

    serving(test)
