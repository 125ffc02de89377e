"""DNS over TLS and HTTPS with other implementations: kdig, curl, openssl, dnsperf, Unbound and Knot Resolver.

The daemon runs as a process with its own simulated Internet, so each peer gets answers that were resolved.
"""

import base64
import os
import re
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.ports import free_port
from support.servers import ask, program, run_process, wait_until
from support.subject import RESOLVERD, daemon_environment

from corenet.http.events import Data, Request, Response
from corenet.http.h2 import CLIENT, H2Connection
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query

pytestmark = pytest.mark.integration

TIMEOUT = 30
NAME = "www.example.playground."
ADDRESS = "127.20.80.1"


class Daemon:
    """A running daemon. `plain`, `tls` and `https` are the ports of its listeners."""

    def __init__(self, folder: Path, process: "subprocess.Popen[bytes]", ports: tuple[int, int, int]) -> None:
        self.folder = folder
        self.process = process
        self.plain, self.tls, self.https = ports

    @property
    def log(self) -> str:
        return (self.folder / "resolverd.log").read_text()


def accepts(port: int) -> bool:
    """Whether something listens on `port`."""
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), TIMEOUT):
        return True
    return False


@contextmanager
def daemon(folder: Path, *, workers: int = 1, more: str = "", stapled: bool = False) -> Iterator[Daemon]:
    """The daemon, with `more` at the end of its configuration; `stapled`: its certificate has an OCSP staple."""
    authority = Authority(folder)
    leaf = authority.leaf("dns.example", "127.0.0.1")
    staple = folder / "leaf.ocsp"
    if stapled:
        staple.write_bytes(authority.staple(leaf))
    ports = free_port(), free_port(), free_port()
    config = folder / "resolverd.toml"
    config.write_text(f"""
[server]
listen = ["127.0.0.1:{ports[0]}"]
workers = {workers}
[tls]
certificate = "{leaf.certificate}"
key = "{leaf.key}"
{f'ocsp-staple = "{staple}"' if stapled else ""}
name = "dns.example"
[policy.hosts]
"box.lan" = "192.0.2.1"
[[listener]]
address = "127.0.0.1:{ports[1]}"
protocol = "tls"
[[listener]]
address = "127.0.0.1:{ports[2]}"
protocol = "https"
{more}
""")
    words = ["--playground"] if workers == 1 else []  # the simulated Internet is for one worker only
    log = folder / "resolverd.log"
    with run_process([*RESOLVERD, "--config", str(config), *words], log, env=daemon_environment()) as process:
        wait_until(lambda: ask("127.0.0.1", ports[0], "localhost.", c.A, timeout=0.5), "an answer", process=process,
                   log=log)
        wait_until(lambda: all(map(accepts, ports[1:])), "the encrypted listeners", process=process, log=log)
        yield Daemon(folder, process, ports)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running


def run_program(*words: str, status: int = 0, input_data: str | bytes = b"") -> str:
    """Run a program with `input_data` as its input; assert its exit status; return its standard output."""
    done = subprocess.run(
        [program(words[0]), *words[1:]], input=input_data if isinstance(input_data, bytes) else input_data.encode(),
        capture_output=True, timeout=TIMEOUT, check=False,
    )
    assert done.returncode == status, done.stdout.decode() + done.stderr.decode()
    return done.stdout.decode("utf-8", "replace")


def kdig(served: Daemon, port: int, *words: str) -> str:
    return run_program("kdig", "@127.0.0.1", "-p", str(port), *words)


# --- kdig -------------------------------------------------------------------------------------------------------------


def test_kdig_over_tls_with_the_name_verified_and_padding(served: Daemon) -> None:
    verified = [f"+tls-ca={served.folder / 'ca.pem'}", "+tls-hostname=dns.example"]
    # Replies to padded queries have 468 octets (RFC 8467). The first is resolved, the second is from the cache.
    for _ in range(2):
        text = kdig(served, served.tls, *verified, "+padding", NAME)
        assert ADDRESS in text and "status: NOERROR" in text and "Received 468 B" in text
    several = kdig(served, served.tls, *verified, "+keepopen", "+padding", NAME, "mail.example.playground.")
    assert several.count("Received 468 B") == 2


@pytest.mark.parametrize("method", ["+https", "+https-get"])
def test_kdig_over_https(served: Daemon, method: str) -> None:
    if "+[no]https" not in run_program("kdig", "--help"):
        pytest.skip("kdig is built without DNS over HTTPS")
    words = ["+https=/dns-query"] if method == "+https" else ["+https=/dns-query", method]
    text = kdig(served, served.https, *words, f"+tls-ca={served.folder / 'ca.pem'}", "+tls-hostname=dns.example", NAME)
    assert ADDRESS in text and "HTTP/2" in text and "status: 200" in text


