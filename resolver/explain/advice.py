"""What a result means for whoever asked: the reason in a sentence, who can mend it, and what to do.

The extended error (RFC 8914) says what kind of thing went wrong, the steps say in which zone; together they name the
person to call. The rule kept here: a hint is a thing to do, for one of five people (the zone's operator, the parent's,
the operator of this resolver, the network's, or the one who asked), and nobody is blamed on less than the steps show.
"""

import re
from dataclasses import dataclass, replace

from resolver.effects import FailureKind
from resolver.explain import words
from resolver.explain.story import Story, zone_over
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names

__all__ = ["Advice", "advise"]

ZONE, PARENT, RESOLVER, NETWORK, ASKER = "zone", "parent", "resolver", "network", "asker"


@dataclass(frozen=True, slots=True)
class Advice:
    """`who` is zone, parent, resolver, network, asker or nobody; `zone` is whose; `why` and `hint` are sentences."""

    why: str
    who: str
    zone: bytes | None
    hint: str

    @property
    def people(self) -> str:
        """Who is meant, in words."""
        shown = "" if self.zone is None else names.to_text(self.zone)
        return {
            ZONE: f"the operator of {shown}" if shown else "the operator of the zone",
            PARENT: f"the operator of {shown} and of the zone above it",
            RESOLVER: "the operator of this resolver",
            NETWORK: f"the network, or the operator of {shown}" if shown and self.zone != names.ROOT else "the network",
            ASKER: "whoever asked",
        }.get(self.who, "nobody")


def advise(story: Story) -> Advice:
    """The advice for a story; also for good ones, where it says in a sentence what was found."""
    advice = _advise(story)
    why, told = words.format_durations(advice.why), story.told
    if "." not in why.split(" ", 1)[0]:
        why = why[:1].upper() + why[1:]  # a name keeps its spelling
    if told is None or told.rcode == story.outcome.rcode:
        return replace(advice, why=why)
    said = f"The server says {c.rcode_to_text(told.rcode)}; checked here: {why}"
    if told.rcode == c.SERVFAIL and story.failure is None:
        return Advice(
            said,
            RESOLVER,
            None,
            "The data passes every check made here: look at the server's extended "
            "errors, its clock, its trust anchors, and what it has cached (flush the name there).",
        )
    return replace(advice, why=said)


def _advise(story: Story) -> Advice:
    failure = story.failure
    if failure is None:
        return _found(story)
    ede = failure.ede
    zone = _bogus_zone(story)
    if failure.kind is FailureKind.CACHED_ERROR:
        return Advice(
            f"It failed a moment ago, and the failure is remembered: {failure.text}.",
            RESOLVER,
            None,
            "Wait some seconds, or flush the name (resolverctl flush NAME), and ask again.",
        )
    if failure.kind is FailureKind.BOGUS:
        # Sentences nest as the chain does; the innermost one is what is wrong.
        inner = NESTED.sub("", failure.text)
        why = _sentence(inner) if inner == failure.text else f"{inner}; without that {_asked(story)} cannot be checked."
        return _bogus(story, ede, why, zone)
    return _unreached(story, ede)


# --- good and empty answers ---------------------------------------------------------------------------------------


def _found(story: Story) -> Advice:
    outcome = story.outcome
    question = outcome.question
    last = story.aliases[-1] if story.aliases else question.qname
    shown, rtype = names.to_text(last), c.type_to_text(question.qtype)
    soa = next((rrset for rrset in outcome.authority if rrset.rtype == c.SOA), None)
    zone = None if soa is None else names.lower(soa.name)
    if outcome.rcode == c.NXDOMAIN:
        return Advice(
            f"The name {shown} does not exist{_belief(story)}.",
            ASKER,
            zone,
            "Check the spelling; if the name ought to exist, the operator of the zone has to add it.",
        )
    if outcome.rcode != c.NOERROR:
        return Advice(f"The answer is {c.rcode_to_text(outcome.rcode)}.", ASKER, zone, "Look at the steps.")
    if not any(rrset.rtype == question.qtype or question.qtype == c.ANY for rrset in outcome.answer):
        return Advice(
            f"{shown} exists and has no {rtype} records{_belief(story)}.",
            ASKER,
            zone,
            "Ask for another type; if there ought to be such records, the zone's operator has to add them.",
        )
    if outcome.stale:
        return Advice(
            "The zone's servers did not answer in time; this data has expired.",
            NETWORK,
            None,
            "Ask again later; the data is the last that was known.",
        )
    insecure = next((z for z in story.zones if z.verdict is Verdict.INSECURE), None)
    if story.verdict is Verdict.INSECURE and insecure is not None:
        return Advice(
            f"Answered; nobody can check the data, because {names.to_text(insecure.zone)} is not signed.",
            ZONE,
            insecure.zone,
            "Nothing is broken. Signing the zone and giving its DS record to the parent would let resolvers check it.",
        )
    return Advice(f"Answered{_belief(story)}.", "nobody", None, "Nothing needs to be done.")


