"""Session resumption between our client and server, and the cases in which a full handshake is made."""

import asyncio
import gc
import os
import ssl
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certs import Leaf
from support.tls_engines import ENGINES
from support.tls_pair import Greeted, Listening, leaf, ours, server_context
from support.twin import Recorder

from corenet.limits import (
    TLS_SESSION_LIFETIME,
    TLS_SESSION_OCTETS,
    TLS_SESSION_SIZE,
    TLS_SESSIONS,
    TLS_SESSIONS_PER_ORIGIN,
)
from corenet.tls import client_context, use_engine
from corenet.tls.sessions import Resumption, SessionCache

__all__ = ["leaf", "ours", "server_context"]

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
pytestmark = pytest.mark.skipif("openssl" not in ENGINES, reason="libssl is not to be had in this Python")


async def visits(server: ssl.SSLContext, clients: list[ssl.SSLContext]) -> list[bool]:
    """Connect once with each of the contexts, to one server; return whether each session was resumed."""
    async with Listening(server) as listening:
        return [await listening.visit(context) for context in clients]


@pytest.fixture
def native(each_tls_engine: str) -> Iterator[None]:
    """The engine that resumes, also while the other one is tested."""
    use_engine("openssl")
    yield
    use_engine(each_tls_engine)


def context_of(leaf: tuple[Leaf, Path], version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, **options: Any) -> Any:
    context = client_context(cafile=leaf[1], **options)
    context.maximum_version = version
    return context


@pytest.mark.parametrize("version", VERSIONS)
def test_second_connection_is_resumed(
    version: ssl.TLSVersion, ours: Any, each_tls_engine: str, leaf: tuple[Leaf, Path], server_context: ssl.SSLContext
) -> None:
    context = context_of(leaf, version)
    native = each_tls_engine == "openssl"
    assert ours(visits(server_context, [context] * 4)) == [False, native, native, native]


@pytest.mark.parametrize(
    "change",
    [
        lambda context, leaf: context.load_verify_locations(cafile=leaf[1]),
        lambda context, leaf: context.load_cert_chain(leaf[0].certificate, leaf[0].key),
        lambda context, leaf: context.set_alpn_protocols(["http/1.1", "h2"]),
        lambda context, leaf: context.set_ciphers("ECDHE+AESGCM"),
        lambda context, leaf: context.set_default_verify_paths(),
        lambda context, leaf: setattr(context, "verify_flags", context.verify_flags & ~ssl.VERIFY_X509_STRICT),
        lambda context, leaf: setattr(context, "check_hostname", False),
        lambda context, leaf: setattr(context, "hostname_checks_common_name", True),
        lambda context, leaf: setattr(context, "minimum_version", ssl.TLSVersion.TLSv1_3),
        lambda context, leaf: setattr(context, "options", context.options ^ ssl.OP_CIPHER_SERVER_PREFERENCE),
    ],
)
def test_a_changed_context_makes_a_full_handshake(
    change: Callable[[Any, Any], None],
    ours: Any,
    native: None,
    leaf: tuple[Leaf, Path],
    server_context: ssl.SSLContext,
) -> None:
    """A session is not resumed when the check of its full handshake would differ now."""
    context = context_of(leaf)

    async def main() -> None:
        async with Listening(server_context) as listening:
            assert [await listening.visit(context), await listening.visit(context)] == [False, True]
            change(context, leaf)
            assert [await listening.visit(context), await listening.visit(context)] == [False, True]

    ours(main())


def test_tickets_of_connections_older_than_the_change_are_dropped(
    ours: Any, native: None, leaf: tuple[Leaf, Path], server_context: ssl.SSLContext
) -> None:
    """A ticket received after the change belongs to a handshake that was checked before it."""
    context = context_of(leaf)

    async def main() -> None:
        class Changing(Greeted):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                # Before any ticket was read.
                context.load_cert_chain(leaf[0].certificate, leaf[0].key)

        async with Listening(server_context) as listening:
            _, protocol = await asyncio.get_running_loop().create_connection(
                Changing, *listening.server.sockets[0].getsockname(), ssl=context, server_hostname="localhost"
            )
            assert await protocol.lost is None
            assert not await listening.visit(context)
            assert await listening.visit(context)

    ours(main())


def test_change_between_making_and_connecting(native: None, leaf: tuple[Leaf, Path]) -> None:
    """A connection and the key of its session have the settings of the time when it was made."""
    context = client_context(cafile=leaf[1])
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    before = context.trust()  # type: ignore[attr-defined]
    context.verify_mode = ssl.CERT_REQUIRED
    assert context.trust() != before  # type: ignore[attr-defined]