def test_kdig_discovers_the_encrypted_listeners(served: Daemon) -> None:
    text = kdig(served, served.plain, "_dns.resolver.arpa.", "SVCB")
    assert f"alpn=dot port={served.tls}" in text and f"port={served.https}" in text and "{?dns}" in text


def test_kdig_with_a_proxy_header(tmp_path: Path) -> None:
    """kdig sends the header itself, over UDP and TCP; the access list sees the address in it.

    TLS is not tested: kdig sends the header inside TLS, load balancers send it before the handshake.
    """
    port = free_port()
    plain = (
        f'[[listener]]\naddress = "127.0.0.1:{port}"\nallow = ["192.0.2.0/24"]\nproxy-protocol-from = ["127.0.0.1"]\n'
    )
    if "+[no]proxy" not in run_program("kdig", "--help"):
        pytest.skip("kdig is built without the PROXY protocol")
    with daemon(tmp_path, more=plain) as running:
        for words in ([], ["+tcp"]):
            for client, status in (("192.0.2.9", "NOERROR"), ("198.51.100.9", "REFUSED")):
                text = kdig(running, port, *words, f"+proxy={client}#1000-127.0.0.1#{port}", NAME)
                assert f"status: {status}" in text, (words, client, text)
        done = subprocess.run([program("kdig"), "@127.0.0.1", "-p", str(port), "+retry=0", "+timeout=1", NAME],
                              capture_output=True, timeout=TIMEOUT, check=False)
        assert done.returncode != 0, "a proxy without a header is not answered"
        wait_until(lambda: "PROXY header" in running.log, "a warning", process=running.process)


# --- curl and openssl -------------------------------------------------------------------------------------------------


def curl(served: Daemon, *words: str, input_data: bytes = b"") -> tuple[int, str, str]:
    """Status, version and content type of a request."""
    text = run_program(
        "curl", "-sS", "--cacert", str(served.folder / "ca.pem"), "--resolve", f"dns.example:{served.https}:127.0.0.1",
        "-o", str(served.folder / "body"), "-w", "%{http_code} %{http_version} %{content_type}", *words,
        input_data=input_data,
    )
    status, version, kind = text.split()
    return int(status), version, kind


@pytest.mark.parametrize(("option", "version"), [("--http1.1", "1.1"), ("--http2", "2")])
def test_curl_gets_and_posts(served: Daemon, option: str, version: str) -> None:
    url = f"https://dns.example:{served.https}/dns-query"
    packet = make_query(0, names.from_text(NAME), c.A)
    text = base64.urlsafe_b64encode(packet).rstrip(b"=").decode()
    found = (200, version, "application/dns-message")
    assert curl(served, option, f"{url}?dns={text}") == found
    assert (served.folder / "body").read_bytes()[-15:-11] == bytes(map(int, ADDRESS.split(".")))
    kind = ("-H", "Content-Type: application/dns-message")
    assert curl(served, option, *kind, "--data-binary", "@-", url, input_data=packet) == found
    for words, status in (
        (("-H", "Content-Type: text/plain", "--data-binary", "@-", url), 415),
        ((*kind, "--data-binary", "@-", url + "/x"), 404),
        (("-X", "PUT", url), 405),
        (("-X", "BREW", url), 501),
        ((f"{url}?dns={text}=",), 400),
    ):
        assert curl(served, option, *words, input_data=packet) == (status, version, "text/plain")
    for chunked in ((), ("-H", "Transfer-Encoding: chunked")):
        answer = curl(served, option, *kind, *chunked, "--data-binary", "@-", url, input_data=bytes(70_000))
        assert answer == (413, version, "text/plain")


def test_curl_resolves_by_doh(served: Daemon) -> None:
    """Nobody listens at the address: exit status 7 says that the name was resolved, 6 would say that it was not."""
    words = ["-sS", "-m", "20", "--doh-insecure", "--doh-url", f"https://127.0.0.1:{served.https}/dns-query"]
    run_program("curl", *words, f"http://www.example.playground:{free_port()}/", status=7)
    run_program("curl", *words, f"http://absent.example.playground:{free_port()}/", status=6)


