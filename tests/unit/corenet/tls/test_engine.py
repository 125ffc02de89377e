"""Two TLS engines connected in memory, with the byte stream cut at any position; no clock or socket."""

import _ssl
import ctypes
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tls_engines import ENGINES

from corenet.limits import TLS_CONTROL_RECORDS
from corenet.tls.engine import TlsEngine
from corenet.tls.engines import make_tls_engine, tls_engine, use_engine


@cache
def contexts(version: str = "any") -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context with one temporary authority."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("peer.example").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    if version == "1.2":
        client.maximum_version = ssl.TLSVersion.TLSv1_2
    return server, client


def shake(client: TlsEngine, server: TlsEngine, cut: int = 1 << 20) -> None:
    """Run the handshake in pieces of `cut` bytes until neither side has anything to send."""
    client.handshake()
    while True:
        outward, inward = client.drain(), server.drain()
        if not outward and not inward:
            return
        for receiver, data in ((server, outward), (client, inward)):
            for start in range(0, len(data), cut):
                receiver.feed(data[start : start + cut])
                if not receiver.established:
                    receiver.handshake()


def pair(version: str = "any", cut: int = 1 << 20) -> tuple[TlsEngine, TlsEngine]:
    """A client and a server after their handshake."""
    server_context, client_context = contexts(version)
    client = make_tls_engine(client_context, False, "peer.example")
    server = make_tls_engine(server_context, True)
    shake(client, server, cut)
    assert client.established
    assert server.established
    return client, server


def plaintext(engine: TlsEngine) -> Iterator[bytes]:
    """All records that can be read now."""
    while piece := engine.read():
        yield piece


def write_all(engine: TlsEngine, data: bytes) -> None:
    while data:
        data = data[engine.write(data) :]


@pytest.mark.parametrize("version", ["any", "1.2"])
@pytest.mark.parametrize("cut", [1, 7, 100, 1 << 20])
def test_handshake_in_pieces(version: str, cut: int) -> None:
    client, server = pair(version, cut)
    assert client.ssl_object.version() == ("TLSv1.2" if version == "1.2" else "TLSv1.3")
    assert client.read() is None
    write_all(server, b"hello")
    client.feed(server.drain())
    assert client.read() == b"hello"
    assert client.read() is None


@settings(max_examples=60, deadline=None)
@given(
    version=st.sampled_from(["any", "1.2"]),
    sizes=st.lists(st.integers(1, 40_000), min_size=1, max_size=8),
    cuts=st.lists(st.integers(1, 20_000), min_size=1, max_size=8),
    room=st.sampled_from([0, 1, 100, 16_384, 70_000]),
)
def test_plaintext_is_the_same_for_any_chunking(version: str, sizes: list[int], cuts: list[int], room: int) -> None:
    client, server = pair(version)
    sent = b""
    for number, size in enumerate(sizes):
        piece = bytes([number + 1]) * size
        write_all(client, piece)
        sent += piece
    wire = client.drain()
    received = b""
    number = 0
    buffer = memoryview(bytearray(room))
    while wire:
        cut = cuts[number % len(cuts)]
        number += 1
        server.feed(wire[:cut])
        wire = wire[cut:]
        if room:
            while count := server.read_into(buffer):
                received += bytes(buffer[:count])
        else:
            received += b"".join(plaintext(server))
    assert received == sent
    assert server.read() is None


def test_many_records_may_arrive_with_the_last_flight() -> None:
    """The client's data may come in one piece with the end of its handshake."""
    server_context, client_context = contexts()
    client = make_tls_engine(client_context, False, "peer.example")
    server = make_tls_engine(server_context, True)
    client.handshake()
    server.feed(client.drain())
    assert not server.handshake()
    client.feed(server.drain())
    assert client.handshake()
    write_all(client, b"a" * 50_000)
    server.feed(client.drain())
    assert server.handshake()
    assert b"".join(plaintext(server)) == b"a" * 50_000


def test_close_notify_is_answered() -> None:
    client, server = pair()
    write_all(client, b"last words")
    assert not client.shutdown()
    server.feed(client.drain())
    assert server.read() == b"last words"
    assert server.read() == b""
    assert server.shutdown()
    client.feed(server.drain())
    assert client.shutdown()


