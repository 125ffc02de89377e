"""NSD, Knot and BIND as primaries and secondaries of one zone, and a zone signed by ldns-signzone.

The address is 127.0.0.1, so all three can listen without further set-up. A peer is a primary when it has a file, and a
secondary when it has a primary.
"""

import hashlib
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.ports import free_port
from support.servers import ask, program, run_process, wait_until

from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset
from resolver.zones.zone import soa_fields

__all__ = ["KEY", "KINDS", "ZONE", "Peer", "serial_of", "serve", "sign"]

KINDS = ("nsd", "knot", "bind")
KEY = ("transfer.key", "c2VjcmV0IG9mIHRoaXMgdGVzdCBvbmx5ISEhISEhISE=")
"""Name and secret (base64) of a TSIG key of HMAC-SHA256."""

ZONE = """\
$TTL 3600
@ IN SOA ns1 host {serial} 3600 600 86400 300
@ NS ns1
@ NS ns2.other.test.
@ MX 10 a
ns1 A 192.0.2.1
a A 192.0.2.2
a TXT "first" "second"
A AAAA 2001:db8::2
*.wild A 192.0.2.3
*.wild TXT "wild"
*.wc CNAME a
b.ent.deep A 192.0.2.9
alias CNAME a
chain CNAME alias
out CNAME www.other.test.
dn DNAME target
x.target A 192.0.2.7
sub NS ns.sub
ns.sub A 192.0.2.10
ext NS ns.other.test.
safe NS ns.safe
safe DS 12345 13 2 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
ns.safe AAAA 2001:db8::10
u.only.sub2 NS ns.other.test.
"""


@dataclass
class Peer:
    """One server of one zone."""

    kind: str
    home: Path
    origin: str = "e.test."
    text: str = ""
    primary: tuple[str, int] | None = None
    notify: tuple[str, int] | None = None
    key: tuple[str, str] | None = None
    tls: tuple[Path, Path] | None = None
    """Certificate and key with which BIND serves transfers over TLS."""
    port: int = field(default_factory=free_port)
    tls_port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def file(self) -> Path:
        """The zone file."""
        return self.home / "peer.zone"

    def write(self, text: str) -> None:
        """Replace the zone file."""
        self.file.write_text(text)

    def configure(self) -> list[str]:
        """Write zone file and configuration; returns the command."""
        (self.home / "db").mkdir(parents=True, exist_ok=True)
        if self.text:
            self.write(self.text)
        made: list[str] = getattr(self, f"_{self.kind}")()
        return made

    def reload(self) -> None:
        """Make the running server read the zone file again."""
        assert self.process is not None
        if self.kind == "knot":
            subprocess.run([program("knotc"), "-c", str(self.home / "knot.conf"), "zone-reload", self.origin],
                           check=True, capture_output=True, timeout=60)
        else:
            self.process.send_signal(signal.SIGHUP)

    def _nsd(self) -> list[str]:
        home, key = self.home, self.key[0] if self.key else "NOKEY"
        lines = [
            "server:", "  server-count: 1", '  username: ""', '  chroot: ""', f'  zonesdir: "{home}"', '  database: ""',
            f'  pidfile: "{home}/nsd.pid"', f'  xfrdfile: "{home}/xfrd.state"', f'  zonelistfile: "{home}/zone.list"',
            f'  xfrdir: "{home}"', "  minimal-responses: no", "  rrl-ratelimit: 0",
            f"  ip-address: 127.0.0.1@{self.port}", "  xfrd-reload-timeout: 0",
            "remote-control:", "  control-enable: no",
        ]
        if self.key:
            lines += ["key:", f'  name: "{key}"', "  algorithm: hmac-sha256", f'  secret: "{self.key[1]}"']
        lines += ["zone:", f'  name: "{self.origin}"', '  zonefile: "peer.zone"', f"  provide-xfr: 127.0.0.1 {key}",
                  "  store-ixfr: yes", "  create-ixfr: yes"]
        if self.notify:
            lines += [f"  notify: {self.notify[0]}@{self.notify[1]} {key}", "  notify-retry: 2"]
        if self.primary:
            lines += [f"  request-xfr: {self.primary[0]}@{self.primary[1]} {key}",
                      f"  allow-notify: 127.0.0.1 {key}", "  min-retry-time: 1", "  max-retry-time: 1",
                      "  min-refresh-time: 1"]
        (home / "nsd.conf").write_text("\n".join(lines) + "\n")
        return ["nsd", "-d", "-c", str(home / "nsd.conf")]

    def _knot(self) -> list[str]:
        home = self.home
        key = [f"    key: {self.key[0]}"] if self.key else []
        lines = ["server:", f'    rundir: "{home}"', f"    listen: [ 127.0.0.1@{self.port} ]",
                 "    udp-workers: 1", "    tcp-workers: 1", "    background-workers: 1", "control:",
                  f'    listen: "{home}/knot.sock"', "database:", f'    storage: "{home}/db"', "log:",
                  "  - target: stderr", "    any: info"]
        if self.key:
            lines += ["key:", f"  - id: {self.key[0]}", "    algorithm: hmac-sha256", f"    secret: {self.key[1]}"]
        remotes = (("primary", self.primary), ("secondary", self.notify))
        if self.primary or self.notify:
            lines.append("remote:")
        for name, remote in remotes:
            if remote:
                lines += [f"  - id: {name}", f"    address: {remote[0]}@{remote[1]}", *key]
        lines += ["acl:", "  - id: xfr", "    address: 127.0.0.1", "    action: [transfer, notify]", *key,
                  "zone:", f'  - domain: "{self.origin}"', f'    file: "{self.file}"', "    acl: xfr",
                  "    semantic-checks: off"]
        if self.primary:
            lines += ["    master: primary", "    refresh-min-interval: 2", "    retry-min-interval: 2",
                      "    refresh-max-interval: 2", "    retry-max-interval: 2"]
        else:
            lines += ["    zonefile-load: difference", "    zonefile-sync: -1", "    journal-content: changes"]
        if self.notify:
            lines += ["    notify: secondary"]
        (home / "knot.conf").write_text("\n".join(lines) + "\n")
        return ["knotd", "-c", str(home / "knot.conf")]

    def _bind(self) -> list[str]:
        home = self.home
        key = f" key {self.key[0]}" if self.key else ""
        allow = f"{{ key {self.key[0]}; }}" if self.key else "{ 127.0.0.1; }"
        lines = ["options {", f'  directory "{home}";', f'  pid-file "{home}/named.pid";',
                 f'  session-keyfile "{home}/session.key";', f'  managed-keys-directory "{home}";',
                 f"  listen-on port {self.port} {{ 127.0.0.1; }};", "  listen-on-v6 { none; };",
                 "  recursion no;", "  zero-no-soa-ttl no;",
                 "  dnssec-validation no;", "  empty-zones-enable no;", "  check-integrity no;",
                 "  ixfr-from-differences yes;",
                 "  minimal-responses no;", "  notify explicit;", f"  allow-transfer {allow};",
                 "  min-refresh-time 1;", "  max-refresh-time 1;", "  min-retry-time 1;", "  max-retry-time 1;", "};",
                 "controls { };"]
        if self.tls:
            lines.insert(0, f'tls served {{ cert-file "{self.tls[0]}"; key-file "{self.tls[1]}"; }};')
            lines.insert(2, f"  listen-on port {self.tls_port} tls served {{ 127.0.0.1; }};")
        if self.key:
            lines.append(f'key "{self.key[0]}" {{ algorithm hmac-sha256; secret "{self.key[1]}"; }};')
        if self.primary:
            kind = (f"type secondary; masterfile-format text; allow-notify {{ 127.0.0.1; }};"
                    f" primaries {{ {self.primary[0]} port {self.primary[1]}{key}; }};")
        else:
            kind = "type primary;"
        also = f" also-notify {{ {self.notify[0]} port {self.notify[1]}{key}; }};" if self.notify else ""
        lines.append(f'zone "{self.origin}" {{ {kind}{also} file "peer.zone"; }};')
        (home / "named.conf").write_text("\n".join(lines) + "\n")
        return ["named", "-g", "-n", "1", "-U", "1", "-c", str(home / "named.conf")]


