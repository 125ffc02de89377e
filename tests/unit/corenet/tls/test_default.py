"""``ssl=True``: a context with the standard library's defaults, made once per process and again on change."""

import asyncio
import shutil
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.twin import Recorder, loop_factory, twin

import corenet
from corenet.tls import default

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The authority that the system trusts during a test."""
    made = Authority(tmp_path, "Trusted CA")
    monkeypatch.setenv("SSL_CERT_FILE", str(made.cafile))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "nothing"))
    monkeypatch.setattr(default, "_made", {})
    return made


async def serve(authority: Authority) -> tuple[Any, Any]:
    """A TLS server, and how to connect to it with ``ssl=True``."""
    leaf = authority.leaf("localhost", file="leaf")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf.certificate, leaf.key)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Recorder, "127.0.0.1", 0, ssl=context)

    async def connect(name: str = "localhost", **arguments: Any) -> Any:
        """The context that was used."""
        arguments.setdefault("ssl", True)
        transport, recorder = await loop.create_connection(
            Recorder, *server.sockets[0].getsockname(), server_hostname=name, **arguments
        )
        found = transport.get_extra_info("sslcontext")
        transport.close()
        await recorder.lost
        return found

    return server, connect


def test_host_names_are_verified_unless_switched_off(twin: Twin, authority: Authority) -> None:
    async def main() -> None:
        server, connect = await serve(authority)
        checked = await connect()
        assert checked.verify_mode == ssl.CERT_REQUIRED
        assert checked.check_hostname
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await connect("other.example")
        unchecked = await connect("")
        assert unchecked.verify_mode == ssl.CERT_REQUIRED
        assert not unchecked.check_hostname
        server.close()

    twin(main())


def test_a_changed_environment_variable_selects_another_trust_store(
    twin: Twin, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "Other CA")

    async def main() -> None:
        server, connect = await serve(authority)
        await connect()
        monkeypatch.setenv("SSL_CERT_FILE", str(other.cafile))
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect()
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.cafile))
        await connect()
        server.close()

    twin(main())


def test_a_trust_store_updated_in_place_is_read_again(
    twin: Twin, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "Other CA")
    store = tmp_path / "store.pem"
    shutil.copy(other.cafile, store)
    monkeypatch.setenv("SSL_CERT_FILE", str(store))

    async def main() -> None:
        server, connect = await serve(authority)
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect()
        shutil.copy(authority.cafile, tmp_path / "new.pem")
        (tmp_path / "new.pem").replace(store)
        await connect()
        server.close()

    twin(main())


def test_the_context_is_made_once_and_in_a_thread(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    real = ssl.create_default_context

    def making(*arguments: Any, **keywords: Any) -> ssl.SSLContext:
        threads.append(threading.current_thread())
        return real(*arguments, **keywords)

    monkeypatch.setattr(ssl, "create_default_context", making)

    async def main() -> None:
        server, connect = await serve(authority)
        contexts = await asyncio.gather(*(connect() for _ in range(5)))
        assert len({id(context) for context in contexts}) == 1
        assert len(threads) == 1
        assert threads[0] is not threading.main_thread()
        # A function that the program has installed is called again.
        monkeypatch.setattr(ssl, "create_default_context", real)
        assert await connect() is not contexts[0]
        server.close()

    corenet.run(main())


def test_a_given_context_is_used_unchanged(twin: Twin, authority: Authority) -> None:
    async def main() -> None:
        server, connect = await serve(authority)
        mine = ssl.create_default_context(cafile=str(authority.cafile))
        assert await connect(ssl=mine) is mine
        server.close()

    twin(main())


def test_an_unreadable_trust_store_raises_before_connecting(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing() -> ssl.SSLContext:
        raise ssl.SSLError("no trust")

    async def main() -> None:
        server, connect = await serve(authority)
        monkeypatch.setattr(ssl, "create_default_context", failing)
        with pytest.raises(ssl.SSLError, match="no trust"):
            await connect()
        server.close()

    corenet.run(main())
