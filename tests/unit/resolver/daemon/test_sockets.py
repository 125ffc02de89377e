"""Listening sockets: UDP and TCP together, shared by workers, with reason and remedy when not available."""

import errno
import socket

import pytest
from support.ports import free_port

from resolver.daemon import sockets
from resolver.daemon.sockets import ListenError, check_sources, close_all, open_endpoints
from resolver.net.listen_socket import bound_socket
from resolver.settings import IterationSettings


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
    def refuse(address, port, *, reuse_port):
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
    def refuse(address, port, *, reuse_port):
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