def test_close_notifies_that_cross() -> None:
    client, server = pair()
    assert not client.shutdown()
    assert not server.shutdown()
    outward, inward = client.drain(), server.drain()
    server.feed(outward)
    client.feed(inward)
    assert client.shutdown()
    assert server.shutdown()


def test_data_after_our_close_notify_is_still_read() -> None:
    client, server = pair()
    client.feed(server.drain())
    assert not client.shutdown()
    write_all(server, b"still talking")
    client.feed(server.drain())
    with pytest.raises(ssl.SSLError, match="APPLICATION_DATA_AFTER_CLOSE_NOTIFY"):
        client.shutdown()


def test_a_wrong_name_is_refused_and_the_server_gets_an_alert() -> None:
    server_context, client_context = contexts()
    client = make_tls_engine(client_context, False, "other.example")
    server = make_tls_engine(server_context, True)
    client.handshake()
    server.feed(client.drain())
    server.handshake()
    client.feed(server.drain())
    with pytest.raises(ssl.SSLCertVerificationError):
        client.handshake()
    server.feed(client.drain())
    with pytest.raises(ssl.SSLError, match="ALERT"):
        server.handshake()


def test_an_invalid_host_name_is_refused() -> None:
    with pytest.raises(ValueError, match="server_hostname"):
        make_tls_engine(contexts()[1], False, "")


def test_other_bytes_instead_of_a_handshake_fail() -> None:
    server = make_tls_engine(contexts()[0], True)
    server.feed(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(ssl.SSLError, match="HTTP_REQUEST"):
        server.handshake()


@pytest.mark.parametrize("garbage", [b"\x00\x00\x00\x00\x00", b"\x17\x03\x03\xff\xff", b"GET / HTTP/1.1\r\n\r\n"])
def test_other_bytes_between_records_fail_at_once(garbage: bytes) -> None:
    """An impossible header is refused at once, not after the 65,535 bytes that it announces."""
    client, server = pair()
    write_all(client, b"good")
    server.feed(client.drain() + garbage)
    assert server.read() == b"good"
    with pytest.raises(ssl.SSLError):
        server.read()


def test_a_changed_byte_is_noticed() -> None:
    client, server = pair()
    write_all(client, b"x" * 100)
    wire = bytearray(client.drain())
    wire[-1] ^= 1
    server.feed(bytes(wire))
    with pytest.raises(ssl.SSLError, match=r"BAD_RECORD_MAC|RECORD_LAYER_FAILURE"):
        server.read()


def test_subclass_of_ssl_object_is_respected() -> None:
    seen: list[int] = []

    class Counting(ssl.SSLObject):
        def write(self, data: bytes) -> int:  # type: ignore[override]
            seen.append(len(data))
            return super().write(data)

    server_context, _ = contexts()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.sslobject_class = Counting
    client, server = make_tls_engine(context, False), make_tls_engine(server_context, True)
    shake(client, server)
    write_all(client, b"four")
    assert seen == [4]


# --- the same on both engines -----------------------------------------------------------------------------------------


def broken_by(version: str, wire: Callable[[TlsEngine, TlsEngine], bytes]) -> ssl.SSLError:
    """The error of a server that reads what `wire` does to a new connection."""
    client, server = pair(version)
    server.feed(wire(client, server))
    with pytest.raises(ssl.SSLError) as caught:
        list(plaintext(server))
    return caught.value


def changed(client: TlsEngine, server: TlsEngine) -> bytes:
    write_all(client, b"x" * 100)
    wire = bytearray(client.drain())
    wire[-1] ^= 1
    return bytes(wire)


@pytest.mark.parametrize("version", ["any", "1.2"])
@pytest.mark.parametrize(
    "wire",
    [
        changed,
        lambda client, server: b"\x17\x03\x03\xff\xff" + bytes(100),
        lambda client, server: b"\x15\x03\x03\x00\x02\x02\x28",
        lambda client, server: b"\x15\x03\x03\x00\x13" + bytes(19),
        lambda client, server: b"GET / HTTP/1.1\r\n\r\n",
        lambda client, server: b"\x16\x03\x03\x00\x04\x00\x00\x00\x00",
    ],
)
def test_errors_are_those_of_the_standard_library(version: str, wire: Callable[[TlsEngine, TlsEngine], bytes]) -> None:
    found = []
    former = tls_engine().name
    for engine in ENGINES:
        use_engine(engine)
        error = broken_by(version, wire)
        # Without the line of _ssl.c.
        found.append((type(error), error.errno, error.library, error.reason, str(error).split(" (_ssl")[0]))
    use_engine(former)
    assert found[0] == found[-1]


def test_an_error_is_raised_again_and_leaves_the_error_queue_empty(each_tls_engine: str) -> None:
    client, server = pair()
    server.feed(changed(client, server))
    for _ in range(2):
        with pytest.raises(ssl.SSLError, match=r"BAD_RECORD_MAC|RECORD_LAYER_FAILURE"):
            server.read()
    # The peer is told.
    client.feed(server.drain())
    with pytest.raises(ssl.SSLError, match="ALERT"):
        client.read()
    # It does not affect another connection of this thread.
    client, server = pair()
    write_all(client, b"fine")
    server.feed(client.drain())
    assert server.read() == b"fine"


def test_errors_that_other_code_left_in_the_queue_are_ignored() -> None:
    """OpenSSL has one error queue per thread; `hashlib` and other callers of OpenSSL may leave errors there."""
    client, server = pair()
    write_all(client, b"data")
    wire = client.drain()
    server.feed(wire[:-1])
    library = ctypes.CDLL(_ssl.__file__)
    library.ERR_new()
    library.ERR_set_error(6, 100, None)
    assert server.read() is None
    library.ERR_new()
    library.ERR_set_error(6, 100, None)
    server.feed(wire[-1:])
    assert server.read() == b"data"


def test_ssl_object_outlives_its_engine() -> None:
    """Users may keep it, so its memory must stay valid."""
    client, server = pair()
    write_all(server, b"late")
    client.feed(server.drain())
    kept = client.ssl_object
    del client
    assert kept.read(100) == b"late"
    with pytest.raises(ssl.SSLWantReadError):
        kept.read(1)
    kept.write(b"x" * 100_000)
    assert kept.version() == "TLSv1.3"


def key_update(engine: TlsEngine) -> None:
    """Make OpenSSL send a key update that requests one in return."""
    core = engine.ssl_object._sslobj  # type: ignore[attr-defined]
    connection = ctypes.c_void_p.from_address(id(core) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p))
    library = ctypes.CDLL(_ssl.__file__)
    assert library.SSL_key_update(connection, 1) == 1
    assert library.SSL_do_handshake(connection) == 1


