"""Advice about a result: the cause in a sentence, who can fix it, and what to do.

The extended error (RFC 8914) gives the kind of failure and the steps give the zone; together they identify who can fix
it. A hint is an action for one of five parties: the operator of the zone, of its parent, of this resolver or of the
network, or the client. A party is named only when the steps show its fault.
"""

import re
from dataclasses import dataclass, replace

from resolver.effects import FailureKind
from resolver.explain import formats
from resolver.explain.explanation import Explanation, zone_over
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names

__all__ = ["Advice", "advise"]

ZONE, PARENT, RESOLVER, NETWORK, CLIENT, NONE = "zone", "parent", "resolver", "network", "client", "none"


@dataclass(frozen=True, slots=True)
class Advice:
    """`who` can fix it: zone, parent, resolver, network, client or none; `zone` is the zone in question."""

    why: str
    who: str
    zone: bytes | None
    hint: str

    @property
    def people(self) -> str:
        """`who` as text."""
        shown = "" if self.zone is None else names.to_text(self.zone)
        return {
            ZONE: f"the operator of {shown}" if shown else "the operator of the zone",
            PARENT: f"the operator of {shown} and of the zone above it",
            RESOLVER: "the operator of this resolver",
            NETWORK: f"the network, or the operator of {shown}" if shown and self.zone != names.ROOT else "the network",
            CLIENT: "the client",
        }.get(self.who, "none")


def advise(explanation: Explanation) -> Advice:
    """The advice for an explanation. Without a failure, it says what was found."""
    advice = _advise(explanation)
    why, reply = formats.format_durations(advice.why), explanation.server_reply
    if "." not in why.split(" ", 1)[0]:
        why = why[:1].upper() + why[1:]  # a name keeps its spelling
    if reply is None or reply.rcode == explanation.outcome.rcode:
        return replace(advice, why=why)
    summary = f"The server replied {c.rcode_to_text(reply.rcode)}; resolved here: {why}"
    if reply.rcode == c.SERVFAIL and explanation.failure is None:
        return Advice(
            summary,
            RESOLVER,
            None,
            "The data are valid here: check the server's extended errors, clock, trust anchors and cache (flush the "
            "name there).",
        )
    return replace(advice, why=summary)


def _advise(explanation: Explanation) -> Advice:
    failure = explanation.failure
    if failure is None:
        return _found(explanation)
    ede = failure.ede
    zone = _bogus_zone(explanation)
    if failure.kind is FailureKind.CACHED_ERROR:
        return Advice(
            f"A cached failure was returned: {failure.text}.",
            RESOLVER,
            None,
            "Wait some seconds, or flush the name (resolverctl flush NAME), and retry.",
        )
    if failure.kind is FailureKind.BOGUS:
        # The texts are nested like the chain of trust; the innermost one is the cause.
        inner = NESTED.sub("", failure.text)
        outer = f"{inner}; therefore {_question(explanation)} cannot be validated."
        why = _sentence(inner) if inner == failure.text else outer
        return _bogus(explanation, ede, why, zone)
    return _unreached(explanation, ede)


# --- good and empty answers ---------------------------------------------------------------------------------------


def _found(explanation: Explanation) -> Advice:
    outcome = explanation.outcome
    question = outcome.question
    last = explanation.aliases[-1] if explanation.aliases else question.qname
    shown, rtype = names.to_text(last), c.type_to_text(question.qtype)
    soa = next((rrset for rrset in outcome.authority if rrset.rtype == c.SOA), None)
    zone = None if soa is None else names.lower(soa.name)
    if outcome.rcode == c.NXDOMAIN:
        return Advice(
            f"The name {shown} does not exist{_validation(explanation)}.",
            CLIENT,
            zone,
            "Check the spelling. If the name should exist, the operator of the zone must add it.",
        )
    if outcome.rcode != c.NOERROR:
        return Advice(f"The answer is {c.rcode_to_text(outcome.rcode)}.", CLIENT, zone, "See the steps.")
    if not any(rrset.rtype == question.qtype or question.qtype == c.ANY for rrset in outcome.answer):
        return Advice(
            f"{shown} exists and has no {rtype} records{_validation(explanation)}.",
            CLIENT,
            zone,
            "Query another type. If the records should exist, the operator of the zone must add them.",
        )
    if outcome.stale:
        return Advice(
            "The servers of the zone did not answer in time; this answer is stale.",
            NETWORK,
            None,
            "Retry later. The data are the last that were received.",
        )
    insecure = next((z for z in explanation.zones if z.verdict is Verdict.INSECURE), None)
    if explanation.verdict is Verdict.INSECURE and insecure is not None:
        return Advice(
            f"Answered; the data cannot be validated, because {names.to_text(insecure.zone)} is not signed.",
            ZONE,
            insecure.zone,
            "This is not an error. To allow validation, sign the zone and publish its DS record in the parent.",
        )
    return Advice(f"Answered{_validation(explanation)}.", NONE, None, "Nothing needs to be done.")


