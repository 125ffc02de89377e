"""What the commands of the handbook talk to, and how each of them is run in a test.

A page names addresses, ports and files of an operator's network. `Servers` starts real ones on free ports: the name
servers of the playground, resolverd with every listener, a second resolverd, and Redis. `Servers.translated` puts their
addresses into a command and changes nothing else, so program, subcommand and options run as shown.

`NOT_RUN` is the list of the commands that no test can run as shown, each with the reason and with what is checked
instead. A command that is not on it is run.
"""

import importlib.util
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from support.certs import Authority
from support.documents import DOCS, PROJECT, ROOT, SECONDS, Command, environment
from support.ports import free_port
from support.redis_servers import redis_server
from support.servers import PACKAGES, run_process, wait_until
from support.subject import serve_playground, start_subject

from resolver.playground.signed import signed_world

__all__ = ["COMPLETE", "ELSEWHERE", "NOT_RUN", "PROGRAMS", "Servers", "full", "reason_not_to_run", "servers"]

#: First words of what is a command when a page has it inside of a sentence.
PROGRAMS = frozenset(PROJECT["scripts"]) | {
    "apt", "apt-get", "cd", "certbot", "corenet", "curl", "delv", "dig", "dnstap", "dnstap-ldns", "docker", "drill",
    "fstrm_capture", "gunicorn", "journalctl", "kdig", "kill", "kubectl", "logrotate", "make", "openssl", "pip",
    "promtool", "pytest", "python", "redis-cli", "resolvectl", "sh", "ss", "ssh", "sudo", "systemctl",
    "systemd-analyze", "ulimit", "uvicorn",
}  # fmt: skip

NAME = "www.example.playground"
#: What a sentence or a table abbreviates, in full. Only options and arguments are added.
COMPLETE = {
    "corenet get": "corenet get --playground https://www.example.playground/",
    "corenet get --https-records --dane":
        "corenet get --https-records --dane --playground https://www.example.playground/",
    "corenet get --playground": "corenet get --playground https://www.example.playground/",
    "curl --doh-url https://dns.example.net/dns-query ...":
        "curl --doh-url https://dns.example.net/dns-query https://example.org/",
    "openssl ocsp -issuer ca.pem -cert server.pem -url ... -respout staple.der":
        'openssl ocsp -issuer ca.pem -cert server.pem -url "$(openssl x509 -in server.pem -noout -ocsp_uri)"'
        " -respout staple.der",
    "promtool check rules": "promtool check rules docs/deploy/prometheus-alerts.yml",
    "python -X dev": "python -X dev -c ''",
    "python -m corenet.launch PROGRAM ...": "python -m corenet.launch pytest --version",
    "rdig +explain": "rdig +explain NAME",
    "rdig +explain=json": "rdig +explain=json NAME",
    "rdig +quic": "rdig +quic @SERVER NAME",
    "rdig +tls": "rdig +tls @SERVER NAME",
    "resolverctl forward add ZONE SERVER...": "resolverctl forward add corp.example 192.0.2.1",
    "resolverctl import": "echo server: > unbound.conf; resolverctl import unbound.conf",
    "resolverctl load": "resolverctl save; resolverctl load",
    "resolverctl local-data": "resolverctl local-data list",
    "resolverctl local-data add RECORD": "resolverctl local-data add a.example A 192.0.2.1",
    "resolverctl local-data remove NAME [TYPE]": "resolverctl local-data remove a.example A",
    "resolverctl nta": "resolverctl nta list",
    "resolverctl nta add": "resolverctl nta add broken.example.com 2h their keys have expired",
    "resolverctl nta add ZONE [TIME] [REASON...]": "resolverctl nta add late.example.com 2h their keys have expired",
    "resolverctl nta remove ZONE": "resolverctl nta remove late.example.com",
    "resolverctl stub add ZONE SERVER...": "resolverctl stub add lab.example 192.0.2.2",
    "resolverctl zone refresh NAME": "resolverctl zone refresh feed.example",
    "resolverd --print-discovery": "resolverd --config /etc/resolverd/resolverd.toml --print-discovery",
}


def systemd_options(place: str, command: str) -> None:
    """systemctl reads all options before `--help` ends it; verbs are looked up in its help."""
    if shutil.which("systemctl") is None:
        return
    for piece in command.split("&&"):
        words = shlex.split(piece)
        if words[0] == "systemctl":
            asked = [*words, "--help"]
            done = subprocess.run(asked, capture_output=True, text=True, timeout=SECONDS, check=False)
            assert done.returncode == 0, f"{place}: {done.stderr}"
            assert re.search(rf"(?m)^  {words[1]}\b", done.stdout), f"{place}: {words[1]}"


