"""The service manager: notifications, watchdog, inherited sockets, the unit, and the user that the daemon becomes."""

import os
import pwd
import re
import socket
from configparser import RawConfigParser

import pytest

from resolver import limits
from resolver.daemon import activation, privileges, service_manager, unit_file
from resolver.daemon.config import load
from resolver.daemon.service_manager import ServiceManager
from resolver.daemon.sockets import ListenError, close_all
from resolver.settings import ListenerSettings, ServerSettings, Settings


def environment(**values):
    return {"PATH": "/bin", **{name: str(value) for name, value in values.items()}}


@pytest.fixture
def manager(tmp_path):
    """A manager's socket, and its path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        path = str(tmp_path / "notify")
        receiver.bind(path)
        receiver.settimeout(30)
        yield receiver, path


# --- notifications ------------------------------------------------------------------------------------------------


def test_each_notification_is_one_datagram(manager):
    receiver, path = manager
    notifier = ServiceManager.take(environment(NOTIFY_SOCKET=path))
    notifier.ready("serving\n127.0.0.1")
    notifier.reloading()
    notifier.alive()
    notifier.stopping()
    assert receiver.recv(100) == b"READY=1\nSTATUS=serving 127.0.0.1"
    assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", receiver.recv(100))
    assert receiver.recv(100) == b"WATCHDOG=1"
    assert receiver.recv(100) == b"STOPPING=1\nSTATUS=stopping"


def test_an_abstract_address_begins_with_an_at_sign():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("")  # the kernel selects an abstract name
        receiver.settimeout(30)
        ServiceManager("@" + receiver.getsockname()[1:].decode()).alive()
        assert receiver.recv(100) == b"WATCHDOG=1"


def test_without_a_manager_nothing_is_sent():
    notifier = ServiceManager.take(environment())
    notifier.ready("serving")
    assert notifier.watchdog == 0 and notifier.sockets == []


def test_an_absent_manager_is_a_log_line(tmp_path, caplog):
    ServiceManager(str(tmp_path / "none")).ready("serving")
    assert "cannot send READY=1 to NOTIFY_SOCKET" in caplog.text


def test_the_variables_are_removed():
    given = environment(NOTIFY_SOCKET="/none", WATCHDOG_USEC=1_000_000, LISTEN_FDS=1, LISTEN_PID=1, LISTEN_FDNAMES="a")
    ServiceManager.take(given)
    assert given == environment()


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ({"WATCHDOG_USEC": 3_000_000}, 3.0),
        ({"WATCHDOG_USEC": 3_000_000, "WATCHDOG_PID": os.getpid()}, 3.0),
        ({"WATCHDOG_USEC": 3_000_000, "WATCHDOG_PID": os.getpid() + 1}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_watchdog_is_for_the_named_process(values, seconds):
    assert ServiceManager.take(environment(NOTIFY_SOCKET="/none", **values)).watchdog == seconds


@pytest.mark.parametrize("name", ["WATCHDOG_USEC", "LISTEN_FDS"])
@pytest.mark.parametrize("value", ["x", "-1", "1.5", "²", "9" * 400, "9" * 5000])
def test_a_malformed_number_names_the_variable(name, value):
    with pytest.raises(ValueError, match=f"environment variable {name}: "):
        ServiceManager.take(environment(**{"LISTEN_PID": os.getpid(), name: value}))


@pytest.mark.parametrize("value", [1, 99_999, 86_400_000_001])
def test_a_watchdog_that_no_worker_can_serve_is_refused(value):
    with pytest.raises(ValueError, match=rf"WATCHDOG_USEC: {value} is outside 100000\.\.86400000000 .*WatchdogSec="):
        ServiceManager.take(environment(WATCHDOG_USEC=value))


def test_a_manager_that_does_not_read_is_not_a_log_line_for_each_heartbeat(tmp_path, caplog):
    manager = ServiceManager(str(tmp_path / "none"))
    for _ in range(100):
        manager.alive()
        manager.ready("serving")
    assert len(caplog.records) == 2


# --- inherited sockets --------------------------------------------------------------------------------------------


def bound(kind, host="127.0.0.1", port=0):
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    if ":" in host:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made


def pair(host="127.0.0.1"):
    """UDP and TCP sockets with one port."""
    while True:
        udp = bound(socket.SOCK_DGRAM, host)
        try:
            return [udp, bound(socket.SOCK_STREAM, host, udp.getsockname()[1])]
        except OSError:
            udp.close()


def test_descriptors_become_sockets_that_children_do_not_inherit(monkeypatch):
    with bound(socket.SOCK_DGRAM) as given:
        copies = [os.dup(given.fileno()) for _ in range(2)]
        os.set_inheritable(copies[0], True)
        monkeypatch.setattr(service_manager, "FIRST_DESCRIPTOR", copies[0])
        [one] = ServiceManager.take(environment(LISTEN_FDS=1, LISTEN_PID=os.getpid())).sockets
        assert one.getsockname() == given.getsockname() and not one.get_inheritable() and not one.getblocking()
        one.close()
        os.close(copies[1])


def test_descriptors_of_another_process_are_left_alone():
    assert ServiceManager.take(environment(LISTEN_FDS=1, LISTEN_PID=os.getpid() + 1)).sockets == []


def test_a_descriptor_that_is_no_socket_is_an_error_and_nothing_is_closed(monkeypatch):
    with bound(socket.SOCK_DGRAM) as first, open(os.devnull) as second:
        monkeypatch.setattr(service_manager, "range", lambda *_: [first.fileno(), second.fileno()], raising=False)
        with pytest.raises(ValueError, match=f"descriptor {second.fileno()} is not a socket"):
            ServiceManager.take(environment(LISTEN_FDS=2, LISTEN_PID=os.getpid()))
        assert first.getsockname() and not second.closed


def test_too_many_descriptors_are_refused():
    with pytest.raises(ValueError, match="is more than"):
        ServiceManager.take(environment(LISTEN_FDS=limits.INHERITED_SOCKETS + 1, LISTEN_PID=os.getpid()))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_uses_both_its_inherited_sockets_and_workers_share_them(host):
    given = pair(host)
    port = given[0].getsockname()[1]
    shares = activation.adopt_endpoints([(host, port, "dns"), ("127.0.0.2", port, "dns")], given, 2)
    assert given == []
    try:
        assert [len(share) for share in shares] == [1, 1]
        assert {share[0].udp.getsockname()[1] for share in shares} == {port}
        assert {share[0].tcp.getsockname()[:2] for share in shares} == {(host, port)}
        assert shares[0][0].udp.fileno() != shares[1][0].udp.fileno()
        assert shares[0][0].tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    finally:
        close_all(shares)


def test_a_protocol_without_udp_needs_only_tcp():
    given = [bound(socket.SOCK_STREAM)]
    port = given[0].getsockname()[1]
    shares = activation.adopt_endpoints([("127.0.0.1", port, "tls")], given, 1)
    assert shares[0][0].udp is None
    close_all(shares)


def test_a_missing_transport_names_the_directive():
    udp = bound(socket.SOCK_DGRAM)
    port = udp.getsockname()[1]
    with pytest.raises(ListenError) as caught:
        activation.adopt_endpoints([("127.0.0.1", port, "dns")], [udp], 1)
    assert f"ListenStream=127.0.0.1:{port}" in caught.value.strerror
    assert udp.fileno() == -1


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_an_unused_inherited_socket_is_named(kind):
    unconfigured = bound(kind)
    port = unconfigured.getsockname()[1]
    with pytest.raises(ListenError) as caught:
        activation.adopt_endpoints([("127.0.0.2", port, "dns")], [unconfigured], 1)
    transport = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
    assert f"127.0.0.1:{port} ({transport}), which no listener has" in caught.value.strerror
    assert unconfigured.fileno() == -1


# --- the user -----------------------------------------------------------------------------------------------------


def test_an_unknown_user_and_root_are_refused():
    with pytest.raises(ValueError, match=r"server.user: this system has no user 'no-such-user'"):
        privileges.find_user("no-such-user")
    with pytest.raises(ValueError, match=r"server\.user: this system has no user 'a"):
        privileges.find_user("a\0b")
    with pytest.raises(ValueError, match=r"server.user: 'root' is root"):
        privileges.find_user("root")


def test_only_root_becomes_another_user(monkeypatch):
    monkeypatch.setattr(privileges.os, "geteuid", lambda: 1000)
    assert privileges.find_user("nobody") is None and privileges.find_user("") is None
    monkeypatch.setattr(privileges.os, "geteuid", lambda: 0)
    assert privileges.find_user("nobody") == pwd.getpwnam("nobody")


def test_groups_are_dropped_before_the_user(monkeypatch):
    calls = []
    for name in ("initgroups", "setresgid", "setresuid"):
        monkeypatch.setattr(privileges.os, name, lambda *given, name=name: calls.append((name, *given)))
    monkeypatch.setattr(privileges.os, "getresuid", lambda: (7, 7, 7))
    privileges.drop_root(pwd.struct_passwd(("someone", "x", 7, 8, "", "/", "/")))
    assert calls == [("initgroups", "someone", 8), ("setresgid", 8, 8, 8), ("setresuid", 7, 7, 7)]


@pytest.fixture
def without_root(monkeypatch):
    """Nothing gives up root here; this process seems to be the user nobody."""
    for name in ("initgroups", "setresgid", "setresuid"):
        monkeypatch.setattr(privileges.os, name, lambda *given: None)
    monkeypatch.setattr(privileges.os, "getresuid", lambda: (7, 7, 7))
    monkeypatch.setattr(privileges.os, "geteuid", lambda: pwd.getpwnam("nobody").pw_uid)


@pytest.mark.parametrize("hidden", [os.__file__, pytest.__file__, os.path.dirname(pytest.__file__)])
def test_a_program_that_the_user_cannot_read_is_named(monkeypatch, without_root, hidden):
    """Any part of it, also a directory from which nothing else was loaded yet."""
    monkeypatch.setattr(privileges.os, "access", lambda path, mode: path != hidden)
    with pytest.raises(PermissionError, match=f"server.user: nobody cannot read {re.escape(hidden)}; install Python"):
        privileges.drop_root(pwd.getpwnam("nobody"))


def test_a_module_that_the_user_cannot_load_is_explained(without_root):
    missing = ModuleNotFoundError("No module named 'qh3'", name="qh3")
    assert re.match("server.user: nobody cannot load qh3 .*; install Python", privileges.explain("nobody", missing))
    unreadable = PermissionError(13, "Permission denied", "/usr/lib/python3/a.py")
    assert "nobody cannot read /usr/lib/python3/a.py; install" in privileges.explain("nobody", unreadable)
    elsewhere = PermissionError(13, "Permission denied", "/etc/x")
    for name, error in (("", missing), ("root", missing), ("nobody", elsewhere), ("nobody", ValueError("no"))):
        assert privileges.explain(name, error) == ""


def test_a_saved_root_id_is_detected(monkeypatch):
    for name in ("initgroups", "setresgid", "setresuid"):
        monkeypatch.setattr(privileges.os, name, lambda *given: None)
    monkeypatch.setattr(privileges.os, "getresuid", lambda: (7, 7, 0))
    with pytest.raises(PermissionError):
        privileges.drop_root(pwd.struct_passwd(("someone", "x", 7, 8, "", "/", "/")))


# --- the unit -----------------------------------------------------------------------------------------------------


def unit(settings=None, program="/usr/bin/resolverd", config="/etc/resolverd.toml"):
    parsed = RawConfigParser(strict=False)
    parsed.optionxform = str
    parsed.read_string(unit_file.render(settings or Settings(), program, config))
    return parsed


def test_an_unprivileged_port_needs_no_capability():
    service = unit()["Service"]
    assert service["ExecStart"] == "/usr/bin/resolverd --config /etc/resolverd.toml"
    assert service["Type"] == "notify" and service["DynamicUser"] == "yes"
    assert service["CapabilityBoundingSet"] == "" and "AmbientCapabilities" not in service
    assert service["PrivateUsers"] == "yes"


@pytest.mark.parametrize("settings", [
    Settings(server=ServerSettings(listen=("0.0.0.0:53",))),
    Settings(listener=(ListenerSettings(address="127.0.0.1:853", protocol="dns"),)),
])
def test_a_privileged_port_needs_a_capability(settings):
    service = unit(settings)["Service"]
    assert service["AmbientCapabilities"] == service["CapabilityBoundingSet"] == "CAP_NET_BIND_SERVICE"
    assert service["PrivateUsers"] == "no"


def test_directories_and_user_come_from_the_settings(tmp_path):
    (tmp_path / "r.toml").write_text(
        '[server]\nuser = "nobody"\n[cache]\nsnapshot-file = "/var/lib/resolverd/cache"\n'
        '[dnssec]\nauto-trust-anchor-file = "/srv/a b/anchors"\n[control]\nsocket = "/run/resolverd/control"\n'
        '[query-log]\nfile = "/var/log/resolverd/queries.log"\n'
    )
    service = unit(load(str(tmp_path / "r.toml")))["Service"]
    assert service["LogsDirectory"] == "resolverd"
    assert service["User"] == "nobody" and "DynamicUser" not in service
    assert service["StateDirectory"] == "resolverd" and service["RuntimeDirectory"] == "resolverd"
    assert service["ReadWritePaths"] == '"/srv/a b"'


@pytest.mark.parametrize("written", [
    '[zones]\ndirectory = "/srv/d"\n[[zone]]\nname = "a."\nprimaries = ["192.0.2.1"]\n',
    '[[list]]\nname = "a"\nfile = "/srv/d/list"\nurl = "https://a.test/"\n',
    '[control]\nchanges-file = "/srv/d/changes"\n',
])
def test_every_directory_in_which_files_are_written_is_writable(tmp_path, written):
    (tmp_path / "r.toml").write_text(written + '[policy]\nhosts-files = ["/srv/read/hosts"]\n')
    assert unit(load(str(tmp_path / "r.toml")))["Service"]["ReadWritePaths"] == "/srv/d"


@pytest.mark.parametrize(("path", "quoted"), [
    ("/opt/100%/x", "/opt/100%%/x"), ("/opt/$HOME", "/opt/$$HOME"), ('/opt/a"b', '"/opt/a\\"b"'),
    ("/opt/a\\b", '"/opt/a\\\\b"'), ("/opt/a;b", '"/opt/a;b"'),
])
def test_paths_are_quoted(path, quoted):
    assert unit(program=path, config=None)["Service"]["ExecStart"] == quoted


def test_a_line_end_in_a_path_is_refused():
    with pytest.raises(ValueError, match="line end"):
        unit(program="/opt/a\nExecStartPre=/bin/sh")


def test_a_program_below_home_is_readable_in_the_unit():
    assert unit(program="/home/me/venv/bin/resolverd")["Service"]["ProtectHome"] == "read-only"


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_a_connected_socket_serves_nobody_else_and_is_refused(kind):
    udp, tcp = pair()
    port = udp.getsockname()[1]
    with bound(socket.SOCK_DGRAM) as peer, bound(socket.SOCK_STREAM) as listening:
        listening.listen()
        if kind == "udp":
            udp.connect(peer.getsockname())
        else:
            tcp.connect(listening.getsockname())
        with pytest.raises(ListenError, match=f"a connected {kind.upper()} socket for 127.0.0.1:{port}, .*Accept=no"):
            activation.adopt_endpoints([("127.0.0.1", port, "dns")], [udp, tcp], 2)
    assert udp.fileno() == tcp.fileno() == -1