def test_key_updates_are_answered() -> None:
    client, server = pair()
    client.feed(server.drain())
    assert client.read() is None
    key_update(client)
    write_all(client, b"after")
    server.feed(client.drain())
    assert server.read() == b"after"
    write_all(server, b"answer")
    client.feed(server.drain())
    assert client.read() == b"answer"


@pytest.mark.parametrize("cut", [7, 1 << 20])
def test_flood_of_records_without_data(cut: int) -> None:
    """A key update costs the peer 27 bytes, and us a new key and an answer, so the number in a row is bounded."""
    client, server = pair()
    client.feed(server.drain())
    assert client.read() is None
    flood = b""
    for _ in range(TLS_CONTROL_RECORDS + 1):
        key_update(client)
        flood += client.drain()
    per_record = len(flood) // (TLS_CONTROL_RECORDS + 1)
    harmless = flood[: TLS_CONTROL_RECORDS * per_record]
    for start in range(0, len(harmless), cut):
        server.feed(harmless[start : start + cut])
        assert server.read() is None
    server.feed(flood[len(harmless) :])
    with pytest.raises(ssl.SSLError, match="without data"):
        server.read()
    # No answers without end wait for the peer.
    assert len(server.drain()) <= (TLS_CONTROL_RECORDS + 1) * per_record


@pytest.mark.parametrize("closer", ["client", "server"])
def test_flood_of_records_after_our_close_notify(closer: str) -> None:
    """While we wait for close_notify they are bounded as well, and nothing after them is kept."""
    client, server = pair()
    here, there = (client, server) if closer == "client" else (server, client)
    write_all(there, b"counted from here")
    here.feed(there.drain())
    assert here.read() == b"counted from here"
    assert not here.shutdown()
    here.drain()
    for _ in range(TLS_CONTROL_RECORDS):
        key_update(there)
        here.feed(there.drain())
        assert not here.shutdown()
    for _ in range(2):
        # The stdlib engine does not count the first one, before which data may have been.
        key_update(there)
        here.feed(there.drain())
    with pytest.raises(ssl.SSLError, match="without data"):
        here.shutdown()
    with pytest.raises(ssl.SSLError, match="without data"):
        here.read()


