"""Two daemons, one behind the other: the first forwards by TLS, HTTPS and QUIC to the second, which serves all three.

The first has one forward zone for each way to authenticate the second one, right and wrong. It serves TLS and HTTPS
itself, to the programs of others: kdig, curl, dnsperf, Unbound and Knot Resolver. So each answer has crossed two
encrypted connections.
"""

import base64
import hashlib
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support.certs import Authority, Leaf
from support.ports import free_port
from support.servers import ask, program, run_process, wait_until
from support.subject import RESOLVERD, daemon_environment

from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query

pytestmark = pytest.mark.integration

TIMEOUT = 30
NAME = "dns.example"
PROTOCOLS = ("tls", "https", "quic")
# How the first daemon authenticates the second: the suffix of its address, and the reason when it fails.
RIGHT = {"name": "#{name}", "pin": "#sha256//{pin}", "both": "#{name},sha256//{pin}"}
WRONG = {
    "wrong-name": ("#other.example", "not for this host name|other\\.example"),
    "wrong-pin": ("#sha256//{other}", "none of the pinned"),
    "name-and-wrong-pin": ("#{name},sha256//{other}", "none of the pinned"),
}


class Chain(NamedTuple):
    """The first daemon and how to reach it."""

    folder: Path
    plain: int
    tls: int
    https: int

    @property
    def log(self) -> str:
        return (self.folder / "first.log").read_text()

    @property
    def cafile(self) -> str:
        return str(self.folder / "ca.pem")


def pin_of(leaf: Leaf) -> str:
    """The SHA-256 of the public key, in base64."""
    key = x509.load_pem_x509_certificate(leaf.certificate.read_bytes()).public_key()
    data = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def listeners(leaf: Leaf, ports: dict[str, int]) -> str:
    tables = "".join(
        f'[[listener]]\naddress = "127.0.0.1:{port}"\nprotocol = "{name}"\n' for name, port in ports.items()
    )
    return f'[tls]\ncertificate = "{leaf.certificate}"\nkey = "{leaf.key}"\n{tables}'


def forward_zones(ports: dict[str, int], **words: str) -> str:
    """One zone for each protocol and way to authenticate."""
    ways = RIGHT | {way: suffix for way, (suffix, _) in WRONG.items()}
    return "".join(
        f'[[forward]]\nzone = "{way}.{protocol}.example."\n'
        f'addresses = ["{protocol}://127.0.0.1:{ports[protocol]}{suffix.format(**words)}"]\n'
        for protocol in PROTOCOLS
        for way, suffix in ways.items()
    )


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("chain")
    authority = Authority(folder)
    leaf, other = authority.leaf(NAME, "127.0.0.1"), authority.leaf("other.example", file="other")
    inner, outer = {one: free_port() for one in PROTOCOLS}, {one: free_port() for one in ("tls", "https")}
    second, first = free_port(), free_port()
    data = ", ".join(
        f'"www.{way}.{protocol}.example. 60 A 192.0.2.{1 + number}"'
        for number, protocol in enumerate(PROTOCOLS)
        for way in (*RIGHT, *WRONG)
    )
    (folder / "second.toml").write_text(
        f'[server]\nlisten = ["127.0.0.1:{second}"]\nworkers = 2\n[policy]\nlocal-zones = ["example. static"]\n'
        f"local-data = [{data}]\n{listeners(leaf, inner)}"
    )
    (folder / "first.toml").write_text(
        f'[server]\nlisten = ["127.0.0.1:{first}"]\n[dnssec]\nenabled = false\n'
        f'[iteration]\ntls-cert-bundle = "{authority.cafile}"\n{listeners(leaf, outer)}'
        f"{forward_zones(inner, name=NAME, pin=pin_of(leaf), other=pin_of(other))}"
    )
    with ExitStack() as stack:
        for which, port in (("second", second), ("first", first)):
            command, log = [*RESOLVERD, "--config", str(folder / f"{which}.toml")], folder / f"{which}.log"
            process = stack.enter_context(run_process(command, log, env=daemon_environment()))
            wait_until(
                lambda port=port: ask("127.0.0.1", port, "localhost.", c.A, timeout=0.5) is not None, "an answer",
                process=process, log=log,
            )
        yield Chain(folder, first, **outer)


