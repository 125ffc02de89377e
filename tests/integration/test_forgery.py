"""Forged data of names below aliases, sent to real resolvers: our daemon must reject them, as Unbound does.

The servers are those of `support.forger`, on loopback addresses; one of them sends forged data of names below aliases
into unsigned zones. Unbound queries port 53 only, so it is skipped when that port is not available.
"""

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest
from support.fakenet import Host
from support.forger import EXAMPLE_IP, PLAIN_IP, ROOT_IP, ROOT_KEY, SUB_IP, attack, forged_set, true_hosts
from support.servers import ask
from support.subject import Subject, start_subject, upstream_port_for

from resolver.wire import consts as c

pytestmark = pytest.mark.integration

#: address in the zones: loopback address on which its server listens.
LISTEN_IPS = {ROOT_IP: "127.20.241.1", EXAMPLE_IP: "127.20.241.2", PLAIN_IP: "127.20.241.3", SUB_IP: "127.20.241.4"}
HINTS = f". 3600 NS a.root.\na.root. 3600 A {LISTEN_IPS[ROOT_IP]}\n"
DAY = 86400
#: (owner of the forged A record, signer name of its RRSIG; "" for an unsigned record).
ATTACKS = [
    ("x.alias.example.", "alias.example."),
    ("y.near.example.", ""),
    ("z.deep.er.alias2.example.", "er.alias2.example."),
    ("x.gone.example.", "gone.example."),
    ("x.y.two.example.", ""),
]


@contextmanager
def serving(hosts: dict[str, Host], port: int) -> Iterator[None]:
    """Answer over UDP at all addresses, in a thread, until the block ends."""
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        waker, wake = (stack.enter_context(one) for one in socket.socketpair())
        selector.register(waker, selectors.EVENT_READ, None)
        for address, host in hosts.items():
            server = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            server.bind((address, port))
            selector.register(server, selectors.EVENT_READ, host)

        def run() -> None:
            while True:
                for key, _ in selector.select():
                    if key.data is None:
                        return
                    packet, client = key.fileobj.recvfrom(65535)  # type: ignore[union-attr]
                    reply = key.data(packet, False)
                    if reply is not None:
                        key.fileobj.sendto(reply, client)  # type: ignore[union-attr]

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            wake.send(b"x")
            thread.join(30)
            assert not thread.is_alive(), "the server thread has not stopped"


@pytest.fixture(scope="module", params=["unbound", "resolverd"])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """A validating resolver in front of the forger."""
    now = int(time.time())
    hosts = true_hosts(inception=now - DAY, expiration=now + DAY, places=LISTEN_IPS)
    # `attack` replaces a host of `net.hosts`; it uses nothing else of a `Minet`.
    minet = SimpleNamespace(net=SimpleNamespace(hosts={EXAMPLE_IP: hosts[LISTEN_IPS[EXAMPLE_IP]]}))
    for owner, signer in ATTACKS:
        attack(minet, owner, "A", signer)
    hosts[LISTEN_IPS[EXAMPLE_IP]] = minet.net.hosts[EXAMPLE_IP]
    net = SimpleNamespace(authorities=dict.fromkeys(hosts), hints_text=lambda: HINTS)
    port = upstream_port_for(request.param, net)
    folder = tmp_path_factory.mktemp(request.param)
    with serving(hosts, port), start_subject(
        folder, net, port, kind=request.param, anchor=ROOT_KEY.anchor()
    ) as running:
        yield running


def test_forged_data_below_an_alias_are_rejected(subject: Subject) -> None:
    for index, (owner, _) in enumerate(ATTACKS):
        reply = ask(subject.address, subject.port, owner, c.A, timeout=30, do=True, edns_payload=1232)
        assert reply is not None, owner
        # Cached NSEC records may prove that a later name does not exist (RFC 8198); then nothing is queried.
        assert reply.rcode == c.SERVFAIL or (index and reply.rcode == c.NXDOMAIN), owner
        assert not any(rrset.packed == forged_set(owner, "A").packed for rrset in reply.answer), owner


@pytest.mark.parametrize(("name", "secure"), [("www.example.", True), ("alias.example.", False), ("www.plain.", False)])
def test_genuine_data_beside_the_forged_is_accepted(subject: Subject, name: str, secure: bool) -> None:
    reply = ask(subject.address, subject.port, name, c.A, timeout=30, do=True, edns_payload=1232)
    assert reply is not None
    assert (reply.rcode, bool(reply.flags & c.AD)) == (c.NOERROR, secure)
    assert reply.answer