@pytest.fixture
def on_libssl(each_tls_engine: str) -> Iterator[None]:
    """Use libssl itself: the errors of the other engine are those of the standard library."""
    use_engine("openssl")
    yield
    use_engine(each_tls_engine)


@pytest.mark.skipif("openssl" not in ENGINES, reason="libssl is not to be had: the standard library reads")
@pytest.mark.usefixtures("on_libssl")
def test_a_failure_without_an_error_code_loses_no_byte() -> None:
    """The answer to a request for a certificate cannot be written, as without memory; OpenSSL could continue then."""
    library = ctypes.CDLL(_ssl.__file__)
    library.BIO_meth_new.restype = library.BIO_new.restype = ctypes.c_void_p
    results = [-1]
    write = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)(
        lambda _bio, _data, size: results.pop() if results else size
    )
    control = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p)(
        lambda *_: 1
    )
    method = ctypes.c_void_p(library.BIO_meth_new(0x400, b"broken"))
    library.BIO_meth_set_write(method, write)
    library.BIO_meth_set_ctrl(method, control)
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("peer.example").configure_cert(server_context)
    authority.configure_trust(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    server_context.verify_mode = ssl.CERT_OPTIONAL
    server_context.post_handshake_auth = client_context.post_handshake_auth = True
    client = make_tls_engine(client_context, False, "peer.example")
    server = make_tls_engine(server_context, True)
    shake(client, server)
    bio = ctypes.c_void_p(library.BIO_new(method))
    library.BIO_set_init(bio, 1)
    core = client.ssl_object._sslobj  # type: ignore[attr-defined]
    connection = ctypes.c_void_p.from_address(id(core) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p))
    library.SSL_set0_wbio(connection, bio)
    server.ssl_object._sslobj.verify_client_post_handshake()  # type: ignore[attr-defined]
    write_all(server, b"whole")
    client.feed(server.drain())
    for _ in range(2):
        with pytest.raises(ssl.SSLError):
            client.read()
    assert not results
    assert client.ssl_object.read(10) == b"whole"
    # Its BIO must end before the functions of its method.
    del core, connection, client


def test_records_with_data_reset_the_count_of_records_without_data() -> None:
    """A long connection may have many key updates; only consecutive ones count."""
    client, server = pair()
    for _ in range(3):
        for _ in range(TLS_CONTROL_RECORDS - 10):
            key_update(client)
        write_all(client, b"x")
        server.feed(client.drain())
        assert server.read() == b"x"


def test_data_before_the_handshake_is_refused() -> None:
    """OpenSSL would do the handshake inside the call, and pins and staples would not be checked."""
    server_context, client_context = contexts()
    client = make_tls_engine(client_context, False, "peer.example")
    server = make_tls_engine(server_context, True)
    calls: list[Callable[[TlsEngine], object]] = [
        lambda engine: engine.write(b"x"),
        lambda engine: engine.read(),
        lambda engine: engine.read_into(memoryview(bytearray(10))),
    ]
    for engine in (client, server):
        for call in calls:
            with pytest.raises(RuntimeError, match="handshake"):
                call(engine)
        assert engine.drain() == b""
    shake(client, server)
    assert client.write(b"x") == 1


def test_callbacks_of_the_context_are_called() -> None:
    """Callbacks for SNI, messages and keys are called with each engine."""
    server_context, client_context = contexts()
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("peer.example").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    names: list[str | None] = []
    server_context.sni_callback = lambda sock, name, context: names.append(name)
    messages: list[str] = []
    client_context._msg_callback = lambda conn, direction, *rest: messages.append(direction)  # type: ignore[attr-defined]
    client = make_tls_engine(client_context, False, "peer.example")
    server = make_tls_engine(server_context, True)
    shake(client, server)
    assert names == ["peer.example"]
    write_all(client, b"x")
    server.feed(client.drain())
    assert server.read() == b"x"
    assert "read" in messages and "write" in messages


