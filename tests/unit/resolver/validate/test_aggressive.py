"""Answers from verified denials, through the whole mesh: which queries reach a server and which no longer do."""

import random
from typing import Any

import pytest
from support import minet
from support.signing import Nsec3, ZoneKey, sign_zone

from resolver.cached_replies import WILDCARD_PROOF
from resolver.effects import Budget, Outcome
from resolver.settings import CacheSettings, DnssecSettings, Settings, StubZone, replace
from resolver.validate.verify import check
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names

SERVER, STUB = "192.0.2.53", "192.0.2.99"
ZONE = (
    "@ 3600 SOA ns host 1 7200 3600 86400 300\n@ 3600 NS ns\nns 300 A 192.0.2.53\nalpha 300 A 192.0.2.1\n"
    "omega 300 A 192.0.2.2\n*.wild 300 A 192.0.2.7\n*.other 300 CNAME alpha\na.ent 300 A 192.0.2.8\n"
    "cut 300 NS ns.cut\nns.cut 300 A 192.0.2.53\n"
)
CUT = "@ 3600 SOA ns host 1 7200 3600 86400 300\n@ 300 NS ns\nns 300 A 192.0.2.53\nwww 300 A 192.0.2.9\n"
CHAINS = pytest.mark.parametrize("chain", [None, Nsec3(), Nsec3(5, "ab")], ids=["nsec", "nsec3", "salted"])


class Checker:
    """Checks signatures in place."""

    def __init__(self) -> None:
        self.checks = 0

    def verify(self, jobs: Any, on_done: Any) -> None:
        self.checks += len(jobs)
        on_done([check(job) for job in jobs])


def build(
    chain: Nsec3 | None = None, *, aggressive: bool = True, negative: tuple[str, ...] = (), stub: str = "",
    zone: str = ZONE, serve_stale: int = 0,
) -> minet.Minet:
    """A root and ``example.``, signed; ``cut.example.`` unsigned on the same server."""
    root, key = ZoneKey("."), ZoneKey("example.")
    text = (
        "@ 86400 SOA a.root. nobody.root. 1 1800 900 604800 900\n@ 518400 NS a.root.\n"
        f"a.root. 518400 A {minet.ROOT_ADDRESS}\nexample. 3600 NS ns.example.\nns.example. 3600 A {SERVER}\n"
        f"example. 3600 DS {key.ds()}\n"
    )
    settings = Settings(
        dnssec=DnssecSettings(trust_anchors=(root.anchor(),), negative_trust_anchors=negative),
        cache=replace(CacheSettings(), aggressive_nsec=aggressive, max_stale_ttl=serve_stale),
        stub=(StubZone(stub, (STUB,)),) if stub else (),
    )
    population = {
        minet.ROOT_ADDRESS: [(".", sign_zone(".", text, [root]))],
        SERVER: [("example.", sign_zone("example.", zone, [key], nsec3=chain)), ("cut.example.", CUT)],
        STUB: [(stub or "beta.example.", CUT.replace("192.0.2.53", STUB).replace("192.0.2.9\n", "192.0.2.3\n"))],
    }
    return minet.build(population, settings=settings, crypto=Checker(), qname_minimisation=False)


def ask_quietly(m: minet.Minet, name: str, rtype: str = "A") -> Outcome:
    """Ask, and insist that no packet was sent for it."""
    before = len(m.net.log)
    outcome = m.ask(name, rtype)
    assert m.net.log[before:] == [], f"{name} {rtype} was asked"
    return outcome


def ask_loudly(m: minet.Minet, name: str, rtype: str = "A") -> Outcome:
    """Ask, and insist that a server was."""
    before = len(m.net.log)
    outcome = m.ask(name, rtype)
    assert len(m.net.log) > before, f"{name} {rtype} was not asked"
    return outcome


def types(outcome: Outcome) -> list[int]:
    return sorted(rrset.rtype for rrset in outcome.authority)


@CHAINS
def test_random_names_are_denied_without_a_query(chain: Nsec3 | None) -> None:
    m = build(chain)
    for name in ("beta.example.", "gamma.example.", "delta.example.", "a.b.c.zeta.example."):
        m.ask(name)
    got = ask_quietly(m, "b.beta.example.", "AAAA") if chain is None else m.ask("b.beta.example.", "AAAA")
    assert (got.rcode, got.verdict) == (c.NXDOMAIN, Verdict.SECURE)
    before = len(m.net.log)
    outcomes = [m.ask(f"{word}{n}.example.") for word in ("beta", "gamma", "ypsilon") for n in range(40)]
    assert {o.rcode for o in outcomes} == {c.NXDOMAIN}
    assert {o.verdict for o in outcomes} == {Verdict.SECURE}
    assert len(m.net.log) - before < 20