def serial_of(port: int, origin: str, address: str = "127.0.0.1") -> int | None:
    """The serial that a server answers; None when it does not serve the zone."""
    reply = ask(address, port, origin, c.SOA, timeout=0.5)
    if reply is None or not reply.aa or not reply.answer:
        return None
    return soa_fields(reply.answer[0].rdata(0)).serial


@contextmanager
def serve(peer: Peer) -> "Iterator[Peer]":
    """Run a peer until the block ends; a primary answers from its zone inside it."""
    command = peer.configure()
    log = peer.home / "log"
    with run_process(command, log, cwd=peer.home) as process:
        peer.process = process
        if peer.text:
            wait_until(lambda: serial_of(peer.port, peer.origin) is not None, f"answers of {peer.kind}",
                       process=process, log=log)
        yield peer


def sign(text: str, origin: str, home: Path, *options: str) -> str:
    """The zone file signed by ldns-signzone with a new key."""
    home.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        [program("ldns-keygen"), "-a", "ECDSAP256SHA256", "-k", origin], cwd=home, check=True, capture_output=True,
        timeout=60, text=True,
    )
    (home / "plain.zone").write_text(f"$ORIGIN {origin}\n{text}")
    subprocess.run(
        [program("ldns-signzone"), *options, "-f", "signed.zone", "plain.zone", made.stdout.strip()], cwd=home,
        check=True, capture_output=True, timeout=60,
    )
    return (home / "signed.zone").read_text()


def reply_sets(view: MessageView) -> dict[str, Any]:
    """What a reply says, for comparison: rcode, AA, and records of answer and authority in any order."""
    sections: dict[str, Any] = {"rcode": view.rcode, "aa": view.aa}
    for name, section in (("answer", view.answer), ("authority", view.authority)):
        sections[name] = sorted(
            f"{names.to_text(rrset.key[0])} {rrset.ttl} {c.type_to_text(rrset.rtype)} {digest(rrset)}"
            for rrset in section
        )
    return sections


def digest(rrset: RRset) -> str:
    """The number of records and signatures, and a short digest of both, regardless of their order."""
    content = b"".join([*sorted(rrset.canonical_rdatas()), *sorted(rrset.sigs())])
    return f"{len(rrset)}+{rrset.sig_len} {hashlib.sha256(content).hexdigest()[:6]}"
