"""The arguments of `corenet.serve`: accepted and refused ones, and the sockets made from addresses. Nothing is forked.

An error must name the wrong argument, because the user sees only that line.
"""

import asyncio
import os
import socket
import ssl
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import corenet
from corenet import SocketOptions
from corenet.serving import Service
from corenet.serving.sockets import open_sockets, parse
from corenet.serving.worker import kind_of, load


@pytest.mark.parametrize(
    ("address", "means"),
    [
        (8000, ("127.0.0.1", 8000)),
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("localhost:0", ("localhost", 0)),
        (":8000", ("", 8000)),
        ("[::1]:8000", ("::1", 8000)),
        ("[fe80::1%lo]:80", ("fe80::1%lo", 80)),
        ("unix:/run/x.sock", "/run/x.sock"),
        (("::1", 65535), ("::1", 65535)),
    ],
)
def test_addresses_are_parsed(address: Any, means: Any) -> None:
    assert parse(address) == means


@pytest.mark.parametrize(
    "address",
    [
        *("", "8000", "host", "host:", "host:http", "::1:80", "unix:", "host:-1", "h:65536", -1, 65536, True, None),
        *("[::1:80", "::1]:80", "[::1]80", "[::1]x:80", "[]:80", "[127.0.0.1]:80", "[x:80", "x]:80", "a b:80"),
        *("h:\u0663", "h:" + "9" * 5000),
    ],
)
def test_wrong_addresses_are_named(address: Any) -> None:
    with pytest.raises(ValueError) as caught:
        parse(address)
    assert repr(address) in str(caught.value)


def test_reuseport_gives_each_worker_a_socket_at_one_port() -> None:
    opened = open_sockets([("127.0.0.1", 0)], 3, reuseport=True, backlog=5)
    try:
        assert not opened.shared()
        assert len({sock.fileno() for share in opened.per_worker for sock in share}) == 3
        assert len({sock.getsockname() for share in opened.per_worker for sock in share}) == 1
        assert len(opened.names()) == 1
    finally:
        opened.close()