def test_denial_carries_soa_and_proof_with_the_ttl_that_is_left() -> None:
    m = build()
    m.ask("beta.example.")
    m.net.sleep(m.mesh, 100)
    got = ask_quietly(m, "beta1.example.")
    assert types(got) == [c.SOA, c.NSEC, c.NSEC]
    assert all(rrset.sig_len for rrset in got.authority)
    assert {rrset.ttl for rrset in got.authority} == {200}
    assert got.ttl == 200


def test_proofs_expire_with_the_negative_ttl_of_their_zone() -> None:
    """RFC 9077: the SOA's MINIMUM bounds them, whatever their own TTL is."""
    m = build()
    m.ask("beta.example.")
    m.net.sleep(m.mesh, 301)
    ask_loudly(m, "beta1.example.")


@CHAINS
def test_no_data_without_a_query(chain: Nsec3 | None) -> None:
    m = build(chain)
    m.ask("alpha.example.", "TXT")
    got = ask_quietly(m, "alpha.example.", "MX")
    assert (got.rcode, got.answer, got.verdict) == (c.NOERROR, [], Verdict.SECURE)
    assert m.ask("alpha.example.", "A").answer


@CHAINS
def test_empty_non_terminal(chain: Nsec3 | None) -> None:
    m = build(chain)
    m.ask("ent.example.", "A")
    got = ask_quietly(m, "ent.example.", "TXT")
    assert (got.rcode, got.verdict) == (c.NOERROR, Verdict.SECURE)


@CHAINS
@pytest.mark.parametrize("zone", ["wild", "other"])
def test_wildcards_are_expanded_without_a_query(chain: Nsec3 | None, zone: str) -> None:
    m = build(chain)
    m.ask("alpha.example.")
    m.ask(f"a.{zone}.example.")
    before = len(m.net.log)
    outcomes = [m.ask(f"b{n}.{zone}.example.") for n in range(60)]
    assert len(m.net.log) - before <= 15  # by hash a zone of a dozen names has as many gaps
    for n, got in enumerate(outcomes):
        assert got.verdict == Verdict.SECURE
        assert got.answer[0].name == names.from_text(f"b{n}.{zone}.example.")
        assert {c.NSEC, c.NSEC3} & set(types(got))


@CHAINS
def test_proofs_of_one_zone_expand_no_wildcard_of_another(chain: Nsec3 | None) -> None:
    """The root's denials cover names below ``example.``, of which the root knows nothing; ``deep`` is a zone there."""
    root, key, deep_key = ZoneKey("."), ZoneKey("example."), ZoneKey("deep.example.")
    soa = "@ 3600 SOA ns host 1 7200 3600 86400 300\n@ 3600 NS ns\nns 300 A 192.0.2.53\n"
    texts = {
        ".": (root, "@ 86400 SOA a.root. nobody.root. 1 1800 900 604800 900\n@ 518400 NS a.root.\n"
              f"a.root. 518400 A {minet.ROOT_ADDRESS}\nexample. 3600 NS ns.example.\nns.example. 3600 A {SERVER}\n"
              f"example. 3600 DS {key.ds()}\n"),
        "example.": (key, soa + "* 300 A 192.0.2.7\ndeep 300 NS ns.deep\nns.deep 300 A 192.0.2.53\n"
                     f"deep 300 DS {deep_key.ds()}\n"),
        "deep.example.": (deep_key, soa + "www 300 A 192.0.2.9\n"),
    }
    signed = {origin: (origin, sign_zone(origin, text, [signer], nsec3=chain))
              for origin, (signer, text) in texts.items()}
    population = {minet.ROOT_ADDRESS: [signed["."]], SERVER: [signed["example."], signed["deep.example."]]}
    settings = Settings(dnssec=DnssecSettings(trust_anchors=(root.anchor(),)))
    m = minet.build(population, settings=settings, crypto=Checker(), qname_minimisation=False)
    assert minet.addresses(m.ask("*.example.")) == ["192.0.2.7"]
    for label in "abcdefgh":
        assert m.ask(f"{label}.").rcode == c.NXDOMAIN  # the proofs of the root cover nearly everything by now
    assert minet.addresses(m.ask("www.deep.example.")) == ["192.0.2.9"]


