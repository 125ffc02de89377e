"""Listening sockets: UDP and TCP together, shared by workers, with reason and remedy when not available."""

import errno
import socket

import pytest
from support.ports import free_port

from resolver.daemon import sockets
from resolver.daemon.sockets import ListenError, check_sources, close_all, open_endpoints
from resolver.net.listen_socket import bound_socket
from resolver.net.stream_listener import open_stream_socket
from resolver.settings import (
    LISTENER_TRANSPORTS,
    IterationSettings,
    ListenerSettings,
    MetricsSettings,
    ServerSettings,
    Settings,
    TlsSettings,
    WebSettings,
)


def test_both_transports_get_the_same_port():
    shares = open_endpoints((("127.0.0.1", 0),))
    try:
        [[endpoint]] = shares
        assert endpoint.udp.getsockname() == endpoint.tcp.getsockname() == ("127.0.0.1", endpoint.port)
        assert str(endpoint) == f"127.0.0.1:{endpoint.port}"
        assert not endpoint.udp.getblocking() and not endpoint.udp.get_inheritable()
        other = endpoint.duplicate()
        endpoint.close()
        assert other.udp.getsockname()[1] == endpoint.port
        other.close()
    finally:
        close_all(shares)


def test_each_worker_has_its_own_sockets_on_one_port():
    port = free_port()
    shares = open_endpoints((("127.0.0.1", port),), shares=3)
    try:
        assert len({share[0].udp.fileno() for share in shares}) == 3
        assert {share[0].port for share in shares} == {port}
        with pytest.raises(ListenError):
            open_endpoints((("127.0.0.1", port),), shares=2)
    finally:
        close_all(shares)


def test_nothing_stays_open_when_one_address_fails():
    port = free_port()
    with pytest.raises(ListenError, match=r"192\.0\.2\.1 port 53000 \(UDP\)"):
        open_endpoints((("127.0.0.1", port), ("192.0.2.1", 53000)))
    close_all(open_endpoints((("127.0.0.1", port),)))


def test_missing_ipv6_is_ignored_only_when_permitted(monkeypatch):
    def refuse(address, port, **kw):
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    real = sockets.open_udp_socket
    monkeypatch.setattr(
        sockets, "open_udp_socket", lambda a, p, **kw: refuse(a, p, **kw) if ":" in a else real(a, p, **kw)
    )
    shares = open_endpoints((("127.0.0.1", 0), ("::1", 53001)), lenient=True)
    assert len(shares[0]) == 1
    close_all(shares)
    with pytest.raises(ListenError, match="does not have the address"):
        open_endpoints((("127.0.0.1", 0), ("::1", 53001)))
    with pytest.raises(ListenError, match="none of the configured addresses"):
        open_endpoints((("::1", 53001),), lenient=True)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EADDRINUSE, "ss -lunp 'sport = :53'"),
        (errno.EACCES, "CAP_NET_BIND_SERVICE"),
        (errno.EPERM, "--port 5335"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENOBUFS, "ENOBUFS"),
    ],
)
def test_each_error_names_a_remedy(monkeypatch, number, words):
    def refuse(address, port, **kw):
        raise OSError(number, "no")

    monkeypatch.setattr(sockets, "open_udp_socket", refuse)
    with pytest.raises(ListenError) as caught:
        open_endpoints((("127.0.0.1", 53),))
    assert caught.value.errno == number
    assert words in caught.value.strerror
    assert caught.value.strerror.startswith("cannot listen on 127.0.0.1 port 53 (UDP): no. ")


def test_a_source_address_that_the_host_does_not_have_is_refused_at_the_start():
    check_sources(IterationSettings())
    check_sources(IterationSettings(query_source_v4="127.0.0.1"))
    with pytest.raises(ListenError) as caught:
        check_sources(IterationSettings(query_source_v4="192.0.2.77"))
    assert caught.value.strerror.startswith("cannot send from 192.0.2.77: Cannot assign requested address; ")
    assert caught.value.strerror.endswith("see iteration.query-source-v4")