def test_exclusive_and_unix_sockets_are_shared(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    opened = open_sockets(["127.0.0.1:0", f"unix:{path}"], 2, reuseport=False, backlog=5)
    assert opened.shared()
    assert [sock.fileno() for sock in opened.per_worker[0]] == [sock.fileno() for sock in opened.per_worker[1]]
    assert f"unix:{path}" in opened.names()
    opened.close()
    assert not os.path.exists(path)


def test_a_socket_file_of_another_service_is_kept(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    first = open_sockets([f"unix:{path}"], 1, reuseport=True, backlog=5)
    second = open_sockets([f"unix:{path}"], 1, reuseport=True, backlog=5)
    first.close()
    assert os.path.exists(path)
    second.close()
    assert not os.path.exists(path)


def test_nothing_stays_open_when_one_address_fails(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {port}"):
            open_sockets(["127.0.0.1:0", f"unix:{tmp_path}/s", f"127.0.0.1:{port}"], 4, reuseport=True, backlog=5)
    assert len(os.listdir("/proc/self/fd")) == before
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("nodelay", "inherited"), [(None, True), (True, True), (False, False)])
def test_a_connection_made_before_any_worker_runs_has_the_option(
    own: bool, nodelay: bool | None, inherited: bool
) -> None:
    """The kernel copies the options when the connection is made, whichever process accepts it later."""
    opened = open_sockets(["127.0.0.1:0"], 2, reuseport=own, backlog=5, options=SocketOptions(nodelay=nodelay))
    try:
        listening = opened.per_worker[0][0]
        if own:
            opened.per_worker[1][0].close()
        with socket.create_connection(listening.getsockname(), timeout=30):
            listening.settimeout(30)
            accepted, _ = listening.accept()
            with accepted:
                assert (accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0) is inherited
    finally:
        opened.close()


def test_options_are_set_on_every_socket(tmp_path: Path) -> None:
    options = SocketOptions(keepalive_idle=77, receive_buffer=50_000, reuse_address=False)
    with socket.socket() as given:
        given.bind(("127.0.0.1", 0))
        opened = open_sockets([("127.0.0.1", 0), given], 2, reuseport=True, backlog=5, options=options)
        try:
            for sock in [sock for share in opened.per_worker for sock in share]:
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 100_000
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
        finally:
            opened.close()
    buffers = SocketOptions(receive_buffer=50_000)
    opened = open_sockets([f"unix:{tmp_path}/one"], 1, reuseport=True, backlog=5, options=buffers)
    assert opened.per_worker[0][0].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 100_000
    opened.close()


def test_options_that_do_not_apply_are_refused_without_open_sockets(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    addresses = ["127.0.0.1:0", f"unix:{tmp_path}/two"]
    with pytest.raises(ValueError, match="keepalive_idle does not apply"):
        open_sockets(addresses, 2, reuseport=True, backlog=5, options=SocketOptions(keepalive_idle=7))
    with pytest.raises(ValueError, match="udp_gso does not apply"):
        open_sockets(addresses, 2, reuseport=True, backlog=5, options=SocketOptions(udp_gso=True))
    with pytest.raises(ValueError, match="reuse_port=False contradicts"):
        corenet.serve(main, "127.0.0.1:0", workers=2, options=SocketOptions(reuse_port=False))
    assert len(os.listdir("/proc/self/fd")) == before


def test_given_sockets_must_be_bound_streams() -> None:
    with socket.socket() as sock, pytest.raises(ValueError, match="bound socket"):
        open_sockets([sock], 1, reuseport=True, backlog=5)
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(ValueError, match="stream socket"):
        open_sockets([sock], 1, reuseport=True, backlog=5)


class Complete:
    """A service."""

    async def start(self, worker: Any) -> None:
        """Begin."""

    async def stop(self) -> None:
        """End."""


class Called:
    """A coroutine function that is an object."""

    async def __call__(self, worker: Any) -> None:
        """Serve."""


class WithStop(asyncio.Protocol):
    """A protocol class with methods named start and stop by chance."""

    def start(self) -> None:
        """Not a service's."""

    def stop(self) -> None:
        """Not a service's."""


async def main(worker: Any) -> None:
    """Serve."""


@pytest.mark.parametrize(
    ("app", "kind"),
    [
        (Complete(), "service"),
        (main, "main"),
        (Called(), "main"),
        (asyncio.Protocol, "protocols"),
        (WithStop, "protocols"),
        (lambda: asyncio.Protocol(), "protocols"),
    ],
)
def test_kinds_of_applications(app: Any, kind: str) -> None:
    assert kind_of(app) == kind
    assert isinstance(app, Service) == (kind == "service" or app is WithStop)


def test_an_application_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "served_by_name.py").write_text("class Outer:\n    class App: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load("served_by_name:Outer.App").__qualname__ == "Outer.App"
    for wrong in ("served_by_name", "served_by_name:", ":App"):
        with pytest.raises(ValueError, match="is not of the form module:name"):
            load(wrong)
    sys.modules.pop("served_by_name")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"workers": -1}, ValueError, "workers: -1 is outside"),
        ({"workers": 5000}, ValueError, "workers: 5000 is outside"),
        ({"grace": -0.1}, ValueError, "grace"),
        ({"grace": float("nan")}, TypeError, "grace"),
        ({"grace": "5"}, TypeError, "grace"),
        ({"backlog": 0}, ValueError, "backlog: 0 is outside"),
        ({"mode": "fork"}, ValueError, "mode must be"),
        ({"app": 5}, TypeError, "5 is not a protocol factory"),
        ({"app": main, "ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}, ValueError, "ssl is for protocol factories"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], error: type[Exception], text: str) -> None:
    app = options.pop("app", asyncio.Protocol)
    with pytest.raises(error, match=text):
        corenet.serve(app, ("127.0.0.1", 0), **options)


def test_refused_outside_the_main_thread_and_inside_a_loop() -> None:
    caught: list[str] = []

    def elsewhere() -> None:
        try:
            corenet.serve(asyncio.Protocol, 0)
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert caught == ["serve() handles signals and must be called in the main thread"]

    async def inside() -> None:
        with pytest.raises(RuntimeError, match="while a loop is running"):
            corenet.serve(asyncio.Protocol, 0)

    corenet.run(inside())
