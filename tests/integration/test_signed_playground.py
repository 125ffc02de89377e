"""The signed playground resolved by Unbound and by our daemon: response code and AD of every signed name.

Unbound, which shares no code with the signer, must get the results of the playground's tables, except for a few names
where it is more lenient; our daemon must get them too, with the extended error. The same zones are also served by NSD,
Knot and BIND, because they are signed before the export.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.servers import ask, program, serve_export
from support.signed_names import SIGNED
from support.subject import Subject, daemon_environment, serve_playground, start_subject, upstream_port_for

from resolver.playground import World, signed, world_tables
from resolver.playground.export import REFUSED_BY, export
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire.edns import parse_ede
from resolver.wire.message import MessageView

pytestmark = pytest.mark.integration

TIMEOUT = 15.0
DAEMONS = {"nsd": "nsd", "knot": "knotd", "bind": "named"}

# Where an Unbound may differ (1.17 does in all, 1.26 no longer in the first): name -> (response code, AD, reason).
KINDER_UNBOUND = {
    "www.revoked.dnssec.playground.": ("NOERROR", True, "it minds the REVOKE bit only in trust anchors (RFC 5011)"),
    "www.ds-downgrade.dnssec.playground.": (
        "NOERROR",
        True,
        "without harden-algo-downgrade it tries the weaker digest, too, against RFC 4509 section 3",
    ),
    "www.nsec-delegation.dnssec.playground.": (
        "NOERROR",
        False,
        "the record proves an unsigned delegation at the name; what is answered for it counts as that zone's",
    ),
}


@pytest.fixture(scope="module")
def world() -> World:
    return signed.signed_world(int(time.time()))


@pytest.fixture(scope="module", params=["unbound", "resolverd"])
def subject(request: pytest.FixtureRequest, world: World, tmp_path_factory) -> Iterator[Subject]:
    if request.param == "unbound":
        program("unbound")
    port = upstream_port_for(request.param, world)
    directory = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        stack.enter_context(serve_playground(directory, world, port))
        yield stack.enter_context(
            start_subject(directory, world, port, kind=request.param, anchor=world.trust_anchors[0])
        )


def test_every_signed_name_has_its_documented_verdict(subject: Subject) -> None:
    differences = []
    for special in SIGNED:
        view = _asked(subject, special)
        found = (c.rcode_to_text(view.rcode), view.ad)
        promised = (special.rcode, special.verdict is Verdict.SECURE)
        kinder = subject.kind == "unbound" and found == KINDER_UNBOUND.get(special.qname, ())[:2]
        if found != promised and not kinder:
            differences.append(f"{special.qname} {special.qtype}: {found}, promised {promised}")
        if subject.kind == "resolverd" and special.ede is not None:
            codes = _errors(view)
            if special.ede not in codes:
                differences.append(f"{special.qname} {special.qtype}: extended errors {codes}, best {special.ede}")
    assert not differences, "\n".join(differences)


def test_checking_disabled_returns_bogus_data(subject: Subject) -> None:
    view = ask(
        subject.address, subject.port, "www.tampered.dnssec.playground.", c.A, flags=c.RD | c.CD, do=True, tcp=True
    )
    assert view is not None and view.rcode == c.NOERROR and not view.ad
    assert view.answer[0].rdata(0) == bytes((198, 18, 66, 66)) and view.answer[0].sigs()


@pytest.mark.parametrize("zone", ["nsec", "nsec3"])
def test_any_below_a_signed_dname_is_the_alias_it_makes(subject: Subject, zone: str) -> None:
    for label in ("any1", "www", "any2"):  # from the servers, and from what the cache has by then
        name = f"{label}.old.{zone}.dnssec.playground."
        view = ask(subject.address, subject.port, name, c.ANY, do=True, tcp=True, timeout=TIMEOUT)
        assert view is not None
        assert (view.rcode, view.ad, [rrset.rtype for rrset in view.answer]) == (c.NOERROR, True, [c.DNAME, c.CNAME])
        ask(subject.address, subject.port, name, c.A, do=True, tcp=True, timeout=TIMEOUT)


def test_a_raised_ttl_is_cut_to_what_was_signed(subject: Subject) -> None:
    view = ask(subject.address, subject.port, "www.ttl-raised.dnssec.playground.", c.A, do=True, tcp=True)
    assert view is not None and view.ad
    # Unbound checks the signature with the original TTL and shows the other.
    assert view.answer[0].ttl <= (86400 if subject.kind == "unbound" else 3600)


def test_explanations_are_secure_themselves(subject: Subject) -> None:
    view = ask(subject.address, subject.port, "www.expired.dnssec.about.playground.", c.TXT, do=True, tcp=True)
    assert view is not None and view.ad and b"bogus, extended error 7" in view.answer[0].packed


def test_rdig_compares_a_server_with_its_own_result(subject: Subject, world: World, tmp_path) -> None:
    config = tmp_path / "anchors.toml"
    config.write_text(f'[dnssec]\ntrust-anchors = ["{world.trust_anchors[0]}"]\n')
    told = {}
    for name in ("www.nsec.dnssec.playground", "www.expired.dnssec.playground"):
        words = [name, f"@{subject.address}:{subject.port}", "+explain=json", "--config", str(config)]
        done = subprocess.run([sys.executable, "-m", "resolver.cli.dig", *words], capture_output=True, text=True,
                              timeout=30, check=False, env=daemon_environment())
        told[name] = json.loads(done.stdout) | {"exit": done.returncode}
    good, bad = told.values()
    assert (good["exit"], good["result"]["dnssec"], good["server"]["status"]) == (0, "secure", "NOERROR")
    assert "ad" in good["server"]["flags"] and {one["server"] for one in good["exchanges"]} == {subject.address}
    assert [one["zone"] for one in good["chain"]][-1] == "nsec.dnssec.playground."
    assert (bad["exit"], bad["result"]["dnssec"], bad["server"]["status"]) == (3, "bogus", "SERVFAIL")
    assert bad["advice"]["zone"] == "expired.dnssec.playground." and bad["result"]["ede"][0]["code"] == 7


@pytest.mark.parametrize("daemon", DAEMONS)
def test_real_name_servers_serve_the_signed_zones(world: World, daemon: str, tmp_path) -> None:
    program(DAEMONS[daemon])
    port = upstream_port_for("resolverd", world)
    differences = []
    with ExitStack() as stack:
        stack.enter_context(serve_export(export(world, tmp_path / "servers", daemon, port=port)))
        ours = stack.enter_context(
            start_subject(tmp_path / "ours", world, port, kind="resolverd", anchor=world.trust_anchors[0])
        )
        for special in SIGNED:
            if any(special.qname.endswith(f".{origin}") for origin in REFUSED_BY[daemon]):
                continue
            view = _asked(ours, special)
            found = (c.rcode_to_text(view.rcode), view.ad)
            if found != (special.rcode, special.verdict is Verdict.SECURE):
                differences.append(f"{special.qname} {special.qtype}: {found} {_errors(view)}")
    assert not differences, "\n".join(differences)


def _asked(subject: Subject, special: world_tables.TestQuestion) -> MessageView:
    qtype = c.type_from_text(special.qtype)
    view = ask(subject.address, subject.port, special.qname, qtype, tcp=True, do=True, timeout=TIMEOUT)
    assert view is not None, special
    return view


def _errors(view: MessageView) -> set[int | None]:
    """The codes of all extended errors; {None} when there is none."""
    options = [] if view.edns is None else view.edns.options
    return {parse_ede(value)[0] for code, value in options if code == c.OPTION_EDE} or {None}
