"""One configuration in Unbound or BIND and, imported, in resolverd: the same queries get the same answers.

What is not local is resolved by forwarders that answer every query alike. The lists of options are those of the manual
pages of the installed packages: each must be in a table of its importer.
"""

import gzip
import importlib.util
import itertools
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.documents import DOCS, environment
from support.forwarder import forwarder
from support.ports import free_port
from support.servers import ask, program, run_named, run_process, wait_until
from support.subject import RESOLVERD, daemon_environment

from resolver.cli.importers import bind_zones, convert
from resolver.cli.importers.unbound_syntax import SECTIONS
from resolver.wire import consts as c

pytestmark = [pytest.mark.integration, pytest.mark.checkout]

CLIENTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
ZONE = """$TTL 300
@ SOA ns host 1 7200 3600 86400 300
@ NS ns
ns A 127.0.0.1
www A 192.0.2.1
alias CNAME www
*.wild A 192.0.2.2
"""

UNBOUND = """\
server:
  interface: 127.0.0.1@{port}
  directory: "{directory}"
  username: ""
  chroot: ""
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  do-not-query-localhost: no
  module-config: "iterator"
  num-threads: 1
  access-control-view: 127.0.0.0/30 wide
  access-control-view: 127.0.0.2/32 narrow
  access-control-view: 127.0.0.1/32 none
  local-zone: everyone.lab-name. static
  local-data: "www.everyone.lab-name. A 192.0.2.10"
  private-address: 198.51.100.0/24
  private-domain: own.lab-name.
view:
  name: narrow
  local-zone: narrow.lab-name. static
  local-data: "www.narrow.lab-name. A 192.0.2.11"
view:
  name: wide
  view-first: yes
  local-zone: narrow.lab-name. refuse
view:
  name: none
auth-zone:
  name: own.lab-name.
  zonefile: zone
  for-upstream: yes
forward-zone:
  name: "."
  forward-addr: 127.0.0.1@{upstream}
forward-zone:
  name: private.lab-name.
  forward-addr: 127.0.0.1@{other}
"""
BIND = """\
options {{
  directory "{directory}"; pid-file none; session-keyfile none; listen-on-v6 {{ none; }}; dnssec-validation no;
  listen-on port {port} {{ 127.0.0.1; }}; allow-query {{ any; }}; allow-recursion {{ any; }}; recursion yes;
  forward only; forwarders {{ 127.0.0.1 port {upstream}; }}; empty-zones-enable yes;
}};
controls {{ }};
acl second {{ 127.0.0.2; }};
view "first" {{
  match-clients {{ !second; 127.0.0.0/30; }};
  match-recursive-only no;
  zone "own.lab-name" {{ type primary; file "zone"; allow-transfer {{ none; }}; }};
  allow-recursion {{ !127.0.0.3; any; }};
  allow-query {{ !127.0.0.3; any; }};
}};
view "second" {{
  match-clients {{ second; }};
  zone "own.lab-name" {{ type primary; file "zone"; allow-transfer {{ none; }}; }};
  zone "narrow.lab-name" {{ type forward; forward only; forwarders {{ 127.0.0.1 port {other}; }}; }};
}};
"""
NAMES = ("www.own.lab-name", "alias.own.lab-name", "x.wild.own.lab-name", "none.own.lab-name", "www.everyone.lab-name",
         "x.everyone.lab-name", "www.narrow.lab-name", "x.narrow.lab-name", "www.elsewhere.lab-name",
         "x.private.lab-name", "1.0.0.10.in-addr.arpa")