def test_sessions_of_unverified_handshakes_are_not_resumed_with_verification(
    ours: Any, native: None, leaf: tuple[Leaf, Path], server_context: ssl.SSLContext
) -> None:
    """Sessions of unverified handshakes are not used once verification is on."""
    context = client_context(cafile=leaf[1])
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with Listening(server_context) as listening:
            assert not await listening.visit(context, "other.example")
            assert await listening.visit(context, "other.example")
            context.verify_mode = ssl.CERT_REQUIRED
            context.check_hostname = True
            with pytest.raises(ssl.SSLCertVerificationError):
                await listening.visit(context, "other.example")

    ours(main())


def test_sessions_are_separate_for_each_name_port_and_context(
    ours: Any, native: None, leaf: tuple[Leaf, Path], server_context: ssl.SSLContext
) -> None:
    context, other = context_of(leaf), context_of(leaf)

    async def main() -> None:
        async with Listening(server_context) as one, Listening(server_context) as two:
            assert [await one.visit(context), await one.visit(context)] == [False, True]
            assert not await one.visit(other)
            assert not await two.visit(context)
            # Another name, for which the same certificate is good.
            assert not await one.visit(context, "127.0.0.1")
            # Names are the same in any case of letters.
            assert await one.visit(context, "LOCALHOST")

    ours(main())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_stays_resumable_without_close_notify(
    version: ssl.TLSVersion, ours: Any, native: None, leaf: tuple[Leaf, Path], server_context: ssl.SSLContext
) -> None:
    """Clients that abort a connection, for example after a timeout, may still resume its session."""
    context = context_of(leaf, version)

    async def main() -> None:
        class Aborting(Recorder):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                self.transport.abort()

        async with Listening(server_context) as listening:
            transport, protocol = await asyncio.get_running_loop().create_connection(
                Aborting, *listening.server.sockets[0].getsockname(), ssl=context, server_hostname="localhost"
            )
            assert await protocol.lost is None
            connection = weakref.ref(transport)
            del transport, protocol
            gc.collect()
            assert connection() is None, "OpenSSL judges the session when its connection is freed"
            assert await listening.visit(context)

    ours(main())


def test_failed_handshake_leaves_no_session(
    ours: Any, native: None, leaf: tuple[Leaf, Path], server_context: ssl.SSLContext
) -> None:
    context = context_of(leaf)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with Listening(server_context) as listening:
            with pytest.raises(ssl.SSLCertVerificationError):
                await listening.visit(context, "wrong.example")

    ours(main())
    assert len(context.sessions) == 0


def test_a_failed_handshake_drops_the_servers_sessions() -> None:
    cache = SessionCache()
    cache.put("key", session())
    Resumption(cache, "key").failed()
    assert cache.take("key") is None


def test_resumption_can_be_switched_off(ours: Any, leaf: tuple[Leaf, Path], server_context: ssl.SSLContext) -> None:
    assert ours(visits(server_context, [context_of(leaf, resume=False)] * 2)) == [False, False]


def test_contexts_of_the_program_do_not_resume(
    ours: Any, leaf: tuple[Leaf, Path], server_context: ssl.SSLContext
) -> None:
    context = ssl.create_default_context(cafile=str(leaf[1]))
    assert ours(visits(server_context, [context] * 2)) == [False, False]


def test_sessions_end_with_their_context(leaf: tuple[Leaf, Path]) -> None:
    context = context_of(leaf)
    cache = weakref.ref(context.sessions)
    del context
    gc.collect()
    assert cache() is None


# --- the cache --------------------------------------------------------------------------------------------------------


class Fake:
    """A fake session."""

    def __init__(self, single_use: bool = True, octets: int = 1000, lifetime: int = 0) -> None:
        self.single_use = single_use
        self.octets = octets
        self.lifetime = lifetime
        self.expires = self.trusted_until = 1e9
        self.good = True

    def resumable(self) -> bool:
        return self.good


def session(**options: Any) -> Any:
    return Fake(**options)


def test_ticket_is_used_once_and_the_newest_first() -> None:
    cache = SessionCache(lambda: 0)
    first, second = session(), session()
    cache.put("key", first)
    cache.put("key", second)
    assert [cache.take("key"), cache.take("key"), cache.take("key")] == [second, first, None]
    assert (len(cache), cache.octets) == (0, 0)


def test_old_session_is_used_until_a_new_one_comes() -> None:
    cache = SessionCache(lambda: 0)
    first, second = session(single_use=False), session(single_use=False)
    cache.put("key", first)
    assert cache.take("key") is cache.take("key") is first
    cache.put("key", second)
    assert (cache.take("key"), len(cache)) == (second, 1)


