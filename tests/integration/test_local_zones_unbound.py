"""Local zones of each kind, in Unbound and here: both answer a table of queries alike.

Unbound resolves what is not local by a forwarder that answers with one address. What it drops gets no reply; queries
that it has answered since then show that it has.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.forwarder import ELSEWHERE, forwarder
from support.ports import free_port
from support.servers import ask, ask_or_dropped, program, run_process, wait_until

from resolver.effects import Outcome, Question
from resolver.policy import PolicyPipeline
from resolver.policy.local import LocalZoneType
from resolver.query import ActionKind
from resolver.settings import PolicySettings, Settings
from resolver.wire import consts as c
from resolver.wire import name as names

pytestmark = pytest.mark.integration

DROPPED, RESOLVED = "dropped", "resolved"
# Kinds that Unbound has since later versions than Debian's, and those that are ours.
NOT_COMPARED = {"nodata", "nxdomain", "truncate", "resolve", "loopback", "block_a"}
KINDS = [one.value for one in LocalZoneType if one.value not in NOT_COMPARED]
DATA = [f"{label}{kind}.zone. 60 IN {record}" for kind in KINDS for label, record in (
    ("www.", "A 192.0.2.1"), ("deep.er.", "TXT x"), ("alias.", "CNAME www.elsewhere.test-name."))
    if "redirect" not in kind and kind != "nodefault"]
DATA += [f"{kind}.zone. 60 IN A 192.0.2.2" for kind in KINDS if "redirect" in kind]
QUERIES = [(f"{label}{kind}.zone.", qtype) for kind in KINDS if kind != "nodefault"
           for label in ("", "www.", "WWW.", "x.www.", "other.", "er.", "deep.er.")
           for qtype in (c.A, c.AAAA, c.TXT)]
QUERIES += [("x.home.arpa.", c.A), ("x.test.", c.A), ("1.0.0.127.in-addr.arpa.", c.PTR), ("localhost.", c.A)]
ZONES = [f"{kind}.zone. {kind}" for kind in KINDS if kind != "nodefault"] + ["home.arpa. nodefault"]


@pytest.fixture(scope="module")
def unbound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an Unbound with the zones of this file."""
    program("unbound")
    directory: Path = tmp_path_factory.mktemp("unbound")
    port = free_port()
    lines = ["server:", f" interface: 127.0.0.1@{port}", " username: ''", " chroot: ''", " pidfile: ''",
             f" directory: '{directory}'", " use-syslog: no", " do-daemonize: no", " do-not-query-localhost: no",
             " module-config: 'iterator'", " num-threads: 1"]
    lines += [f' local-zone: "{zone.split()[0]}" {zone.split()[1]}' for zone in ZONES]
    lines += [f" local-data: '{record}'" for record in DATA]
    with forwarder() as upstream:
        lines += ["forward-zone:", ' name: "."', f" forward-addr: 127.0.0.1@{upstream}"]
        (directory / "unbound.conf").write_text("\n".join(lines) + "\n")
        command = ["unbound", "-d", "-p", "-c", str(directory / "unbound.conf")]
        with run_process(command, directory / "log") as process:
            wait_until(lambda: ask("127.0.0.1", port, "localhost.", c.A, timeout=0.5) is not None, "Unbound's start",
                       process=process, log=directory / "log")
            yield port


def of_unbound(port: int, qname: str, qtype: int) -> object:
    reply = ask_or_dropped("127.0.0.1", port, qname, qtype, "elsewhere.test-name.")
    if reply is None:
        return DROPPED
    found = sorted((rrset.rtype, sorted(rrset.rdatas())) for rrset in reply.answer)
    if (c.A, [ELSEWHERE]) in found or (reply.rcode == c.NOERROR and not found and not reply.aa):
        return RESOLVED
    return reply.rcode, found


def of_ours(plan: PolicyPipeline, qname: str, qtype: int) -> object:
    outcome: Outcome | None = plan.answer(Question(names.from_text(qname), qtype))
    if outcome is None:
        return RESOLVED
    if outcome.applied is not None and outcome.applied.kind is ActionKind.DROP:
        return DROPPED
    return outcome.rcode, sorted((rrset.rtype, sorted(rrset.rdatas())) for rrset in outcome.answer)


def test_each_kind_answers_as_in_unbound(unbound: int) -> None:
    plan = PolicyPipeline(Settings(policy=PolicySettings(local_zones=tuple(ZONES), local_data=tuple(DATA))))
    both = {(qname, c.type_to_text(qtype)): (of_unbound(unbound, qname, qtype), of_ours(plan, qname, qtype))
            for qname, qtype in QUERIES}
    assert {query: found for query, found in both.items() if found[0] != found[1]} == {}
    assert {DROPPED, RESOLVED} <= {found[0] for found in both.values() if isinstance(found[0], str)}