@pytest.mark.parametrize("lanes", [0, 2])
@pytest.mark.parametrize("protocol", LISTENER_TRANSPORTS)
@pytest.mark.parametrize("address", ["192.0.2.77", "2001:db8::77"])
def test_an_address_that_the_host_does_not_have_is_served_on_request(address, protocol, lanes):
    settings = Settings(server=ServerSettings(listen=("127.0.0.1:0",)), listener=(
        ListenerSettings(address=f"[{address}]:53001" if ":" in address else f"{address}:53001", protocol=protocol,
                         freebind=True),
    ), tls=TlsSettings(certificate=("/unused",), key=("/unused",)))
    wanted = [one.key for one in settings.listeners]
    shares = open_endpoints(wanted, freebind=settings.freebound, shares=2, lanes=lanes)
    try:
        for _, absent in shares:
            opened = [one for one in (absent.udp, absent.tcp, *absent.lanes) if one is not None]
            assert {one.getsockname()[:2] for one in opened} == {(address, 53001)}
            assert len(opened) == len(LISTENER_TRANSPORTS[protocol]) + (lanes > 0 and protocol == "dns")
    finally:
        close_all(shares)
    with pytest.raises(ListenError, match=r"does not have the address; .* set server\.freebind\.") as caught:
        open_endpoints(wanted, shares=2, lanes=lanes)
    assert caught.value.errno == errno.EADDRNOTAVAIL and caught.value.endpoint == wanted[1]


def test_freebind_of_the_server_is_for_all_addresses():
    settings = Settings(server=ServerSettings(listen=("192.0.2.77:53001",), freebind=True),
                        listener=(ListenerSettings(address="192.0.2.78:53001"),))
    assert settings.freebound == {("192.0.2.77", 53001, "dns"), ("192.0.2.78", 53001, "dns")}
    close_all(open_endpoints([one.key for one in settings.listeners], freebind=settings.freebound))
    assert Settings().freebound == frozenset()


def test_a_link_local_address_is_served_on_its_interface():
    with open("/proc/net/if_inet6") as file:
        found = [line.split() for line in file]
    local = next(((one[0], one[5]) for one in found if one[0].startswith("fe80")), None)
    if local is None:
        pytest.skip("this host has no link-local address")
    address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(local[0]))
    [[endpoint]] = open_endpoints(((f"{address}%{local[1]}", 0),))
    assert endpoint.udp.getsockname()[3] == endpoint.tcp.getsockname()[3] == socket.if_nametoindex(local[1])
    endpoint.close()
    with pytest.raises(ListenError, match=f"as in {address}%eth0"):
        open_endpoints(((address, 0),))


def test_an_interface_is_known_by_name_or_number():
    number = socket.if_nametoindex("lo")
    for zone in ("lo", str(number)):
        sock = bound_socket(socket.SOCK_DGRAM, f"::1%{zone}", 0, reuse_port=False, prepare=lambda sock: None)
        assert sock.getsockname()[0] == "::1"
        sock.close()
    with pytest.raises(ListenError, match=r"No interface 'nowhere'\. 'ip link' lists"):
        open_endpoints((("::1%nowhere", 0),))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_socket_that_cannot_be_prepared_is_closed(error):
    made = []

    def prepare(sock):
        made.append(sock)
        raise error

    with pytest.raises(error):
        bound_socket(socket.SOCK_DGRAM, "127.0.0.1", 0, reuse_port=False, prepare=prepare)
    assert made[0].fileno() == -1


# --- what the check of a configuration says of listeners is what Linux does -------------------------------------------


def is_refused_by_linux(places, workers, lanes):
    """Whether the daemon can open sockets at `places` (address, port, protocol), and listen on them, at the same time;
    "http" is the listener of metrics or of the web page."""
    opened, streams = [], []
    try:
        wanted = [one for one in places if one[2] != "http"]
        opened = open_endpoints(wanted, shares=workers, lanes=lanes, enough=True)
        streams = [one.tcp for share in opened for one in share if one.tcp is not None]
        streams += [open_stream_socket(*one[:2]) for one in places if one[2] == "http"]
        for one in streams:
            one.listen()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return True
    finally:
        close_all(opened)
        for one in streams:
            one.close()
    return False


def is_refused_by_the_check(places, workers, lanes):
    listeners, management = [], {}
    for address, port, protocol in places:
        text = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        if protocol != "http":
            listeners.append(ListenerSettings(address=text, protocol=protocol))
        elif "metrics" not in management:
            management["metrics"] = MetricsSettings(text)
        else:
            management["web"] = WebSettings(listen=text, token_file="token", allow_remote=True)
    server = ServerSettings(listen=() if listeners else ("192.0.2.1",), workers=workers, lanes=lanes)
    tls = TlsSettings(certificate=("cert",), key=("key",))
    try:
        Settings(server=server, listener=tuple(listeners), tls=tls, **management).check_bindable()
    except ValueError:
        return True
    return False