def test_cached_wildcard_answers_keep_their_proof() -> None:
    """A client that validates by itself gets the NSEC also when the answer comes from the cache."""
    m = build(aggressive=False)
    first, second = m.ask("a.wild.example."), ask_quietly(m, "a.wild.example.")
    assert types(first) == types(second) == [c.NSEC]
    # The proof is gone sooner than the set: then both are fetched anew.
    m.store.rrsets.drop(names.from_text("a.wild.example."), WILDCARD_PROOF)
    assert types(ask_loudly(m, "a.wild.example.")) == [c.NSEC]


@pytest.mark.parametrize("cd", [False, True])
@pytest.mark.parametrize("proof", [True, False])
def test_stale_wildcard_answers_keep_their_proof(proof: bool, cd: bool) -> None:
    """Without it there is no stale answer."""
    m = build(aggressive=False, serve_stale=86_400)
    m.ask("a.wild.example.", cd=cd)
    m.net.hosts.pop(SERVER)
    m.net.sleep(m.mesh, 400)
    if not proof:
        m.store.rrsets.drop(names.from_text("a.wild.example."), WILDCARD_PROOF)
    outcome = m.ask("a.wild.example.", cd=cd)
    assert outcome.stale is proof
    assert types(outcome) == ([c.NSEC] if proof else [])


def test_opt_out_wildcards_stay_insecure_in_the_cache() -> None:
    """RFC 5155 section 9.2: without AD the first time means without AD the second time, and no expansion for others."""
    m = build(Nsec3(0, "", opt_out=True))
    assert m.ask("a.wild.example.").verdict == Verdict.INSECURE
    assert ask_quietly(m, "a.wild.example.").verdict == Verdict.INSECURE
    assert m.ask("*.wild.example.").verdict == Verdict.SECURE  # the wildcard itself, by its own name
    for n in range(40):
        assert ask_loudly(m, f"b{n}.wild.example.").verdict == Verdict.INSECURE


@pytest.mark.parametrize("rtype", ["A", "DS", "NS"])
def test_nothing_below_a_cut_is_denied_by_the_parent(rtype: str) -> None:
    m = build()
    for name in ("cu.example.", "cuu.example.", "alpha.example.", "cut.example."):
        m.ask(name, "TXT")
    got = ask_loudly(m, "www.cut.example.", rtype) if rtype != "DS" else m.ask("www.cut.example.", rtype)
    assert got.verdict == Verdict.INSECURE
    assert got.rcode == c.NOERROR


def test_opt_out_denies_no_name() -> None:
    m = build(Nsec3(0, "", opt_out=True))
    for n in range(6):
        m.ask(f"beta{n}.example.")
    got = ask_loudly(m, "gamma.example.")
    assert got.verdict == Verdict.INSECURE


@CHAINS
def test_configured_zone_is_not_denied_by_the_public_tree(chain: Nsec3 | None) -> None:
    """CVE-2026-44687: the public ``example.`` proves that ``beta.example.`` does not exist; the stub zone has it."""
    m = build(chain, stub="beta.example.", negative=("beta.example.",))
    m.ask("bet.example.")
    m.ask("betb.example.")
    assert minet.addresses(m.ask("www.beta.example.")) == ["192.0.2.3"]


@CHAINS
def test_a_stub_zone_without_negative_anchor_is_queried_too(chain: Nsec3 | None) -> None:
    """The trust anchors end no zone here, so the border of the configured zone counts."""
    m = build(chain, stub="beta.example.")
    for number in range(12):
        m.ask(f"bet{number}.example.")
    assert not m.net.asked(STUB)
    m.ask("www.beta.example.")
    assert m.net.asked(STUB)


@CHAINS
def test_nxdomain_above_a_stub_zone_ends_at_its_border(chain: Nsec3 | None) -> None:
    """CVE-2026-44687: RFC 8020 has nothing to say about zones of the configuration, wherever in the tree they are."""
    m = build(chain, stub="deep.beta.example.")
    assert m.ask("beta.example.").rcode == c.NXDOMAIN
    m.store.denials.clear()
    ask_quietly(m, "shallow.beta.example.")
    m.ask("www.deep.beta.example.")
    assert m.net.asked(STUB)


