"""An alias into an unsigned zone does not help an attacker (RFC 4035 section 5.2, RFC 6840 section 4.4).

A signed zone has aliases, as for a CDN, whose targets are in unsigned zones. The attacker answers for names below or at
such an alias, without a signature or with one in the name of the alias. All queries for DNSKEY and DS go to the real
servers; their replies about the alias are correct and must not make anything insecure. Each query goes through the
whole resolver with its cache, twice.
"""

import ast
from pathlib import Path

import pytest
from support.forger import EXAMPLE_IP, KEY, PLAIN_IP, SOA, SUB_IP, SUB_KEY, attack, forge, forged_set, world
from support.minet import Minet, reply
from support.signing import Nsec3, sign_zone

from resolver.effects import Budget, Need, Outcome, Question, Steps, Task
from resolver.playground.authority import Authority
from resolver.playground.zones import Zone
from resolver.validate import Validator, nsec, nsec3, security_status
from resolver.validate.anchors import Anchors
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

CHAINS = pytest.mark.parametrize("chain", [None, Nsec3()], ids=["nsec", "nsec3"])
def shows(outcome: Outcome, owner: str, rtype: str) -> bool:
    """Whether the forged set is in the answer."""
    forged = forged_set(owner, rtype)
    return any(rrset.rtype == forged.rtype and rrset.packed == forged.packed for rrset in outcome.answer)


def assert_refused(minet: Minet, owner: str, rtype: str, *, known: bool = False) -> None:
    """The forged set is never returned: not at once, not from the cache, not after a client got it with CD.

    Later the truth may be known from what was learned on the way (`known`: already before); else it is SERVFAIL.
    """
    for number in range(4):
        outcome = minet.ask(owner, rtype, cd=number == 2)
        if number == 2:
            assert outcome.rcode != c.SERVFAIL  # a client that validates by itself gets all data
            continue
        assert not shows(outcome, owner, rtype)
        if number or known:
            assert outcome.rcode in (c.SERVFAIL, c.NXDOMAIN) or outcome.answer[0].rtype == c.CNAME
        else:
            assert (outcome.rcode, outcome.verdict) == (c.SERVFAIL, Verdict.BOGUS)


BELOW = [
    ("x.alias.example.", "alias.example."),
    ("x.y.z.alias.example.", "alias.example."),
    ("x.y.z.alias.example.", "y.z.alias.example."),
    ("x.deep.er.alias2.example.", "deep.er.alias2.example."),
    ("x.deep.er.alias2.example.", "er.alias2.example."),
    ("x.near.example.", "near.example."),
    ("x.gone.example.", "gone.example."),
    ("x.two.example.", "two.example."),
    ("x.a.wild.example.", "a.wild.example."),
    ("x.a.wild.example.", "wild.example."),
    ("x.dn.example.", "dn.example."),
    ("x.dn.example.", "x.dn.example."),
    ("x.y.dn.example.", "y.dn.example."),
]


@CHAINS
@pytest.mark.parametrize(("owner", "signer"), BELOW)
def test_signature_in_the_name_of_an_alias(owner: str, signer: str, chain: Nsec3 | None) -> None:
    minet = world(chain)
    attack(minet, owner, "A", signer)
    assert_refused(minet, owner, "A")


@CHAINS
@pytest.mark.parametrize("owner", sorted({owner for owner, _ in BELOW}))
def test_no_signature_below_an_alias(owner: str, chain: Nsec3 | None) -> None:
    minet = world(chain)
    attack(minet, owner, "A")
    assert_refused(minet, owner, "A")


@pytest.mark.parametrize("rtype", ["TLSA", "MX"])
@pytest.mark.parametrize("signer", ["", "alias.example.", "_tcp.alias.example."])
def test_other_types_below_an_alias(rtype: str, signer: str) -> None:
    minet = world()
    attack(minet, "_443._tcp.alias.example.", rtype, signer)
    assert_refused(minet, "_443._tcp.alias.example.", rtype)


@pytest.mark.parametrize("signer", ["example.", ".", "near.example.", "x.alias.example.", "plain."])
def test_signature_in_the_name_of_others(signer: str) -> None:
    """The parent of the alias, a sibling, the name itself, and the zone that the alias leads to."""
    minet = world()
    attack(minet, "x.alias.example.", "A", signer)
    assert_refused(minet, "x.alias.example.", "A")


@pytest.mark.parametrize("signer", ["", "alias.example."])
def test_the_alias_itself_replaced(signer: str) -> None:
    minet = world()
    attack(minet, "alias.example.", "A", signer)
    assert_refused(minet, "alias.example.", "A")


@CHAINS
@pytest.mark.parametrize("signer", ["", "alias.example.", "x.alias.example."])
def test_cached_data_of_the_alias_does_not_lower_the_status(signer: str, chain: Nsec3 | None) -> None:
    """The alias, its target and the DS of both have been asked for by clients before."""
    minet = world(chain)
    for rtype in ("A", "DS", "DNSKEY"):
        outcome = minet.ask("alias.example.", rtype)
        assert outcome.rcode == c.NOERROR
        assert outcome.verdict == Verdict.INSECURE
        assert minet.ask("www.plain.", rtype).verdict == Verdict.INSECURE
    attack(minet, "x.alias.example.", "A", signer)
    assert_refused(minet, "x.alias.example.", "A", known=True)