def test_sessions_are_resumed_by_all_workers(tmp_path: Path) -> None:
    with daemon(tmp_path, workers=2) as running:
        where = ["-connect", f"127.0.0.1:{running.tls}", "-CAfile", str(tmp_path / "ca.pem"), "-servername",
                 "dns.example", "-tls1_2", "-alpn", "dot"]
        session = tmp_path / "session"
        first = run_program("openssl", "s_client", *where, "-sess_out", str(session))
        assert "New, " in first and "Verify return code: 0" in first and "ALPN protocol: dot" in first
        for _ in range(40):  # the kernel spreads connections over the workers
            assert "Reused, " in run_program("openssl", "s_client", *where, "-sess_in", str(session))


def query_with_session(running: Daemon, context: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[bool, Any]:
    """Query over a new connection. Returns whether it resumed `session`, and its own session."""
    packet = make_query(7, names.from_text("box.lan."), c.A)
    with (
        socket.create_connection(("127.0.0.1", running.tls), timeout=TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname="dns.example", session=session) as secured,
    ):
        secured.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secured.sendall(len(packet).to_bytes(2, "big") + packet)
        assert secured.recv(4096)
        return bool(secured.session_reused), secured.session


def children_of(pid: int) -> list[int]:
    """The children of process `pid`."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_sessions_are_resumed_after_a_new_certificate_and_a_killed_worker(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    with daemon(tmp_path, workers=2) as running:
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        context.minimum_version = context.maximum_version = version
        context.check_hostname = False
        found, session = query_with_session(running, context, None)
        assert not found

        def assert_resumed() -> None:
            nonlocal session
            for number in range(40):
                was_resumed, new_session = query_with_session(running, context, session)
                assert was_resumed, (number, running.log)
                if version is ssl.TLSVersion.TLSv1_3:
                    session = new_session  # a ticket of TLS 1.3 is for one connection (RFC 8446 appendix C.4)

        assert_resumed()
        # The chain is longer now, so the contexts are made again.
        chain = (tmp_path / "leaf.pem").read_bytes()
        (tmp_path / "leaf.pem").write_bytes(chain + (tmp_path / "ca.pem").read_bytes())
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "configuration is in force" in running.log, "the reload", process=running.process)
        assert_resumed()
        workers = children_of(running.process.pid)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        wait_until(lambda: "starting it again" in running.log, "the restart", process=running.process)
        wait_until(lambda: len(children_of(running.process.pid)) == 2, "a new worker", process=running.process)
        assert_resumed()


def test_the_ocsp_staple_is_sent_and_reloaded(tmp_path: Path) -> None:
    """openssl asks for it; a reload reads a new one, and refuses one that clients would refuse."""
    with daemon(tmp_path, stapled=True) as running:
        def status() -> str:
            return run_program("openssl", "s_client", "-connect", f"127.0.0.1:{running.tls}", "-status", "-CAfile",
                          str(tmp_path / "ca.pem"))

        assert "OCSP Response Status: successful" in status() and "Cert Status: good" in status()
        assert "Next Update: " in status()
        good = (tmp_path / "leaf.ocsp").read_bytes()
        (tmp_path / "leaf.ocsp").write_bytes(good[:-1])
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "tls.ocsp-staple" in running.log, "the error message", process=running.process)
        assert str(tmp_path / "leaf.ocsp") in running.log and "Cert Status: good" in status()
        # Without the option, none is sent.
        text = run_program("openssl", "s_client", "-connect", f"127.0.0.1:{running.tls}")
        assert "OCSP Response Status" not in text


def test_old_versions_and_renegotiation_are_refused(served: Daemon) -> None:
    where = ["-connect", f"127.0.0.1:{served.tls}"]
    old = run_program("openssl", "s_client", *where, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", status=1)
    assert "Cipher is (NONE)" in old
    again = subprocess.run([program("openssl"), "s_client", *where, "-tls1_2"], input=b"R\n", capture_output=True,
                           timeout=TIMEOUT, check=False)
    assert b"no renegotiation" in again.stderr.lower()


def query_and_close_notify(
    served: Daemon, port: int, data: bytes, version: ssl.TLSVersion, *, fin: bool, alpn: str = "dot"
) -> bytes:
    """Send `data` and close_notify together; return what is received until the peer's close_notify.

    `fin`: also half-close TCP.
    """
    context = ssl.create_default_context(cafile=str(served.folder / "ca.pem"))
    context.set_alpn_protocols([alpn])
    context.minimum_version = context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="dns.example")

    def until_done(step: Callable[[], bytes | None]) -> bytes:
        while True:
            try:
                found = step()
            except ssl.SSLWantReadError:
                if outgoing.pending:
                    sock.sendall(outgoing.read())
                received = sock.recv(65536)
                assert received, "the end without close_notify"
                incoming.write(received)
            except ssl.SSLZeroReturnError:
                return b""
            else:
                if outgoing.pending:
                    sock.sendall(outgoing.read())
                return found or b""

    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as sock:
        until_done(tls.do_handshake)
        tls.write(data)
        with suppress(ssl.SSLWantReadError):
            tls.unwrap()
        sock.sendall(outgoing.read())
        if fin:
            sock.shutdown(socket.SHUT_WR)
        received = b""
        while piece := until_done(lambda: tls.read(65536)):
            received += piece
        return received


@pytest.mark.parametrize("fin", [False, True])
def test_query_and_close_notify_at_once(served: Daemon, fin: bool) -> None:
    """TLS 1.3: the reply is sent although it is resolved after close_notify. TLS 1.2: close_notify ends both
    directions, so there is no reply (RFC 5246 section 7.2.1)."""
    name = f"{'fin' if fin else 'none'}.wild.example.playground."
    packet = make_query(77, names.from_text(name), c.A)
    data = len(packet).to_bytes(2, "big") + packet
    assert query_and_close_notify(served, served.tls, data, ssl.TLSVersion.TLSv1_2, fin=fin) == b""
    name = f"again-{name}"
    packet = make_query(77, names.from_text(name), c.A)
    data = len(packet).to_bytes(2, "big") + packet
    reply = query_and_close_notify(served, served.tls, data, ssl.TLSVersion.TLSv1_3, fin=fin)
    assert reply[2:4] == packet[:2] and reply[5] & 0x0F in (c.NOERROR, c.NXDOMAIN)


@pytest.mark.parametrize("engine", ["openssl", "stdlib"])
def test_request_and_close_notify_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """Over HTTPS, with each TLS engine and HTTP version: the name is resolved after close_notify was received."""
    monkeypatch.setenv("CORENET_TLS_ENGINE", engine)
    with daemon(tmp_path) as running:
        for fin in (False, True):
            for alpn in ("http/1.1", "h2"):
                name = f"{alpn[:2]}-{fin}.wild.example.playground."
                packet = make_query(0, names.from_text(name), c.A)
                target = b"/dns-query?dns=" + base64.urlsafe_b64encode(packet).rstrip(b"=")
                codec = H2Connection(CLIENT)
                codec.send_request(Request(b"GET", target, [(b"host", b"dns.example")]), end=True)
                plain = b"GET " + target + b" HTTP/1.1\r\nHost: dns.example\r\n\r\n"
                data = codec.data_to_send() if alpn == "h2" else plain
                reply = query_and_close_notify(running, running.https, data, ssl.TLSVersion.TLSv1_3, fin=fin, alpn=alpn)
                if alpn == "h2":
                    events = [event for _, event in codec.feed(reply)]
                    assert [event.status for event in events if isinstance(event, Response)] == [200]
                    message = b"".join(event.data for event in events if isinstance(event, Data))
                else:
                    assert reply.startswith(b"HTTP/1.1 200 ")
                    message = reply.partition(b"\r\n\r\n")[2]
                assert message[3] & 0x0F in (c.NOERROR, c.NXDOMAIN)


def test_openssl_gets_close_notify_after_a_refusal(served: Daemon) -> None:
    """s_client waits until the server closes. It must get the response, then close_notify."""
    for version in ("-tls1_2", "-tls1_3"):
        text = run_program(
            "openssl", "s_client", "-ign_eof", "-msg", version, "-connect", f"127.0.0.1:{served.https}",
            input_data="nonsense\r\n\r\n",
        )
        assert "HTTP/1.1 400 Bad Request" in text
        assert "close_notify" in text[text.index("HTTP/1.1 400"):]


# --- dnsperf, Unbound, Knot Resolver ----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["-m", "dot"], ["-m", "doh", "-O", "doh-method=POST"], ["-m", "doh"]])
def test_dnsperf_loses_nothing(served: Daemon, tmp_path: Path, words: list[str]) -> None:
    queries = tmp_path / "queries"
    queries.write_text(f"{NAME} A\nmail.example.playground. A\n" * 50)
    port = served.tls if words[1] == "dot" else served.https
    if words[1] == "doh":
        words = [*words, "-O", f"doh-uri=https://127.0.0.1:{port}/dns-query"]
    text = run_program("dnsperf", *words, "-s", "127.0.0.1", "-p", str(port), "-d", str(queries), "-n", "2", "-c", "4")
    assert re.search(r"Queries completed:\s+200 \(100\.00%\)", text), text
    assert re.search(r"Response codes:\s+NOERROR 200", text), text


def test_unbound_forwards_to_us_over_tls(served: Daemon, tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "unbound.conf"
    config.write_text(f"""
server:
  interface: 127.0.0.1
  port: {port}
  username: ""
  chroot: ""
  pidfile: ""
  use-syslog: no
  do-not-query-localhost: no
  module-config: "iterator"
  tls-cert-bundle: "{served.folder / 'ca.pem'}"
  pad-queries: yes
forward-zone:
  name: "."
  forward-tls-upstream: yes
  forward-addr: 127.0.0.1@{served.tls}#dns.example
""")
    log = tmp_path / "log"
    with run_process(["unbound", "-d", "-p", "-c", str(config)], log) as process:
        wait_until(lambda: ask("127.0.0.1", port, "localhost.", c.A, timeout=0.5), "Unbound", process=process, log=log)
        for name in (NAME, "mail.example.playground."):
            view = ask("127.0.0.1", port, name, c.A, timeout=30)
            assert view is not None and view.rcode == c.NOERROR and len(view.answer) == 1


def test_knot_resolver_forwards_to_us_over_tls(served: Daemon, tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "kresd.conf"
    config.write_text(f"""
net.listen('127.0.0.1', {port}, {{ kind = 'dns' }})
trust_anchors.remove('.')
policy.add(policy.all(policy.TLS_FORWARD({{
    {{'127.0.0.1@{served.tls}', hostname='dns.example', ca_file='{served.folder / 'ca.pem'}'}}
}})))
""")
    log = tmp_path / "log"
    with run_process(["kresd", "-n", "-c", str(config), str(tmp_path)], log, cwd=tmp_path) as process:
        wait_until(lambda: ask("127.0.0.1", port, "localhost.", c.A, timeout=0.5), "Knot Resolver", process=process,
                   log=log)
        view = ask("127.0.0.1", port, NAME, c.A, timeout=30)
        assert view is not None and view.rcode == c.NOERROR and len(view.answer) == 1, log.read_text()


# --- the process ------------------------------------------------------------------------------------------------------


def test_sighup_reads_the_certificate_again(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        def subject() -> str:
            return run_program("openssl", "s_client", "-connect", f"127.0.0.1:{running.tls}")

        assert "subject=CN = dns.example" in subject()
        good = (tmp_path / "leaf.key").read_bytes()
        (tmp_path / "leaf.key").write_text("broken")
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "tls.key" in running.log, "the error message", process=running.process)
        assert str(tmp_path / "leaf.key") in running.log and "subject=CN = dns.example" in subject()
        (tmp_path / "leaf.key").write_bytes(good)
        (tmp_path / "new").mkdir()
        renewed = Authority(tmp_path / "new").leaf("renewed.example")
        (tmp_path / "leaf.pem").write_bytes(renewed.certificate.read_bytes())
        (tmp_path / "leaf.key").write_bytes(renewed.key.read_bytes())
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "subject=CN = renewed.example" in subject(), "the new certificate", process=running.process)


def test_a_wrong_certificate_is_reported_at_the_start_and_by_check(tmp_path: Path) -> None:
    config = tmp_path / "resolverd.toml"
    config.write_text(
        f'[tls]\ncertificate = "{tmp_path}/missing.pem"\nkey = "{tmp_path}/missing.key"\n'
        '[[listener]]\naddress = "127.0.0.1:0"\nprotocol = "tls"\n'
    )
    for words in ([], ["--check"]):
        done = subprocess.run([*RESOLVERD, "--config", str(config), *words], capture_output=True, text=True,
                              timeout=TIMEOUT, check=False, env=daemon_environment())
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert f"{config}:2: tls.certificate: '{tmp_path}/missing.pem': cannot be read: No such file" in done.stderr


def test_discovery_is_printed(tmp_path: Path) -> None:
    config = tmp_path / "resolverd.toml"
    config.write_text(
        '[tls]\ncertificate = "a"\nkey = "b"\nname = "dns.example"\n[[listener]]\naddress = "192.0.2.1"\n'
        'protocol = "https"\n'
    )
    done = subprocess.run([*RESOLVERD, "--config", str(config), "--print-discovery"], capture_output=True, text=True,
                          timeout=TIMEOUT, check=True, env=daemon_environment())
    assert '_dns.resolver.arpa. SVCB 1 dns.example. alpn=h2,http/1.1 port=443 ipv4hint=192.0.2.1' in done.stdout
    config.write_text("")
    done = subprocess.run([*RESOLVERD, "--config", str(config), "--print-discovery"], capture_output=True, text=True,
                          timeout=TIMEOUT, check=False, env=daemon_environment())
    assert done.returncode == 2 and "tls.name" in done.stderr