def test_number_and_memory_of_sessions_are_bounded() -> None:
    cache = SessionCache(lambda: 0)
    for _ in range(TLS_SESSIONS_PER_ORIGIN + 3):
        cache.put("one", session())
    assert len(cache) == TLS_SESSIONS_PER_ORIGIN
    for number in range(TLS_SESSIONS):
        cache.put(number, session())
    assert len(cache) == TLS_SESSIONS
    assert cache.take("one") is None
    cache.put("large", session(octets=TLS_SESSION_SIZE + 1))
    assert cache.take("large") is None
    for number in range(TLS_SESSION_OCTETS // TLS_SESSION_SIZE + 5):
        cache.put(("big", number), session(octets=TLS_SESSION_SIZE))
    assert cache.octets <= TLS_SESSION_OCTETS
    cache.clear()
    assert (len(cache), cache.octets) == (0, 0)


def test_the_least_recently_used_key_is_evicted_first() -> None:
    cache = SessionCache(lambda: 0)
    for number in range(TLS_SESSIONS):
        cache.put(number, session(single_use=False))
    assert cache.take(0) is not None
    cache.put("new", session())
    assert cache.take(0) is not None
    assert cache.take(1) is None


def test_a_session_ends_by_time_and_when_openssl_says_so() -> None:
    now = 0.0
    cache = SessionCache(lambda: now)
    for made in (bad := session(), late := session()):
        cache.put("key", made)
    bad.good = False
    late.expires = 10
    now = 10
    assert cache.take("key") is None
    assert len(cache) == 0
    cache.put("key", late)
    assert len(cache) == 0


def test_repeated_resumption_does_not_prolong_trust() -> None:
    """A day after the full handshake the certificate is verified again, however new the ticket is."""
    now = 1000.0
    cache = SessionCache(lambda: now)
    opening = Resumption(cache, "key")
    assert opening.offer() is None
    opening.succeeded(False, float("inf"))
    opening.keep(session(lifetime=7 * 86_400))
    for _ in range(3):
        now += TLS_SESSION_LIFETIME / 4
        following = Resumption(cache, "key")
        assert following.offer() is not None
        following.succeeded(True, float("inf"))
        following.keep(session(lifetime=7 * 86_400))
    now += TLS_SESSION_LIFETIME / 4
    assert Resumption(cache, "key").offer() is None


def test_lifetimes_of_ticket_and_staple() -> None:
    now = 1000.0
    cache = SessionCache(lambda: now)
    for lifetime, valid_until, expected in ((60, 1e9, 1060), (600, 1100, 1100), (0, 1100, 1100)):
        opening = Resumption(cache, "key")
        opening.succeeded(False, valid_until)
        made = session(single_use=bool(lifetime), lifetime=lifetime)
        opening.keep(made)
        assert made.expires == expected


def test_a_ticket_with_lifetime_zero_is_not_kept() -> None:
    cache = SessionCache(lambda: 1000.0)
    opening = Resumption(cache, "key")
    opening.succeeded(False, 1e9)
    opening.keep(session(single_use=True, lifetime=0))
    assert (len(cache), cache.take("key")) == (0, None)
    # In TLS 1.2 zero means that the server gives no lifetime.
    opening.keep(session(single_use=False, lifetime=0))
    assert cache.take("key") is not None


class Interrupted(Fake):
    """Simulates the garbage collector, which runs finalizers during any call."""

    def __init__(self, finalizer: Callable[[], object], **options: Any) -> None:
        super().__init__(**options)
        self.finalizer = finalizer

    def resumable(self) -> bool:
        self.finalizer()
        return True


@pytest.mark.parametrize("single_use", [True, False])
@pytest.mark.parametrize("deed", ["clear", "discard"])
def test_a_finalizer_may_drop_sessions_during_a_call(deed: str, single_use: bool) -> None:
    cache = SessionCache(lambda: 0)
    finalizer = cache.clear if deed == "clear" else lambda: cache.discard("key")
    made: Any = Interrupted(finalizer, single_use=single_use)
    cache.put("key", session())
    cache.put("key", made)
    assert cache.take("key") is made
    assert (len(cache), cache.octets, cache.generation) == (0, 0, deed == "clear")
    assert cache.take("key") is None
    cache.put("key", session())
    assert (len(cache), cache.octets) == (1, 1000)


def test_a_finalizer_may_use_sessions_during_a_call() -> None:
    cache = SessionCache(lambda: 0)
    found: list[object] = []
    made: Any = Interrupted(lambda: (found.append(cache.take("key")), cache.put("key", session(single_use=False))))
    cache.put("key", made)
    assert cache.take("key") is made
    assert found == [None]
    assert (len(cache), cache.octets) == (0, 0)


def test_the_child_of_a_fork_has_no_sessions() -> None:
    cache = SessionCache(lambda: 0)
    cache.put("key", session())
    child = os.fork()
    if not child:
        os._exit(7 if cache.take("key") is None and len(cache) == 0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert cache.take("key") is not None


def test_the_fake_session_has_the_attributes_of_a_real_one(
    ours: Any, native: None, leaf: tuple[Leaf, Path], server_context: ssl.SSLContext
) -> None:
    context = context_of(leaf)
    ours(visits(server_context, [context]))
    for kept in context.sessions._sessions.values():
        real = kept[-1]
        assert real.single_use and real.resumable()
        assert 1000 < real.octets < TLS_SESSION_SIZE
        assert real.lifetime > 0
        assert real.expires <= real.trusted_until