def answer(port: int, client: str, name: str) -> tuple[str, list[str]]:
    """The status, and the addresses and aliases of the answer, sorted."""
    command = [program("dig"), "@127.0.0.1", "-p", str(port), "-b", client, "+tries=1", "+time=30", name, "A"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    status = re.search(r"status: (\w+)", text)
    assert status is not None, text
    return status[1], sorted(re.findall(r"\sIN\s+(?:A|CNAME)\s+(\S+)$", text, re.MULTILINE))


def compare(folder: Path, old: str, new: str, names: str) -> str:
    """What compare.sh of the handbook prints; its exit status must agree."""
    (folder / "bin").mkdir(exist_ok=True)
    done = subprocess.run(["sh", str(DOCS / "examples/compare.sh"), old, new], input=names, capture_output=True,
                          text=True, env=environment(folder / "bin"), timeout=120, check=False)
    assert done.returncode == bool(done.stdout), done.stderr
    return done.stdout


@contextmanager
def running(command: list[str], log: Path, port: int) -> Iterator[None]:
    with run_process(command, log, env=daemon_environment()) as process:
        wait_until(lambda: ask("127.0.0.1", port, "www.own.lab-name.", c.A, timeout=0.5) is not None, "an answer",
                   process=process, log=log)
        yield


@pytest.mark.parametrize(("kind", "template"), [("unbound", UNBOUND), ("bind", BIND)])
def test_an_imported_configuration_answers_alike(tmp_path: Path, kind: str, template: str) -> None:
    theirs, ours = free_port(), free_port()
    (tmp_path / "zone").write_text(ZONE)
    with ExitStack() as stack:
        upstream = stack.enter_context(forwarder())
        other = stack.enter_context(forwarder(bytes([198, 51, 100, 7])))
        for port, name in ((theirs, "theirs.conf"), (ours, "imported.conf")):
            (tmp_path / name).write_text(
                template.format(port=port, directory=tmp_path, upstream=upstream, other=other))
        text, draft = convert(str(tmp_path / "imported.conf"), kind)
        assert [str(one) for one in draft.remarks if one.needed and "controls" not in one.text] == []
        if kind == "bind":
            text += "\n[iteration]\ndo-not-query-localhost = false\n"  # BIND queries servers there always
        config = tmp_path / "resolverd.toml"
        config.write_text(text)
        checked = subprocess.run([*RESOLVERD, "--config", str(config), "--check"], capture_output=True, text=True,
                                 env=daemon_environment(), timeout=60, check=False)
        assert checked.returncode == 0, checked.stderr
        peer = tmp_path / "theirs.conf"
        if kind == "bind":
            stack.enter_context(run_named(peer, tmp_path / "theirs.log"))
        else:
            stack.enter_context(running(["unbound", "-d", "-p", "-c", str(peer)], tmp_path / "theirs.log", theirs))
        stack.enter_context(running([*RESOLVERD, "--config", str(config)], tmp_path / "ours.log", ours))
        both = {(client, name): (answer(theirs, client, name), answer(ours, client, name))
                for client, name in itertools.product(CLIENTS, NAMES)}
        names = "www.own.lab-name\nnone.own.lab-name\nwww.elsewhere.lab-name A\n"
        assert compare(tmp_path, f"127.0.0.1:{theirs}", f"127.0.0.1:{ours}", names) == ""
        different = compare(tmp_path, f"127.0.0.1:{theirs}", "127.0.0.1:1", "www.own.lab-name\n")
        assert different.startswith("www.own.lab-name A\n") and "192.0.2.1" in different
    assert {query: found for query, found in both.items() if found[0] != found[1]} == {}
    assert len({str(found) for found in both.values()}) > 4, "the queries tell little"


# --- complete tables ----------------------------------------------------------------------------------------------

spec = importlib.util.spec_from_file_location("migration_pages", DOCS / "migration_pages.py")
assert spec is not None
assert spec.loader is not None
pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pages)

# Keys of blocks inside statements and options, each of which is carried over or named with its block.
INSIDE = {
    "algorithm", "bogus", "break-dnssec", "ca-file", "cert-file", "ciphers", "clients", "database", "dhparam-file",
    "edns", "exclude", "exempt-clients", "inet", "key-file", "keys", "log-only", "mapped", "match-recursive-only",
    "min-table-size", "padding", "prefer-server-ciphers", "protocols", "qps-scale", "recursive-only", "remote-hostname",
    "search", "secret", "session-tickets", "suffix", "tcp-keepalive", "tcp-only", "transfers",
}


def manual(name: str) -> str:
    return gzip.decompress(Path(f"/usr/share/man/man5/{name}.5.gz").read_bytes()).decode().replace("\\-", "-")


def test_each_option_of_unbound_is_in_a_table() -> None:
    program("unbound")
    found = set(re.findall(r'(?m)^\.B "?([a-z0-9-]+): ', manual("unbound.conf").replace("\\fR", "")))
    assert len(found) > 300
    assert found - pages.options_of(pages.of_unbound()) - SECTIONS - {"include", "include-toplevel"} == set()


def test_each_option_of_bind_is_in_a_table() -> None:
    program("named")
    text = manual("named.conf")
    found = set(re.findall(r"(?m)^\s+([a-z][a-z0-9-]+) ", text[text.index("options {") :]))
    assert len(found) > 250
    tables = pages.options_of(pages.of_bind()) | bind_zones.NOT_NEEDED | set(bind_zones.CHANGED_BY_BIND)
    assert found - tables - INSIDE == set()