def _belief(story: Story) -> str:
    if not story.validating:
        return ""
    return {
        Verdict.SECURE: ", proved by signatures from the trust anchor on",
        Verdict.INSECURE: ", without signatures to prove it",
        Verdict.INDETERMINATE: ", not validated",
    }.get(story.verdict, "")


# --- what fails validation ----------------------------------------------------------------------------------------


def _bogus_zone(story: Story) -> bytes | None:
    """The zone where the chain broke: that of the last thing found wrong, and not of what followed from it."""
    for kinds in (("check", "proof", "keys"), ("ds",), ("validate",)):
        for step in reversed(story.steps):
            facts = step.facts or {}
            unnamed = step.kind == "keys" and not facts.get("entry") and not facts.get("cached")
            wrong = unnamed or facts.get("verdict") == Verdict.BOGUS
            if wrong and step.kind in kinds and step.zone is not None:
                unsigned = step.kind == "check" and facts.get("signature") is None
                return zone_over(story, step.zone) if unsigned else step.zone
    return None


NESTED = re.compile(r"^(?:no (?:keys|DS) of \S+: )+")
# Extended error -> who, what to do.
REPAIRS: dict[int, tuple[str, str]] = {
    c.EDE_SIGNATURE_EXPIRED: (
        ZONE,
        "Sign the zone again and see why it was not done in time: the signer's timer, its "
        "disk, or a secondary that no longer transfers. If every signed zone fails so, the clock "
        "of this resolver is wrong.",
    ),
    c.EDE_SIGNATURE_NOT_YET_VALID: (
        ZONE,
        "Set the signer's clock, or sign with an inception in the past. If every "
        "signed zone fails so, the clock of this resolver is wrong.",
    ),
    c.EDE_SIGNATURE_EXPIRED_BEFORE_VALID: (ZONE, "Sign again: the signer was given an end before its beginning."),
    c.EDE_DNSKEY_MISSING: (
        PARENT,
        "The DS records at the parent and the DNSKEY records of the zone have to name the "
        "same key: give the registrar the DS of the present key, or publish the old key again until "
        "that is done.",
    ),
    c.EDE_RRSIGS_MISSING: (
        ZONE,
        "The zone has a DS record at its parent and so every set of records must be signed: "
        "sign the zone, or have the DS removed. A server or proxy that strips signatures does it "
        "too.",
    ),
    c.EDE_NO_ZONE_KEY_BIT_SET: (
        ZONE,
        "Publish a key with the zone-key flag (256 or 257) and protocol 3, and give the parent its DS.",
    ),
    c.EDE_NSEC_MISSING: (
        ZONE,
        "The server has to send the NSEC or NSEC3 records that prove an absence: sign the zone "
        "again, and see that all secondaries have the same version.",
    ),
    c.EDE_DNSSEC_BOGUS: (
        ZONE,
        "Compare the records on all servers of the zone with what was signed, and sign again. "
        "Where only one network sees this, somebody on the way changes answers.",
    ),
    c.EDE_UNSUPPORTED_DNSKEY_ALGORITHM: (ZONE, "Sign with an algorithm that validators know: 13 (ECDSAP256SHA256)."),
    c.EDE_DNSSEC_INDETERMINATE: (ZONE, "Look at the failing step of the chain."),
    c.EDE_NO_REACHABLE_AUTHORITY: (
        NETWORK,
        "The keys or the DS needed for the check could not be had: the name servers "
        "of that zone have to answer questions for DNSKEY and DS, over TCP too.",
    ),
}


def _sentence(text: str) -> str:
    """`text` with a full stop, unless it ends with a name, which has one."""
    return text if text.endswith(".") else f"{text}."


def _asked(story: Story) -> str:
    return words.question(story.outcome.question.qname, story.outcome.question.qtype)


def _bogus(story: Story, ede: int, why: str, zone: bytes | None) -> Advice:
    broken = next((one for one in story.zones if one.zone == zone), None)
    if broken is not None and broken.anchor and not broken.entry:
        return Advice(
            why,
            RESOLVER,
            zone,
            "The trust anchor in use is not that of this tree: bring the anchors of the "
            "configuration up to date. Where the servers live in a world of their own, a test network or the "
            "playground, give that world's anchor (dnssec.trust-anchors; rdig takes it by --config FILE).",
        )
    who, hint = REPAIRS.get(ede, (ZONE, "Look at the failing step of the chain."))
    if ede == c.EDE_DNSKEY_MISSING and any(k.verdict is Verdict.BOGUS and k.rtype != c.DNSKEY for k in story.checks):
        # The keys are vouched for; it is a signature that names none of them.
        who, hint = ZONE, "Publish the key that the signatures name, or sign again with a key that is published."
    return Advice(why, who, zone, hint)