def _validation(explanation: Explanation) -> str:
    if not explanation.validating:
        return ""
    return {
        Verdict.SECURE: ", validated from the trust anchor",
        Verdict.INSECURE: ", not signed",
        Verdict.INDETERMINATE: ", not validated",
    }.get(explanation.verdict, "")


# --- what fails validation ----------------------------------------------------------------------------------------


def _bogus_zone(explanation: Explanation) -> bytes | None:
    """The zone where the chain of trust is broken: that of the last failed check, not of its consequences."""
    for kinds in (("check", "proof", "keys"), ("ds",), ("validate",)):
        for step in reversed(explanation.steps):
            facts = step.facts or {}
            unnamed = step.kind == "keys" and not facts.get("entry") and not facts.get("cached")
            wrong = unnamed or facts.get("verdict") == Verdict.BOGUS
            if wrong and step.kind in kinds and step.zone is not None:
                unsigned = step.kind == "check" and facts.get("signature") is None
                return zone_over(explanation, step.zone) if unsigned else step.zone
    return None


NESTED = re.compile(r"^(?:no (?:keys|DS) of \S+: )+")
# Extended error -> who, what to do.
REPAIRS: dict[int, tuple[str, str]] = {
    c.EDE_SIGNATURE_EXPIRED: (
        ZONE,
        "Re-sign the zone and find out why this was not done in time: the signer's timer or disk, or a secondary that "
        "no longer transfers the zone. If all signed zones fail this way, the clock of this resolver is wrong.",
    ),
    c.EDE_SIGNATURE_NOT_YET_VALID: (
        ZONE,
        "Correct the signer's clock, or sign with an inception time in the past. If all signed zones fail this way, "
        "the clock of this resolver is wrong.",
    ),
    c.EDE_SIGNATURE_EXPIRED_BEFORE_VALID: (ZONE, "Re-sign the zone: the expiration time is before the inception time."),
    c.EDE_DNSKEY_MISSING: (
        PARENT,
        "No DS record of the parent matches a DNSKEY of the zone. Give the registrar the DS of the current key, or "
        "publish the old key again until that is done.",
    ),
    c.EDE_RRSIGS_MISSING: (
        ZONE,
        "The parent has a DS record, so every RRset of the zone must be signed. Sign the zone, or have the DS removed. "
        "A server or proxy that strips signatures has the same effect.",
    ),
    c.EDE_NO_ZONE_KEY_BIT_SET: (
        ZONE,
        "Publish a key with the zone key flag (256 or 257) and protocol 3, and its DS in the parent.",
    ),
    c.EDE_NSEC_MISSING: (
        ZONE,
        "The server must send the NSEC or NSEC3 records of the denial. Re-sign the zone, and check that all "
        "secondaries have the same version.",
    ),
    c.EDE_DNSSEC_BOGUS: (
        ZONE,
        "Compare the records on all servers of the zone with those that were signed, and re-sign. If this is seen from "
        "one network only, a device in that network modifies replies.",
    ),
    c.EDE_UNSUPPORTED_DNSKEY_ALGORITHM: (ZONE, "Sign with an algorithm that validators support: 13 (ECDSAP256SHA256)."),
    c.EDE_DNSSEC_INDETERMINATE: (ZONE, "See the failed step of the chain."),
    c.EDE_NO_REACHABLE_AUTHORITY: (
        NETWORK,
        "The DNSKEY or DS records could not be fetched. The name servers of that zone must answer queries for DNSKEY "
        "and DS, also over TCP.",
    ),
}


def _sentence(text: str) -> str:
    """`text` with a full stop, unless it ends with a name, which has one."""
    return text if text.endswith(".") else f"{text}."


def _question(explanation: Explanation) -> str:
    return formats.question(explanation.outcome.question.qname, explanation.outcome.question.qtype)


def _bogus(explanation: Explanation, ede: int, why: str, zone: bytes | None) -> Advice:
    broken = next((one for one in explanation.zones if one.zone == zone), None)
    if broken is not None and broken.anchor and not broken.entry:
        return Advice(
            why,
            RESOLVER,
            zone,
            "The configured trust anchor does not match this DNS tree: update dnssec.trust-anchors. In a private tree, "
            "such as a test network or the playground, configure its trust anchor (rdig: --config FILE).",
        )
    who, hint = REPAIRS.get(ede, (ZONE, "See the failed step of the chain."))
    has_bogus_data = any(k.verdict is Verdict.BOGUS and k.rtype != c.DNSKEY for k in explanation.checks)
    if ede == c.EDE_DNSKEY_MISSING and has_bogus_data:
        # The DNSKEY RRset is valid; a signature names a key that is not in it.
        who, hint = ZONE, "Publish the key that the signatures name, or re-sign with a published key."
    return Advice(why, who, zone, hint)