@pytest.mark.skipif("openssl" not in ENGINES, reason="libssl is not to be had: the standard library allows it")
def test_a_callback_that_calls_its_own_connection_gets_an_error(each_tls_engine: str) -> None:
    """The name callback runs inside OpenSSL, which must not be entered a second time for that connection."""
    use_engine("openssl")
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("peer.example").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    seen: list[object] = []

    def named(*_arguments: object) -> None:
        seen.extend((server.handshake(), server.shutdown()))

    server_context.sni_callback = named
    client = make_tls_engine(client_context, False, "peer.example")
    server = make_tls_engine(server_context, True)
    use_engine(each_tls_engine)
    shake(client, server)
    assert seen == [False, False]
    assert client.established


# --- which engine -----------------------------------------------------------------------------------------------------


class Heap(ctypes.Structure):
    """What mallinfo(3) returns."""

    _fields_ = [
        (name, ctypes.c_int)
        for name in ("arena", "pieces", "small", "mappings", "mapped", "unused", "fast", "used", "free", "top")
    ]


@pytest.mark.parametrize("into", [False, True])
def test_openssl_keeps_no_buffer_after_session_tickets(each_tls_engine: str, into: bool) -> None:
    """Tickets and the first data are read together. The standard library's connection keeps the 17 KiB then."""
    library, heap = ctypes.CDLL(_ssl.__file__), ctypes.CDLL(None).mallinfo
    heap.restype = Heap
    client, server = pair()
    server.write(b"first data")
    client.feed(server.drain())
    if into:
        assert client.read_into(memoryview(bytearray(20))) == 10
    else:
        assert client.read() == b"first data"
    core = client.ssl_object._sslobj  # type: ignore[attr-defined]
    connection = ctypes.c_void_p.from_address(id(core) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p))
    before = heap().used
    library.SSL_free_buffers(connection)
    assert before - heap().used <= (0 if each_tls_engine == "openssl" else 20_000)


def test_the_chosen_engine_and_its_reason_are_reported(each_tls_engine: str) -> None:
    assert tls_engine().name == each_tls_engine
    assert tls_engine().reason
    assert type(pair()[0]).__name__ == {"openssl": "OpenSSLEngine", "stdlib": "StdlibEngine"}[each_tls_engine]


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="openssl, stdlib"):
        use_engine("rustls")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("stdlib", "stdlib selected by the program or the environment"),
        ("nss", "CORENET_TLS_ENGINE: the TLS engine is one of"),
    ],
)
def test_the_environment_chooses_the_engine(value: str, expected: str) -> None:
    code = "from corenet.tls import tls_engine\ntry: found = tls_engine(); print(found.name, found.reason)\n"
    code += "except ValueError as error: print(error)"
    told = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "CORENET_TLS_ENGINE": value}, capture_output=True, text=True,
        timeout=60,
    )
    assert told.stdout.startswith(expected), told


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("sys.implementation.name = 'pypy'", "version of Python"),
        ("ssl.OPENSSL_VERSION = 'OpenSSL 9.9.9'", "not the one"),
        ("ssl.OPENSSL_VERSION = 'LibreSSL 4.0'", "LibreSSL"),
        ("_ssl.__file__ = '/lib/nowhere.so'", "cannot be opened"),
        ("_ssl.__file__ = __import__('_socket').__file__", "cannot be found"),
        # A connection object of another type: its fields hold other pointers, whose memory is read without a crash.
        ("ssl.SSLContext.wrap_bio = lambda self, *a, **k: types.SimpleNamespace(_sslobj=self)", "unknown type or size"),
        # Connections whose BIOs are others than those that were given.
        (
            "wrap = ssl.SSLContext.wrap_bio\n"
            "ssl.SSLContext.wrap_bio = lambda self, one, two, **k: wrap(self, ssl.MemoryBIO(), ssl.MemoryBIO(), **k)",
            "unknown layout",
        ),
    ],
)
def test_an_unknown_layout_selects_the_stdlib_engine(spoil: str, reason: str) -> None:
    """A failed check selects the standard library's engine, with a reason and without a crash."""
    code = f"import _ssl, ssl, sys, types\nfrom corenet.tls import engines\n{spoil}\n"
    code += "found = engines.tls_engine(); print(found.name, found.reason)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert told.stdout.startswith("stdlib ") and reason in told.stdout, told