# --- what could not be had ----------------------------------------------------------------------------------------


def _unreached(story: Story, ede: int) -> Advice:
    failure = story.failure
    assert failure is not None
    why = _sentence(failure.text)
    if failure.kind is FailureKind.CYCLE:
        return Advice(
            why,
            PARENT,
            _last_zone(story),
            "The name servers of these zones need each other to be found: "
            "give at least one of them a name inside its own zone, with glue at the parent.",
        )
    if failure.kind is FailureKind.BUDGET and "alias" in failure.text:
        return Advice(why, ZONE, _last_zone(story), "Shorten the chain of CNAME records.")
    if ede == c.EDE_INVALID_DATA and "alias" in failure.text:
        return Advice(why, ZONE, _last_zone(story), "Break the loop: one of the aliases has to lead to data.")
    if ede in (c.EDE_BLOCKED, c.EDE_CENSORED, c.EDE_FILTERED, c.EDE_PROHIBITED, c.EDE_NOT_SUPPORTED, c.EDE_NOT_READY):
        return Advice(why, RESOLVER, None, "The configuration of this resolver says so, or it is overloaded.")
    if failure.kind is FailureKind.LOCAL_RESOURCE:
        return Advice(
            why,
            RESOLVER,
            None,
            "This host ran short of something that a query needs: raise the limit of open files (LimitNOFILE in "
            "systemd), or give it more memory, and ask again.",
        )
    if failure.kind is FailureKind.BUDGET:
        return Advice(
            why,
            ZONE,
            _last_zone(story),
            "The delegations lead through too many zones and servers: fewer "
            "name servers without glue, and names that lie in fewer zones, would help.",
        )
    zone = _last_zone(story)
    asked = [e for e in story.exchanges if (zone is None or e.zone == zone) and not e.good]
    if not story.exchanges:
        return Advice(
            why, NETWORK, zone, "No server could be asked at all: is there a network, and are the root hints right?"
        )
    results = {e.result for e in asked}
    told = "; ".join(dict.fromkeys(f"{e.address}: {_deed(e.result, e.rcode)}" for e in asked))
    why = f"{why} {told}." if told and len(told) < 300 else why
    if zone == names.ROOT:
        # The root's servers are many and hardly ever wrong: what spoils their replies stands on this side of them.
        heard = any(
            e.rcode is not None and not e.flags & c.AA and e.result != "referral"
            for e in story.exchanges
            if e.zone == names.ROOT
        )
        what = (
            "The addresses of the root's servers answer, but not as these do: something on the way answers in their "
            "place. Let UDP and TCP port 53 pass to all addresses"
            if heard
            else "None of the root's servers can be reached: let UDP and TCP port 53 pass to all addresses"
        )
        return Advice(why, NETWORK, zone, what + ", or have everything asked of a resolver that this network has: a "
                      "[[forward]] table with its addresses.")
    if results <= {"timeout", "network", "no_route", "deadline", "no reply"}:
        return Advice(
            why,
            NETWORK,
            zone,
            "Nobody answers at these addresses: are the servers up, and do their firewall "
            "and the network on the way pass UDP and TCP port 53? If their addresses changed, the parent's "
            "glue has to be changed too.",
        )
    if "lame" in results or failure.kind is FailureKind.LAME:
        return Advice(
            why,
            PARENT,
            zone,
            "The delegation names servers that do not serve the zone: configure the zone "
            "there, or take them out of the NS records at the parent and in the zone.",
        )
    return Advice(
        why,
        ZONE,
        zone,
        "The servers answer with an error: look at their logs; often the zone failed to load "
        "or has expired on a secondary.",
    )


def _deed(result: str, rcode: int | None) -> str:
    if result in ("timeout", "deadline", "no reply"):
        return "no reply"
    if result == "throwaway" and rcode is not None:
        return f"answers {c.rcode_to_text(rcode)}"
    return {"network": "cannot be reached", "lame": "does not serve the zone", "empty": "says nothing"}.get(
        result, result
    )


def _last_zone(story: Story) -> bytes | None:
    """The zone whose servers were asked last in vain, or else the last delegation."""
    for exchange in reversed(story.exchanges):
        if not exchange.good:
            return exchange.zone
    return story.exchanges[-1].zone if story.exchanges else None


def sentence_of(code: int, text: str) -> str:
    """An extended error in words, safe to show."""
    return f"{c.ede_to_text(code)} ({code})" + (f": {words.clean(text)}" if text else "")