def ssh_options(place: str, command: str) -> None:
    """`-G` reads the options and does not connect."""
    if shutil.which("ssh") is not None:
        subprocess.run(["ssh", "-G", *shlex.split(command)[1:]], capture_output=True, timeout=SECONDS, check=True)


def make_targets(place: str, command: str) -> None:
    subprocess.run(
        ["make", "-n", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, timeout=SECONDS, check=True
    )


def installable(place: str, command: str) -> None:
    """A checkout, this package, or one that an extra of it has; the extras exist."""
    extras = PROJECT["optional-dependencies"]
    known = {PROJECT["name"], *(re.split(r"[^\w-]", need)[0] for needs in extras.values() for need in needs)}
    words = shlex.split(command)
    assert words[1] == "install", place
    for target in words[2:]:
        found = re.fullmatch(r"--upgrade|(\.|[\w-]+)(?:\[(\w+)\])?", target)
        assert found, f"{place}: {target}"
        assert found[1] in (None, ".", *known), f"{place}: {target}"
        assert found[2] is None or (found[2] in extras and found[1] in (".", PROJECT["name"])), f"{place}: {target}"


def options_of_the_simulation(place: str, command: str) -> None:
    text = (ROOT / "tests/simulation/loop/run.py").read_text(encoding="utf-8")
    for option in re.findall(r"--\w+", command):
        assert f'"{option}"' in text, f"{place}: {option}"


def files_exist(place: str, command: str) -> None:
    for word in shlex.split(command):
        assert "/" not in word or (ROOT / word).exists(), f"{place}: {word}"


def nothing(place: str, command: str) -> None:
    """There is nothing to look up."""


def full(command: str) -> str:
    """`command` with what it abbreviates."""
    return COMPLETE.get(command, command).replace("NAME", NAME).replace(" [TYPE]", "")


Check = Callable[[str, str], None]
#: Beginning of a command: why no test runs it, and what is checked instead.
NOT_RUN: dict[str, tuple[str, Check]] = {
    r"make (?!help)": ("it builds, measures or tests for minutes", make_targets),
    r"pip ": ("it needs the package index", installable),
    r"(mv resolverd\.service \S+ && )?systemctl ": ("systemd is not the first process of a test", systemd_options),
    r"ssh ": ("it needs that host", ssh_options),
    r"certbot ": ("an authority issues certificates only to those who have the name", nothing),
    r"cd build/debug && ": ("it needs the debug build", options_of_the_simulation),
    r"python -m asyncio ps": ("it needs Python 3.14 and the number of a process", nothing),
    r"python benchmarks/resolver/floods\.py": ("a benchmark of minutes", files_exist),
}
#: Beginning of a command: the test that runs it, because it needs more than the servers here.
ELSEWHERE = {
    r"(uvicorn|gunicorn|pytest -p|python -m corenet\.launch (granian|gunicorn|hypercorn|sanic)) ":
        "tests/integration/test_frameworks.py",
    r"(fstrm_capture|dnstap-ldns|dnstap) ": "tests/integration/test_query_log.py",
    r"resolverctl (--socket /run/resolverd/control )?upgrade": "tests/integration/test_upgrade.py",
    r"corenet get --doh-url": "tests/integration/test_encrypted_upstream.py",
    r"python benchmarks/resolver/sizing\.py": "tests/integration/test_sizing.py",
}


def reason_not_to_run(one: Command) -> str | None:
    """Why a command is not run, after what it names was looked up; None: it is to be run."""
    place, command = one.place, one.text
    for beginning, (reason, check) in NOT_RUN.items():
        if re.match(beginning, command):
            check(place, command.replace("FILE=...", "FILE=corenet/core/poller.pyx"))
            return reason
    for beginning, path in ELSEWHERE.items():
        if re.match(beginning, command):
            text = (ROOT / path).read_text(encoding="utf-8")
            for word in re.findall(r"(?<= )(-{1,2}[\w-]+|[\w.]+[.:]\w+)", command):
                # Options with a value in the same word are compared without it; files and app:app are the test's own.
                if word.startswith(("-", "corenet")):
                    assert f'"{word}"' in text, f"{place}: {word} is not in {path}"
            return f"{path} runs it"
    return None


def stays(command: Command) -> bool:
    """Whether `command` is resolverd in the foreground, which ends by a signal only."""
    return not command.status and bool(re.match(r"resolverd (?!.*--(check|print-\w+|version|help)\b)", command.text))


@dataclass
class Servers:
    """Running servers, and the environment in which the commands run."""

    folder: Path
    env: dict[str, str]
    port: int
    other: int
    tls: int
    https: int
    has_quic: bool
    has_fleet: bool

    @property
    def config(self) -> Path:
        return self.folder / "resolverd.toml"

    @property
    def authority(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def control(self) -> Path:
        return self.folder / "control"

    @property
    def query_log(self) -> Path:
        return self.folder / "queries.log"

    def run(self, command: Command, folder: Path) -> "subprocess.CompletedProcess[str]":
        """Run `command` in `folder`; one that stays in the foreground is ended when it serves."""
        text = self.translated(full(command.text))
        if not stays(command):
            return subprocess.run(
                ["bash", "-c", text], cwd=folder, env=self.env, stdin=subprocess.DEVNULL, capture_output=True,
                text=True, timeout=SECONDS, check=False,
            )
        log = folder / "daemon.log"
        words = [*shlex.split(text), "--port", str(free_port())]
        with run_process(words, log, cwd=folder, env=self.env) as process:
            wait_until(lambda: 'message="serving ' in log.read_text("utf-8"), command.place, process=process, log=log)
            process.terminate()
            return subprocess.CompletedProcess(words, process.wait(SECONDS), "", log.read_text("utf-8"))

    def statuses(self, command: Command) -> set[int]:
        """The exit statuses that are right here."""
        if command.status or not command.text.startswith("rdig ") or "--playground" in command.text:
            return {command.status}
        # Names of the Internet may have no record of this type here, and without --config rdig trusts the keys of the
        # real root, so a report through a server calls its answers bogus.
        return {0, 1, 3} if "+explain" in command.text and "@" in command.text else {0, 1}

    def missing(self, command: Command) -> set[str]:
        """Programs and packages without which `command` cannot succeed here."""
        found = {package for option, package, present in (
            ("+quic", "qh3", self.has_quic), ("--fleet", "redis", self.has_fleet),
        ) if option in command.text and not present}
        program = command.text.split()[0]
        if program in PACKAGES and shutil.which(program, path=self.env["PATH"]) is None:
            found.add(PACKAGES[program])
        return found

    def translated(self, command: str) -> str:
        """`command` with the addresses and files that are here."""
        command = command.replace(" FILE ", f" {self.config} ")
        if "resolverctl" in command:
            command = re.sub(r"(?<!/)\bcontrol\.sock\b|/run/resolverd/control\b", str(self.control), command)
        command = re.sub(r"^(resolverd .*)/etc/resolverd/resolverd\.toml", rf"\1{self.config}", command)
        program = command.split()[0]
        if command.startswith("resolverctl top"):
            return f"{command} --interval 1 --once"  # else until Ctrl-C
        if command.startswith("sh compare.sh"):
            return command.replace("127.0.0.1:53 ", f"127.0.0.1:{self.other} ").replace(":5391", f":{self.port}")
        if program == "make":
            return command.replace("make ", f"make -C {ROOT} ", 1)
        if program == "openssl":
            return re.sub(r"-connect \S+:853", f"-connect 127.0.0.1:{self.tls}", command)
        if program in ("dig", "kdig"):
            port = self.https if "+https" in command else self.tls if "+tls" in command else self.port
            command = re.sub(r"@192\.0\.2\.\d+", f"@127.0.0.1 -p {port}", command)
            # GnuTLS has no variable for the authorities of the system.
            return re.sub(r"\+tls-ca\b|(?=\+https)", f"+tls-ca={self.authority} ", command)
        if program == "curl":
            command = command.replace("https://example.org/", f"https://dns.example.net:{self.https}/")
            command = command.replace("https://dns.example.net/dns-query", f"https://127.0.0.1:{self.https}/dns-query")
            return f"{command} --cacert {self.authority}"  # SSL_CERT_FILE is not for --doh-url
        if program == "corenet":
            return command.replace("https://example.org/", f"https://127.0.0.1:{self.https}/")
        if program == "rdig" and "--playground" not in command:
            return self._translated_rdig(command)
        return command

    def prepare(self, folder: Path) -> None:
        """Put the files of which pages say that the operator has them into `folder`."""
        for name in ("benchmarks", "docs", "tests"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "compare.sh").symlink_to(DOCS / "examples" / "compare.sh")
        (folder / "names").write_text(f"{NAME}\nwww.example.com AAAA\n", encoding="utf-8")
        for name, source in (("cert", "server"), ("server", "server"), ("chain", "ca"), ("ca", "ca")):
            shutil.copy(self.folder / f"{source}.pem", folder / f"{name}.pem")

    def _translated_rdig(self, command: str) -> str:
        """Without a server, the root servers are those of the configuration."""
        server = re.search(r"@(SERVER|[\w.]+)(:\d+)?(?= |$)", command)
        if server is None:
            return f"{command} --config {self.config}"
        encrypted = re.search(r"\+(tls|https|quic)\b", command)
        port = self.port if encrypted is None else self.https if encrypted[1] == "https" else self.tls
        hostname = f" +tls-hostname={server[1]}" if encrypted and server[1][0].islower() else ""
        return f"{command[:server.start()]}@127.0.0.1:{port}{command[server.end():]}{hostname}"


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """Servers for all commands of the handbook, which are ready."""
    commands = folder / "bin"
    commands.mkdir()
    authority = Authority(folder)
    responder = free_port()
    leaf = authority.leaf(
        "dns.example.net", "dns.quad9.net", "127.0.0.1", file="server", responder=f"http://127.0.0.1:{responder}/"
    )
    world = signed_world(0)
    upstream = free_port(next(iter(world.authorities)))
    zone = "$TTL 300\n@ SOA ns host 5 7200 3600 86400 300\n@ NS ns\nns A 127.0.0.1\n"
    (folder / "zone").write_text(zone, encoding="utf-8")
    (folder / "zones").mkdir()
    has_quic = importlib.util.find_spec("qh3") is not None
    has_fleet = shutil.which("redis-server") is not None and importlib.util.find_spec("redis") is not None
    env = {
        **environment(commands), "RESOLVERD_SOCKET": str(folder / "control"), "SSL_CERT_FILE": str(authority.cafile)
    }
    here = Servers(folder, env, free_port(), free_port(), free_port(), free_port(), has_quic, has_fleet)

    def other(text: str) -> str:
        return f'{text}[[zone]]\nname = "feed.example."\nfile = "{folder / "zone"}"\nallow-transfer = ["127.0.0.1"]\n'

    def main(text: str) -> str:
        quic = f'[[listener]]\naddress = "127.0.0.1:{here.tls}"\nprotocol = "quic"\n' if has_quic else ""
        fleet = (
            f'[second-level-cache]\nservers = ["{redis}"]\nsecret-file = "{folder / "secret"}"\n' if redis else ""
        )
        return f"""{text}auto-trust-anchor-file = "{folder / "anchors"}"
[cache]
size = "4 MiB"
snapshot-file = "{folder / "cache.bin"}"
[control]
socket = "{here.control}"
changes-file = "{folder / "changes.toml"}"
[query-log]
file = "{here.query_log}"
[client-subnet]
zones = ["cdn.example"]
trusted-clients = ["127.0.0.1"]
[policy]
local-data = ["dns.example.net A 127.0.0.1"]
[tls]
certificate = "{leaf.certificate}"
key = "{leaf.key}"
name = "dns.example.net"
[[listener]]
address = "127.0.0.1:{here.tls}"
protocol = "tls"
[[listener]]
address = "127.0.0.1:{here.https}"
protocol = "https"
{quic}{fleet}[zones]
directory = "{folder / "zones"}"
refresh-min = 1
[[zone]]
name = "home.example."
file = "{folder / "zone"}"
[[tsig-key]]
name = "roaming.key"
secret = "c2VjcmV0IG9mIHRoaXMgZXhhbXBsZSBvbmx5ISEhISEhISE="
[[view]]
name = "roaming"
keys = ["roaming.key"]
[[rpz]]
name = "feed.example."
primaries = ["127.0.0.1:{here.other}"]
"""

    with ExitStack() as stack:
        stack.enter_context(serve_playground(folder / "playground", world, upstream))
        redis = stack.enter_context(redis_server(folder / "redis")).address if has_fleet else ""
        (folder / "secret").touch(0o600)
        (folder / "secret").write_text("0123456789abcdef" * 4, encoding="utf-8")
        anchor = world.trust_anchors[0]
        for name, port, edit in (("other", here.other, other), (".", here.port, main)):
            stack.enter_context(
                start_subject(folder / name, world, upstream, kind="resolverd", port=port, anchor=anchor, edit=edit)
            )

        def healthy() -> bool:
            return here.run(Command("", "resolverctl health"), folder).returncode == 0

        wait_until(healthy, "the policy zone", log=folder / "resolverd.log")
        stack.enter_context(serve_staple(responder, authority.staple(leaf, sha1=True)))
        yield here


@contextmanager
def serve_staple(port: int, response: bytes) -> Iterator[None]:
    """An OCSP responder with one response (RFC 6960 appendix A)."""

    class Responder(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/ocsp-response")
            self.send_header("Content-Length", str(len(response)))
            self.end_headers()
            self.wfile.write(response)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", port), Responder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()