@CHAINS
@pytest.mark.parametrize(("name", "negative"), [("beta.example.", ("beta.example.",)), ("www.beta.example.", ())])
def test_parent_asked_for_ds_does_not_deny_a_stub_zone(
    chain: Nsec3 | None, name: str, negative: tuple[str, ...]
) -> None:
    """CVE-2026-44687: a client may query the DS set of a zone that only the configuration has; the parent denies it."""
    m = build(chain, stub="beta.example.", negative=negative)
    assert m.ask("beta.example.", "DS").rcode == c.NXDOMAIN
    assert m.ask(name, "A").rcode == (c.NOERROR if negative else c.SERVFAIL)
    assert m.net.asked(STUB)


@CHAINS
def test_dname_above_a_stub_zone_ends_at_its_border(chain: Nsec3 | None) -> None:
    """A verified DNAME stands for its whole subtree, but not for what the configuration has put there."""
    zone = ZONE + "gone 300 DNAME wild\n"
    m = build(chain, stub="beta.gone.example.", negative=("beta.gone.example.",), zone=zone)
    assert minet.addresses(m.ask("a.gone.example.")) == ["192.0.2.7"]
    assert minet.addresses(m.ask("www.beta.gone.example.")) == ["192.0.2.3"]
    before = len(m.net.log)
    assert minet.addresses(m.ask("a.gone.example.")) == ["192.0.2.7"]
    assert len(m.net.log) == before


def test_negative_anchor_below_the_zone() -> None:
    m = build(negative=("beta.example.",))
    m.ask("bet.example.")
    assert ask_loudly(m, "www.beta.example.").verdict == Verdict.INSECURE


def test_no_synthesis_with_cd_or_when_switched_off() -> None:
    m = build()
    m.ask("beta.example.")
    before = len(m.net.log)
    m.ask("beta1.example.", cd=True)
    assert len(m.net.log) > before
    m = build(aggressive=False)
    m.ask("beta.example.")
    ask_loudly(m, "beta1.example.")


def test_a_flush_removes_the_proofs() -> None:
    m = build()
    m.ask("beta.example.")
    m.store.drop(names.from_text("example."), subtree=True)
    ask_loudly(m, "beta1.example.")


def test_nxdomain_cut() -> None:
    """RFC 8020: below a name proved not to exist there is nothing, also when the proofs have left the index."""
    m = build()
    m.ask("beta.example.")
    m.store.denials.clear()
    got = ask_quietly(m, "www.beta.example.", "MX")
    assert (got.rcode, got.verdict, types(got)) == (c.NXDOMAIN, Verdict.SECURE, [c.SOA, c.NSEC, c.NSEC])
    m.store.denials.clear()
    ask_loudly(m, "www.betb.example.")


def test_an_alias_from_a_wildcard_is_not_followed_for_nsec() -> None:
    """NSEC stands beside an alias (RFC 4035 section 2.5), at the wildcard too."""
    m = build()
    assert m.ask("a.other.example.").answer[0].rtype == c.CNAME
    assert ask_quietly(m, "b.other.example.").answer[0].rtype == c.CNAME
    outcome = m.ask("d.other.example.", "NSEC")
    assert (outcome.rcode, outcome.verdict) == (c.NOERROR, Verdict.SECURE)
    assert [rrset.rtype for rrset in outcome.answer] == [c.NSEC]


def test_nxdomain_of_an_unsigned_zone_cuts_nothing() -> None:
    m = build()
    assert m.ask("nope.cut.example.").verdict == Verdict.INSECURE
    ask_loudly(m, "www.nope.cut.example.")


@pytest.mark.parametrize("known", [True, False])
def test_deep_names_cost_few_hashes(known: bool) -> None:
    """CVE-2023-50868 before any server is queried: from the apex downwards few are needed. Above the limit, when no
    record applies, the servers are queried instead."""
    m = build(Nsec3(5, "ab"))
    m.ask("beta.example.")
    from resolver.validate import aggressive, nsec3

    calls: list[bytes] = []
    digest = nsec3.Prover.digest
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nsec3.Prover, "digest", lambda self, name: calls.append(name) or digest(self, name))
        if not known:
            patch.setattr(aggressive._CachedProver, "_record", lambda self, digest: None)
        context = m.mesh._context
        deep = names.from_text("a." * 60 + "x.example.")
        found = context.validation.aggressive_nsec.answer(deep, c.A, context, Budget(0, 0.0), with_soa=True)
    assert (found is not None) is known
    assert len(set(calls)) <= (4 if known else 9)