@pytest.mark.parametrize(("workers", "lanes"), [(1, 0), (2, 0), (1, 2)])
@pytest.mark.parametrize("first", ["dns", "tls", "https", "quic", "http"])
@pytest.mark.parametrize("second", ["dns", "tls", "quic", "http"])
def test_listeners_are_refused_exactly_when_linux_refuses_them(first, second, workers, lanes):
    transports = {name: set(ends) for name, ends in LISTENER_TRANSPORTS.items()} | {"http": {"tcp"}}
    names = ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::1%lo", "::"]
    try:
        bound_socket(socket.SOCK_STREAM, "::1", 0, reuse_port=False, prepare=lambda sock: None).close()
    except OSError:
        names = names[:3]
    for one in names:
        for other in names:
            port = free_port()
            places = [(one, port, first), (other, port, second)]
            # Two TCP sockets of one address with SO_REUSEPORT would share its connections, whatever is spoken there.
            same = one.partition("%")[0] == other.partition("%")[0] and transports[first] & transports[second]
            refused = is_refused_by_the_check(places, workers, lanes)
            assert refused == (bool(same) or is_refused_by_linux(places, workers, lanes)), places


@pytest.mark.parametrize("address", [
    "::ffff:127.0.0.1", "::ffff:0.0.0.0", "fe80::1", "fe80::1%0", "ff02::1", "ff0e::1",
])
def test_addresses_that_linux_never_binds_are_refused(address):
    with pytest.raises(ListenError, match="Invalid argument"):
        open_endpoints(((address, 0),))
    text = f"[{address}]:53"
    for setting, make in (
        ("server.listen", lambda: ServerSettings(listen=(text,))),
        ("address", lambda: ListenerSettings(address=text)),
        ("metrics.listen", lambda: MetricsSettings(text)),
        ("web.listen", lambda: WebSettings(listen=text, token_file="token", allow_remote=True)),
    ):
        with pytest.raises(ValueError, match=rf"^{setting}: '\[{address}\]:53' is .*address, "):
            make()


def test_an_address_that_the_host_lacks_is_permitted():
    assert not is_refused_by_the_check([("192.0.2.1", 53, "dns"), ("fe80::1%nowhere", 53, "dns")], 1, 0)
    assert not is_refused_by_the_check([("fe80::1%one", 53, "dns"), ("fe80::1%two", 53, "dns")], 1, 0)


@pytest.mark.parametrize(("settings", "words"), [
    ({"server": ServerSettings(listen=("127.0.0.1:5300", "0.0.0.0:5300"))},
     "server.listen: '0.0.0.0:5300' cannot be served beside '127.0.0.1:5300' (an entry of server.listen): 0.0.0.0 takes"
     " TCP port 5300 of all addresses"),
    ({"listener": (ListenerSettings(address="[::]:5300"), ListenerSettings(address="[::1]:5300"))},
     "listener: '[::1]:5300' cannot be served beside '[::]:5300' (listener[0]): :: takes TCP port 5300"),
    ({"server": ServerSettings(listen=("0.0.0.0:5300",)), "metrics": MetricsSettings("127.0.0.1:5300")},
     "metrics.listen: '127.0.0.1:5300' cannot be served beside '0.0.0.0:5300' (an entry of server.listen)"),
    ({"metrics": MetricsSettings("127.0.0.1:5300"), "web": WebSettings(listen="127.0.0.1:5300", token_file="token")},
     "web.listen: '127.0.0.1:5300' is the address and port of metrics.listen"),
])
def test_the_error_names_both_listeners(settings, words):
    with pytest.raises(ValueError) as caught:
        Settings(**settings).check_bindable()
    assert str(caught.value).startswith(words)


def test_sockets_that_are_passed_may_be_in_each_others_way():
    """A service manager opens them with options of its own (systemd: ReusePort=), so the settings alone refuse none."""
    assert Settings(server=ServerSettings(listen=("127.0.0.1:5300", "0.0.0.0:5300")))


def test_a_port_that_the_system_chooses_is_in_nobodys_way():
    assert not is_refused_by_the_check([("127.0.0.1", 0, "dns"), ("127.0.0.1", 0, "dns"), ("0.0.0.0", 0, "dns")], 1, 0)
