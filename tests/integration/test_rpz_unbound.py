"""A response policy zone in Unbound and here: both answer a table of queries alike."""

from pathlib import Path

import pytest
from support.forwarder import ELSEWHERE, LISTED, forwarder
from support.ports import free_port
from support.servers import ask, ask_or_dropped, program, run_process, wait_until

from resolver.effects import Outcome, Question
from resolver.policy import Pipeline
from resolver.policy.rpz_module import ResponsePolicyZones, RpzAliases
from resolver.policy.rpz_zone import compile_zone
from resolver.query import ActionKind, Query
from resolver.settings import RpzSettings
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.rrset import RRset

pytestmark = pytest.mark.integration

ZONE = """$TTL 60
@ SOA ns.example. admin.example. 1 3600 600 86400 60
@ NS ns.example.
nx.test CNAME .
nodata.test CNAME *.
pass.test CNAME rpz-passthru.
*.pass.test CNAME .
drop.test CNAME rpz-drop.
tcp.test CNAME rpz-tcp-only.
data.test A 192.0.2.1
data.test TXT hello
*.wild.test A 192.0.2.2
exact.wild.test CNAME .
deep.wild.test A 192.0.2.3
*.deep.wild.test CNAME *.
alias.test CNAME garden.other.
32.8.113.0.203.rpz-ip CNAME .
listed.pass.test CNAME rpz-passthru.
"""
QNAMES = ("nx.test.", "NX.Test.", "x.nx.test.", "nodata.test.", "pass.test.", "x.pass.test.", "drop.test.", "tcp.test.",
          "data.test.", "x.data.test.", "wild.test.", "x.wild.test.", "y.x.wild.test.", "exact.wild.test.",
          "x.exact.wild.test.", "deep.wild.test.", "x.deep.wild.test.", "alias.test.", "other.test.", "listed.test.",
          "listed.pass.test.")
CLIENT = Query("127.0.0.1", transport="udp")


def of_unbound(port: int, qname: str, qtype: int) -> object:
    reply = ask_or_dropped("127.0.0.1", port, qname, qtype, "ready.test.")
    if reply is None:
        return "dropped"
    if reply.tc:
        return "truncated"
    return reply.rcode, sorted((rrset.rtype, sorted(rrset.rdatas())) for rrset in reply.answer)


def of_ours(view: Pipeline, qname: str, qtype: int) -> object:
    """The points of the pipeline in their order, with the answer of the forwarder for what is resolved."""
    question = Question(names.from_text(qname), qtype)
    outcome = view.own_question(CLIENT, question) or view.answer(question)
    if outcome is None:
        outcome = view.response(CLIENT, resolved(question, question.qname))
    elif outcome.answer and outcome.answer[0].rtype == c.CNAME and qtype != c.CNAME:
        followed = resolved(question, outcome.answer[0].targets()[0])
        outcome = Outcome(question, c.NOERROR, outcome.answer + followed.answer, [], Verdict.INSECURE, 60)
    if outcome.applied is not None and outcome.applied.kind is ActionKind.DROP:
        return "dropped"
    if outcome.applied is not None and outcome.applied.kind is ActionKind.TRUNCATE:
        return "truncated"
    return outcome.rcode, sorted((rrset.rtype, sorted(rrset.rdatas())) for rrset in outcome.answer)


def resolved(question: Question, name: bytes) -> Outcome:
    address = LISTED if name.lower().startswith(b"\6listed") else ELSEWHERE
    answer = [RRset(name, c.A, 60, [address])] if question.qtype == c.A else []
    return Outcome(question, c.NOERROR, answer, [], Verdict.INSECURE, 60)


def test_a_zone_answers_as_in_unbound(tmp_path: Path) -> None:
    program("unbound")
    port = free_port()
    (tmp_path / "rpz.zone").write_text("$ORIGIN rpz.example.\n" + ZONE)
    made, errors = compile_zone(
        names.from_text("rpz.example."), present.zone_from_text(ZONE, names.from_text("rpz.example.")), bytes(16))
    assert errors == []
    zones = ResponsePolicyZones([RpzSettings(name="rpz.example", file="unused")])
    zones.replace({"rpz.example": made})
    view = Pipeline(0, "", (zones, RpzAliases(zones)))
    lines = ["server:", f" interface: 127.0.0.1@{port}", " username: ''", " chroot: ''", " pidfile: ''",
             f" directory: '{tmp_path}'", " use-syslog: no", " do-daemonize: no", " do-not-query-localhost: no",
             " module-config: 'respip iterator'", " num-threads: 1", " local-zone: test. nodefault",
             "rpz:", " name: rpz.example", f" zonefile: '{tmp_path}/rpz.zone'"]
    with forwarder() as upstream:
        lines += ["forward-zone:", ' name: "."', f" forward-addr: 127.0.0.1@{upstream}"]
        (tmp_path / "unbound.conf").write_text("\n".join(lines) + "\n")
        command = ["unbound", "-d", "-p", "-c", str(tmp_path / "unbound.conf")]
        with run_process(command, tmp_path / "log") as process:
            wait_until(lambda: ask("127.0.0.1", port, "ready.test.", c.A, timeout=0.5) is not None, "Unbound's start",
                       process=process, log=tmp_path / "log")
            both = {(qname, c.type_to_text(qtype)): (of_unbound(port, qname, qtype), of_ours(view, qname, qtype))
                    for qname in QNAMES for qtype in (c.A, c.TXT)}
    assert {query: found for query, found in both.items() if found[0] != found[1]} == {}
    assert {"dropped", "truncated"} <= {found[0] for found in both.values() if isinstance(found[0], str)}