@CHAINS
@pytest.mark.parametrize("signer", ["", "alias.example."])
def test_a_ds_query_of_a_client_is_not_joined(signer: str, chain: Nsec3 | None) -> None:
    """A DS query of a client follows the alias to its target; one of the chain of trust does not."""
    minet = world(chain)
    attack(minet, "x.alias.example.", "A", signer)
    _, told = minet.start("alias.example.", "DS")
    _, keys = minet.start("alias.example.", "DNSKEY")
    outcome = minet.ask("x.alias.example.")
    assert (outcome.rcode, outcome.verdict) == (c.SERVFAIL, Verdict.BOGUS)
    minet.net.run(minet.mesh, until=lambda: bool(told and keys))
    assert told[0].verdict == keys[0].verdict == Verdict.INSECURE


@CHAINS
def test_alias_chain_in_one_reply_to_the_ds_question(chain: Nsec3 | None) -> None:
    """The reply to the DS question holds the true alias and the denial of the unsigned target, as from a server of
    both zones."""
    minet = world(chain)
    attack(minet, "x.near.example.", "A")
    true = minet.net.hosts[EXAMPLE_IP]

    def host(packet: bytes, tcp: bool) -> bytes | None:
        view = MessageView.parse(packet)
        if view.qtype == c.DS and names.equal(view.qname or b"", names.from_text("near.example.")):
            alias = MessageView.parse(true(packet, tcp) or b"").answer
            return reply(packet, list(alias), ["unsigned.example. 300 SOA ns.plain. host.plain. 1 2 3 4 5"])
        return true(packet, tcp)

    minet.net.hosts[EXAMPLE_IP] = host
    assert_refused(minet, "x.near.example.", "A")


def test_child_apex_does_not_deny_its_own_ds() -> None:
    """The NSEC of the child's apex has NS, SOA and no DS; the forger gives it as the denial of the parent."""
    for chain in (None, Nsec3()):
        minet = world(chain)
        signed = Zone.from_text("sub.example.", sign_zone(
            "sub.example.", SOA + f"@ 300 NS ns\nns 300 A {SUB_IP}\n", [SUB_KEY], nsec3=chain))
        child = Authority([signed])

        def forger(qname: str, qtype: int, packet: bytes, child: Authority = child) -> bytes | None:
            if (qname, qtype) == ("sub.example.", c.DS):
                return child.answer(packet, tcp=True)
            if (qname, qtype) == ("x.sub.example.", c.A):
                return reply(packet, [forged_set("x.sub.example.", "A")])
            return None

        forge(minet, EXAMPLE_IP, forger)
        forge(minet, SUB_IP, forger)
        assert minet.ask("x.sub.example.").rcode == c.SERVFAIL


@CHAINS
def test_ancestor_delegation_does_not_deny_ds_below_it(chain: Nsec3 | None) -> None:
    """RFC 6840 section 4.1: the record of ``unsigned.example.`` shows that it has no DS, and nothing of other names."""
    minet = world(chain)
    probe = minet.ask("unsigned.example.", "DS")
    assert probe.rcode == c.NOERROR
    proofs = [rrset for rrset in probe.authority if rrset.rtype in (c.NSEC, c.NSEC3)]
    assert proofs

    def forger(qname: str, qtype: int, packet: bytes) -> bytes | None:
        if qtype == c.DS and qname == "alias.example.":
            return reply(packet, [], [*proofs, "example. 300 SOA ns.example. host.example. 1 2 3 4 5"])
        if (qname, qtype) == ("x.alias.example.", c.A):
            return reply(packet, [forged_set("x.alias.example.", "A")])
        return None

    forge(minet, EXAMPLE_IP, forger)
    outcome = minet.ask("x.alias.example.")
    assert (outcome.rcode, outcome.verdict) == (c.SERVFAIL, Verdict.BOGUS)


@CHAINS
def test_insecure_names_stay_insecure(chain: Nsec3 | None) -> None:
    """No attack: aliases into unsigned zones, names of an unsigned child, with and without stray signatures."""
    minet = world(chain)
    for owner in ("alias.example.", "near.example.", "two.example.", "a.wild.example.", "host.dn.example.",
                  "www.plain.", "host.unsigned.example."):
        outcome = minet.ask(owner)
        assert (outcome.rcode, outcome.verdict) == (c.NOERROR, Verdict.INSECURE), owner
    assert minet.ask("www.example.").verdict == Verdict.SECURE
    minet = world(chain)
    forge(minet, PLAIN_IP, lambda qname, qtype, packet: reply(packet, [forged_set(
        "host.unsigned.example.", "A", signer="unsigned.example.")]) if qtype == c.A else None)
    outcome = minet.ask("host.unsigned.example.")
    assert (outcome.rcode, outcome.verdict) == (c.NOERROR, Verdict.INSECURE)