def output(*words: str, status: int = 0, given: bytes = b"") -> str:
    """What a program writes; `status` is how it has to end."""
    done = subprocess.run(
        [program(words[0]), *words[1:]], input=given, capture_output=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == status, done.stdout.decode() + done.stderr.decode()
    return done.stdout.decode("utf-8", "replace")


def address_of(protocol: str) -> str:
    return f"192.0.2.{1 + PROTOCOLS.index(protocol)}"


# --- from the first daemon to the second ---------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("way", RIGHT)
def test_an_authenticated_server_is_queried(chain: Chain, protocol: str, way: str) -> None:
    view = ask("127.0.0.1", chain.plain, f"www.{way}.{protocol}.example.", c.A, timeout=30)
    assert view is not None and view.rcode == c.NOERROR, chain.log
    assert view.answer[0].rdata(0) == bytes(map(int, address_of(protocol).split(".")))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("way", WRONG)
def test_a_server_that_fails_authentication_is_not_queried(chain: Chain, protocol: str, way: str) -> None:
    """The client gets SERVFAIL; the extended error and the log say why."""
    text = output("kdig", "@127.0.0.1", "-p", str(chain.plain), "+edns", f"www.{way}.{protocol}.example.")
    reason = re.compile(WRONG[way][1])
    [error] = [line for line in text.splitlines() if "EDE" in line]
    assert "status: SERVFAIL" in text and reason.search(error) and protocol.upper() in error, text
    assert any(
        reason.search(line) and f"over {protocol.upper()}" in line for line in chain.log.splitlines()
    ), chain.log


# --- from programs of others through both ---------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("outer", ["tls", "https", "https-get"])
def test_kdig(chain: Chain, protocol: str, outer: str) -> None:
    how = {"tls": ["+tls"], "https": ["+https=/dns-query"], "https-get": ["+https=/dns-query", "+https-get"]}[outer]
    port = chain.tls if outer == "tls" else chain.https
    verified = [f"+tls-ca={chain.cafile}", f"+tls-hostname={NAME}"]
    text = output("kdig", "@127.0.0.1", "-p", str(port), *how, *verified, f"www.name.{protocol}.example.")
    assert "status: NOERROR" in text and address_of(protocol) in text


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", ["1.1", "2"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_curl_sends_the_message_itself(chain: Chain, protocol: str, version: str, method: str) -> None:
    packet = make_query(0, names.from_text(f"www.pin.{protocol}.example."), c.A)
    words = ["-sS", "--cacert", chain.cafile, "--resolve", f"{NAME}:{chain.https}:127.0.0.1", "-o",
             str(chain.folder / "body"), "-w", "%{http_code} %{http_version} %{content_type}",
             "--http1.1" if version == "1.1" else "--http2"]
    url = f"https://{NAME}:{chain.https}/dns-query"
    if method == "GET":
        words.append(f"{url}?dns={base64.urlsafe_b64encode(packet).rstrip(b'=').decode()}")
    else:
        words += ["-H", "Content-Type: application/dns-message", "--data-binary", "@-", url]
    assert output("curl", *words, given=packet) == f"200 {version} application/dns-message"
    assert bytes(map(int, address_of(protocol).split("."))) in (chain.folder / "body").read_bytes()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_curl_resolves_by_doh(chain: Chain, protocol: str) -> None:
    """No server listens at the address: exit status 7 or 28 shows that the name was resolved, 6 that it was not."""
    words = ["-sS", "-v", "-m", "2", "--connect-timeout", "1", "--doh-insecure", "--doh-url",
             f"https://127.0.0.1:{chain.https}/dns-query"]
    for way, found in (("name", True), ("wrong-name", False)):
        done = subprocess.run(
            [program("curl"), *words, f"http://www.{way}.{protocol}.example/"],
            capture_output=True, text=True, timeout=TIMEOUT, check=False,
        )
        assert (done.returncode != 6) is found, done.stderr
        assert (address_of(protocol) in done.stderr) is found, done.stderr


@pytest.mark.parametrize("mode", ["dot", "doh"])
def test_dnsperf_loses_nothing(chain: Chain, tmp_path: Path, mode: str) -> None:
    queries = tmp_path / "queries"
    queries.write_text("".join(f"www.{way}.{one}.example A\n" for way in RIGHT for one in PROTOCOLS) * 20)
    port = chain.tls if mode == "dot" else chain.https
    more = ["-O", f"doh-uri=https://127.0.0.1:{port}/dns-query"] if mode == "doh" else []
    text = output("dnsperf", "-m", mode, *more, "-s", "127.0.0.1", "-p", str(port), "-d", str(queries), "-n", "1",
                  "-c", "4")
    assert re.search(r"Queries completed:\s+180 \(100\.00%\)", text), text
    assert re.search(r"Response codes:\s+NOERROR 180", text), text


def unbound_config(folder: Path, port: int, chain: Chain) -> list[str]:
    (folder / "unbound.conf").write_text(
        f'server:\n  interface: 127.0.0.1\n  port: {port}\n  username: ""\n  chroot: ""\n  pidfile: ""\n'
        '  use-syslog: no\n  do-not-query-localhost: no\n  module-config: "iterator"\n'
        f'  tls-cert-bundle: "{chain.cafile}"\n'
        f'forward-zone:\n  name: "."\n  forward-tls-upstream: yes\n  forward-addr: 127.0.0.1@{chain.tls}#{NAME}\n'
    )
    return ["unbound", "-d", "-p", "-c", str(folder / "unbound.conf")]


def kresd_config(folder: Path, port: int, chain: Chain) -> list[str]:
    (folder / "kresd.conf").write_text(
        f"net.listen('127.0.0.1', {port}, {{ kind = 'dns' }})\ntrust_anchors.remove('.')\n"
        f"policy.add(policy.all(policy.TLS_FORWARD({{\n  {{'127.0.0.1@{chain.tls}', hostname='{NAME}',"
        f" ca_file='{chain.cafile}'}}\n}})))\n"
    )
    return ["kresd", "-n", "-c", str(folder / "kresd.conf"), str(folder)]


@pytest.mark.parametrize("config", [unbound_config, kresd_config], ids=["unbound", "kresd"])
def test_another_resolver_forwards_to_the_first(
    chain: Chain, tmp_path: Path, config: Callable[[Path, int, Chain], list[str]]
) -> None:
    port, log = free_port(), tmp_path / "log"
    with run_process(config(tmp_path, port, chain), log, cwd=tmp_path) as process:
        wait_until(
            lambda: ask("127.0.0.1", port, "localhost.", c.A, timeout=0.5) is not None, "the other resolver",
            process=process, log=log,
        )
        for protocol in PROTOCOLS:
            view = ask("127.0.0.1", port, f"www.both.{protocol}.example.", c.A, timeout=30)
            assert view is not None and view.rcode == c.NOERROR, log.read_text()
            assert view.answer[0].rdata(0) == bytes(map(int, address_of(protocol).split(".")))
