"""DNS64 in Unbound, in BIND and here: with the same name servers all give the same AAAA records, where they agree.

The name servers are the signed playground, on port 53 of their loopback addresses, because the others query no other
port; without permission, this file is skipped.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.ports import free_port
from support.servers import ask, program, run_named
from support.subject import Subject, serve_playground, start_subject, upstream_port_for

from resolver.playground import World, signed
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView

pytestmark = pytest.mark.integration

PREFIX = "64:ff9b::/96"
TIMEOUT = 15.0
TTL_SLACK = 10
QNAMES = (
    "www.example.playground.", "a.example.playground.", "six.example.playground.", "both.example.playground.",
    "many.example.playground.", "alias2.example.playground.", "ext.example.playground.", "none.example.playground.",
    "mail.example.playground.", "q.wild.example.playground.", "example.playground.", "www.old.dname.playground.",
    "www.servfail.playground.",
    "www.nsec.dnssec.playground.", "alias.nsec.dnssec.playground.", "dangle.nsec.dnssec.playground.",
    "x.wild.nsec.dnssec.playground.", "www.old.nsec3.dnssec.playground.", "missing.nsec3.dnssec.playground.",
    "www.expired.dnssec.playground.", "www.expired-one.dnssec.playground.",
)


@contextmanager
def bind(directory: Path, world: World) -> Iterator[Subject]:
    """A BIND with DNS64 that resolves from the roots of `world` and validates."""
    directory.mkdir()
    port = free_port()
    (directory / "root.hints").write_text(world.hints_text())
    owner, *words = world.trust_anchors[0].split()
    tag, algorithm, digest_type, *digest = words[words.index("DS") + 1 :]
    (directory / "named.conf").write_text(f"""
options {{ directory "{directory}"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; pid-file none;
  session-keyfile none; recursion yes; allow-query {{ any; }}; dnssec-validation yes; empty-zones-enable no;
  minimal-responses yes; dns64 {PREFIX} {{ break-dnssec yes; }}; }};
trust-anchors {{ "{owner}" static-ds {tag} {algorithm} {digest_type} "{''.join(digest)}"; }};
controls {{ }};
zone "." {{ type hint; file "root.hints"; }};
""")
    log = directory / "log"
    with run_named(directory / "named.conf", log, cwd=directory) as process:
        yield Subject("bind", "127.0.0.1", port, process, log)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Subject]]:
    """Ours, Unbound and BIND."""
    program("unbound")
    program("named")
    world = signed.signed_world(int(time.time()))
    port = upstream_port_for("unbound", world)
    directory = tmp_path_factory.mktemp("dns64")
    with ExitStack() as stack:
        stack.enter_context(serve_playground(directory, world, port))
        anchor = world.trust_anchors[0]
        ours = stack.enter_context(start_subject(
            directory / "ours", world, port, kind="resolverd", anchor=anchor,
            edit=lambda text: f'{text}\n[policy]\ndns64-prefix = "{PREFIX}"\n'))
        unbound = stack.enter_context(start_subject(
            directory / "unbound", world, port, kind="unbound", anchor=anchor,
            edit=lambda text: text.replace('"validator', '"dns64 validator').replace(
                "    verbosity: 1", f"    dns64-prefix: {PREFIX}\n    verbosity: 1")))
        yield [ours, unbound, stack.enter_context(bind(directory / "bind", world))]


def asked(subject: Subject, qname: str, do: bool, cd: int = 0) -> MessageView:
    view = ask(subject.address, subject.port, qname, c.AAAA, tcp=True, timeout=TIMEOUT, do=do,
               flags=c.RD | c.AD | cd)
    assert view is not None, (subject.kind, qname)
    return view


def shown(view: MessageView) -> tuple[object, ...]:
    records = sorted(f"{names.to_text(names.lower(rrset.name))} {c.type_to_text(rrset.rtype)} {rdata.hex()}"
                     for rrset in view.answer for rdata in rrset.canonical_rdatas() if rrset.rtype != c.RRSIG)
    return c.rcode_to_text(view.rcode), records


@pytest.mark.parametrize("do", [False, True])
def test_same_addresses_and_the_same_ad_bit(three: list[Subject], do: bool) -> None:
    """RFC 6147 section 5.5: also when the client sets DO, and AD is set for what is made of secure data."""
    different, secure = {}, 0
    for qname in QNAMES:
        views = [asked(subject, qname, do) for subject in three]
        found = [(*shown(view), bool(view.flags & c.AD)) for view in views]
        if found.count(found[0]) < len(three):
            different[qname] = found
        secure += bool(views[0].flags & c.AD) and any(rrset.rtype == c.AAAA for rrset in views[0].answer)
    assert different == {}
    assert secure > 3


def test_nothing_is_made_for_a_client_that_validates(three: list[Subject]) -> None:
    """BIND is left out: with break-dnssec, which the other tests need, it synthesises with CD, too."""
    ours, unbound, _ = three
    both = {qname: (shown(asked(ours, qname, True, c.CD)), shown(asked(unbound, qname, True, c.CD)))
            for qname in QNAMES}
    assert {qname: found for qname, found in both.items() if found[0] != found[1]} == {}


def test_same_ttl_as_bind(three: list[Subject]) -> None:
    """Unbound is left out: it does not limit the TTL by that of the denial (RFC 6147 section 5.1.7)."""
    ours, _, bind_ = three
    for qname in QNAMES:
        mine, theirs = ({rrset.rtype: rrset.ttl for rrset in asked(one, qname, False).answer} for one in (ours, bind_))
        assert abs(mine.get(c.AAAA, 0) - theirs.get(c.AAAA, 0)) <= TTL_SLACK, qname