# --- the chain of trust by itself ---
# What a reply says beyond its first record cannot come here by the ways above; were there another, it would not count.

ALIAS = names.from_text("alias.example.")
SECURE_ALIAS = RRset(ALIAS, c.CNAME, 300, [names.from_text("www.plain.")], verdict=Verdict.SECURE)
UNPROVED_ALIAS = RRset(ALIAS, c.CNAME, 300, [names.from_text("www.plain.")], verdict=Verdict.INSECURE)
FOREIGN_KEYS = RRset(names.from_text("www.plain."), c.DNSKEY, 300, [bytes((1, 1, 3, 13)) + bytes(64)],
                     verdict=Verdict.INSECURE)


def found(
    steps: Steps[security_status.SecurityStatus], answer: list[RRset], verdict: Verdict
) -> security_status.SecurityStatus:
    """What comes out when each question is answered with this."""
    result: object = None
    while True:
        try:
            effect = steps.send(result)
        except StopIteration as stop:
            return stop.value
        assert isinstance(effect, Need)
        result = Outcome(effect.question, c.NOERROR, answer, [], verdict, 60)


@pytest.mark.parametrize("asked", ["keys", "zone_status", "dnskey"])
@pytest.mark.parametrize(("answer", "state"), [
    ([SECURE_ALIAS], Verdict.SECURE),
    ([SECURE_ALIAS, FOREIGN_KEYS], Verdict.SECURE),
    ([UNPROVED_ALIAS], Verdict.BOGUS),
    ([UNPROVED_ALIAS, FOREIGN_KEYS], Verdict.BOGUS),
    ([FOREIGN_KEYS], Verdict.BOGUS),
    ([], Verdict.BOGUS),
])
@pytest.mark.parametrize("whole", [Verdict.INSECURE, Verdict.INDETERMINATE])
def test_only_the_first_record_of_a_ds_reply_is_used(
    asked: str, answer: list[RRset], state: Verdict, whole: Verdict
) -> None:
    minet = world()
    validator = Validator(Anchors([KEY.anchor()]))
    context = minet.mesh._context
    task = Task(Question(ALIAS, c.A), Budget(200, 1e9))
    keys = RRset(ALIAS, c.DNSKEY, 300, [KEY.dnskey.to_wire()])
    steps = {
        "keys": lambda: validator.chain.keys(task, context, ALIAS),
        "zone_status": lambda: validator.chain.zone_status(task, context, ALIAS),
        "dnskey": lambda: validator.chain.dnskey(task, context, keys),
    }[asked]()
    got = found(steps, answer, whole).verdict
    assert got is (state if asked == "zone_status" else Verdict.BOGUS)


# --- the verdict has one origin -------------------------------------------------------------------------------------


@pytest.mark.checkout
def test_no_other_module_makes_an_insecure_verdict() -> None:
    """In the validator the word is compared with and never given, but in `security_status.insecure`, for a proof."""
    folder = Path(__file__).resolve().parents[4] / "resolver" / "validate"
    made: list[str] = []
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        compared = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.Compare) for inner in ast.walk(node)}
        made += [
            f"{path.name}: {ast.unparse(node)}" for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr == "INSECURE" and id(node) not in compared
        ]
    assert made == ["security_status.py: Verdict.INSECURE"]


def test_an_insecure_verdict_needs_a_proof() -> None:
    for make in (
        lambda: security_status.SecurityStatus(Verdict.INSECURE),
        lambda: security_status.SecurityStatus(Verdict.SECURE, proof=security_status.NotSignable()),
        lambda: security_status.InsecureDelegation(nsec_of("NS DS")),
        lambda: security_status.InsecureDelegation(nsec_of("NS SOA")),
        lambda: security_status.InsecureDelegation(nsec_of("A")),
        lambda: security_status.OptOutSpan(nsec3_of(flags=0)),
        lambda: security_status.TooManyIterations(nsec3_of(iterations=50), 50),
    ):
        with pytest.raises(ValueError, match=r"proof|record"):
            make()
    for proof in (
        security_status.InsecureDelegation(nsec_of("NS")),
        security_status.OptOutSpan(nsec3_of(flags=1)),
        security_status.NoTrustAnchor(b"\0"),
        security_status.TooManyIterations(nsec3_of(iterations=51), 50),
        security_status.UnsupportedKeys(b"\0", digest=True),
    ):
        assert security_status.insecure(proof).verdict is Verdict.INSECURE


def nsec_of(types: str) -> nsec.Nsec:
    apex = names.from_text("example.")
    rdata = present.rdata_from_text(c.NSEC, f"b.example. {types}")
    record = nsec.parse(names.from_text("a.example."), rdata, apex)
    assert record is not None
    return record


def nsec3_of(*, flags: int = 0, iterations: int = 0) -> nsec3.Nsec3:
    return nsec3.Nsec3(bytes(20), bytes(20), flags, iterations, b"", b"", names.from_text("example."))