# --- what could not be resolved -----------------------------------------------------------------------------------


def _unreached(explanation: Explanation, ede: int) -> Advice:
    failure = explanation.failure
    assert failure is not None
    why = _sentence(failure.text)
    if failure.kind is FailureKind.CYCLE:
        return Advice(
            why,
            PARENT,
            _last_zone(explanation),
            "The addresses of the name servers of these zones depend on each other. Give at least one server a name "
            "inside its own zone, with glue in the parent.",
        )
    if failure.kind is FailureKind.BUDGET and "alias" in failure.text:
        return Advice(why, ZONE, _last_zone(explanation), "Shorten the chain of CNAME records.")
    if ede == c.EDE_INVALID_DATA and "alias" in failure.text:
        return Advice(why, ZONE, _last_zone(explanation), "Remove the CNAME loop.")
    if ede in (c.EDE_BLOCKED, c.EDE_CENSORED, c.EDE_FILTERED, c.EDE_PROHIBITED, c.EDE_NOT_SUPPORTED, c.EDE_NOT_READY):
        return Advice(why, RESOLVER, None, "The resolver is configured so, or it is overloaded.")
    if failure.kind is FailureKind.LOCAL_RESOURCE:
        return Advice(
            why,
            RESOLVER,
            None,
            "This host lacks a resource: raise the limit of open files (LimitNOFILE in systemd) or add memory.",
        )
    if failure.kind is FailureKind.BUDGET:
        return Advice(
            why,
            ZONE,
            _last_zone(explanation),
            "Resolution needs too many zones and servers. Use fewer name servers without glue, and server names in "
            "fewer zones.",
        )
    if failure.kind is FailureKind.QUOTA:
        return Advice(
            why,
            RESOLVER,
            _last_zone(explanation),
            "Its servers are slow or dead, or it is flooded with queries. The limits are in fetch-limit of the "
            "configuration.",
        )
    zone = _last_zone(explanation)
    failed = [e for e in explanation.exchanges if (zone is None or e.zone == zone) and not e.good]
    if not explanation.exchanges:
        return Advice(
            why, NETWORK, zone, "No server could be queried. Check the network connection and the root hints."
        )
    results = {e.result for e in failed}
    results_text = "; ".join(dict.fromkeys(f"{e.address}: {_result_text(e.result, e.rcode)}" for e in failed))
    why = f"{why} {results_text}." if results_text and len(results_text) < 300 else why
    if zone == names.ROOT:
        # Root servers are rarely at fault, so the cause is between them and this host.
        intercepted = any(
            e.rcode is not None and not e.flags & c.AA and e.result != "referral"
            for e in explanation.exchanges
            if e.zone == names.ROOT
        )
        what = (
            "Replies from the addresses of root servers are not those of root servers: a device in the network "
            "intercepts DNS. Allow UDP and TCP port 53 to all addresses"
            if intercepted
            else "No root server can be reached: allow UDP and TCP port 53 to all addresses"
        )
        return Advice(why, NETWORK, zone, what + ", or forward all queries to a resolver of this network: a "
                      "[[forward]] table with its addresses.")
    if results <= {"timeout", "network", "no_route", "deadline", "no reply"}:
        return Advice(
            why,
            NETWORK,
            zone,
            "No server answers at these addresses. Check that the servers run and that firewalls pass UDP and TCP port "
            "53. If the addresses have changed, update the glue in the parent.",
        )
    if "lame" in results or failure.kind is FailureKind.LAME:
        return Advice(
            why,
            PARENT,
            zone,
            "The delegation is lame: configure the zone on these servers, or remove them from the NS records of the "
            "parent and the zone.",
        )
    return Advice(
        why,
        ZONE,
        zone,
        "The servers answer with an error. See their logs; often a zone failed to load or expired on a secondary.",
    )


def _result_text(result: str, rcode: int | None) -> str:
    if result in ("timeout", "deadline", "no reply"):
        return "no reply"
    if result == "throwaway" and rcode is not None:
        return f"answers {c.rcode_to_text(rcode)}"
    return {"network": "cannot be reached", "lame": "does not serve the zone", "empty": "sends an empty reply"}.get(
        result, result
    )


def _last_zone(explanation: Explanation) -> bytes | None:
    """The zone of the last failed query, or else of the last query."""
    for exchange in reversed(explanation.exchanges):
        if not exchange.good:
            return exchange.zone
    return explanation.exchanges[-1].zone if explanation.exchanges else None


def sentence_of(code: int, text: str) -> str:
    """An extended error as text, safe for output."""
    return f"{c.ede_to_text(code)} ({code})" + (f": {formats.escape_controls(text)}" if text else "")