def test_forged_signature_beside_the_right_one_makes_no_wildcard() -> None:
    """A valid answer with another RRSIG before it, whose label count shows a wildcard, and an unverified NSEC."""
    m = build()
    host = m.net.hosts[SERVER]

    def liar(packet: bytes, tcp: bool) -> bytes | None:
        view = minet.MessageView.parse(packet)
        if view.qtype != c.A or names.lower(view.qname or b"\0") != names.from_text("alpha.example."):
            return host(packet, tcp)
        true = minet.MessageView.parse(host(packet, tcp) or b"").answer[0]
        right = true.sigs()[0]
        junk = minet.rr("a.example. 300 NSEC zz.example. A").with_sigs([right])
        return minet.reply(packet, [true.with_sigs([right[:3] + b"\x01" + right[4:], right])], [junk])

    m.net.hosts[SERVER] = liar
    got = m.ask("alpha.example.")
    assert (got.verdict, got.authority) == (Verdict.SECURE, [])
    assert ask_quietly(m, "alpha.example.").answer
    assert m.store.rrsets.find(names.from_text("*.example."), c.A, m.net.time()) is None
    assert m.ask("beta.example.").rcode == c.NXDOMAIN


def test_a_bogus_denial_is_not_stored() -> None:
    """A forged NSEC over the whole zone is refused, and the next question is not answered from it."""
    m = build()
    host = m.net.hosts[SERVER]
    forged = minet.rr("example. 300 NSEC zzz.example. NS SOA RRSIG NSEC DNSKEY")

    def liar(packet: bytes, tcp: bool) -> bytes | None:
        view = minet.MessageView.parse(packet)
        if view.qtype == c.A and names.lower(view.qname or b"\0") == names.from_text("alpha.example."):
            true = minet.MessageView.parse(host(packet, tcp) or b"")
            fake = forged.with_sigs(true.answer[0].sigs())
            return minet.reply(packet, [], ["example. 300 SOA ns.example. host.example. 1 2 3 4 300", fake])
        return host(packet, tcp)

    m.net.hosts[SERVER] = liar
    assert m.ask("alpha.example.").verdict == Verdict.BOGUS
    assert minet.addresses(m.ask("omega.example.")) == ["192.0.2.2"]


@pytest.mark.parametrize("seed", range(6))
def test_answers_are_the_same_with_and_without_synthesis(seed: int) -> None:
    """A random zone and random questions: what is proved beforehand is what the servers would have said."""
    rng = random.Random(seed)
    labels = ["a", "b", "c", "*"]
    lines = set()
    for _ in range(12):
        owner = ".".join(rng.choices(labels[:3], k=rng.randint(1, 3)))
        if rng.random() < 0.3:
            owner = "*." + owner
        lines.add(f"{owner} 300 {rng.choice(['A 192.0.2.1', 'TXT x', 'MX 1 a.example.'])}")
    cut = f"{rng.choice('xyz')}.{rng.choice('abc')}"
    zone = ZONE.split("alpha")[0] + "\n".join(sorted(lines)) + f"\n{cut} 300 NS ns.{cut}\nns.{cut} 300 A 192.0.2.54\n"
    chain = [None, Nsec3(), Nsec3(3, "cd"), Nsec3(0, "", opt_out=True), None, Nsec3()][seed]
    with_it, without = build(chain, zone=zone), build(chain, zone=zone, aggressive=False)
    for _ in range(250):
        name = ".".join([*rng.choices(["a", "b", "c", "d", "x"], k=rng.randint(1, 4)), "example."])
        rtype = rng.choice(["A", "TXT", "MX", "DS"])
        if names.is_subdomain(names.from_text(name), names.from_text(f"{cut}.example.")):
            continue  # no server
        ours, theirs = with_it.ask(name, rtype), without.ask(name, rtype)
        assert (ours.rcode, ours.verdict) == (theirs.rcode, theirs.verdict), (name, rtype)
        assert [r.rdatas() for r in ours.answer] == [r.rdatas() for r in theirs.answer], (name, rtype)
    assert len(with_it.net.log) < len(without.net.log)
