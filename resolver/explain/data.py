"""An explanation as JSON. docs/explain.md lists the keys, and a test compares it with the output.

While `SCHEMA` is unchanged, keys may be added but not renamed or redefined. Every key is always present, null if
unknown. Durations are in milliseconds, signature times in seconds since 1970, names have their final dot. The text is
ASCII without control characters, so it is safe for a terminal.
"""

import json
from typing import Any

from resolver.effects import TraceStep
from resolver.explain import formats
from resolver.explain.advice import advise, sentence_of
from resolver.explain.explanation import Check, Delegation, Exchange, Explanation, Proof, ServerReply, ZoneTrust
from resolver.validate.records import Dnskey, Ds
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.rrset import RRset

__all__ = ["SCHEMA", "records", "to_data", "to_json"]

SCHEMA = "rdig-explain/1"


def to_json(explanation: Explanation, *, indent: int | None = None) -> str:
    """The explanation as one JSON object."""
    return json.dumps(to_data(explanation), indent=indent, ensure_ascii=True)


def to_data(explanation: Explanation) -> dict[str, Any]:
    """The explanation as dictionaries, lists, strings and numbers."""
    outcome = explanation.outcome
    question = outcome.question
    failure, advice = explanation.failure, advise(explanation)
    return {
        "schema": SCHEMA,
        "source": explanation.source,
        "time": explanation.now,
        "question": {
            "name": names.to_text(question.qname),
            "class": c.class_to_text(question.qclass),
            "type": c.type_to_text(question.qtype),
        },
        "result": {
            "status": c.rcode_to_text(outcome.rcode),
            "dnssec": _verdict(explanation.verdict) if explanation.validating else None,
            "milliseconds": _ms(explanation.seconds),
            "queries": len(explanation.exchanges),
            "checks": len([check for check in explanation.checks if check.key is not None]),
            "from_cache": outcome.from_cache,
            "stale": outcome.stale,
            "answer": records(outcome.answer),
            "authority": records(outcome.authority),
            "aliases": [names.to_text(name) for name in explanation.aliases],
            "ede": [{"code": code, "name": c.ede_to_text(code), "text": text} for code, text in outcome.ede],
            "failure": None if failure is None else {"kind": failure.kind.name.lower(), "text": failure.text},
        },
        "advice": {
            "why": advice.why,
            "who": advice.who,
            "people": advice.people,
            "zone": _name(advice.zone),
            "hint": advice.hint,
        },
        "server": None if explanation.server_reply is None else _server_reply(explanation.server_reply),
        "delegations": [_delegation(one) for one in explanation.delegations],
        "exchanges": [_exchange(one) for one in explanation.exchanges],
        "chain": [_zone(one) for one in explanation.zones],
        "signatures": [_check(one) for one in explanation.checks],
        "proofs": [_proof(one) for one in explanation.proofs],
        "cache": [
            {
                "name": names.to_text(one.qname),
                "type": c.type_to_text(one.qtype),
                "text": one.text,
                "dnssec": None if one.verdict is None else _verdict(one.verdict),
                "records": one.records,
            }
            for one in explanation.cache
        ],
        "steps": [_step(one) for one in explanation.steps],
    }


def records(rrsets: list[RRset]) -> list[dict[str, Any]]:
    """One entry for each record; signatures follow the records that they cover."""
    found = []
    for rrset in rrsets:
        fixed = {"name": names.to_text(rrset.name), "ttl": rrset.ttl, "class": c.class_to_text(rrset.rclass)}
        for rdata in rrset.rdatas():
            text = present.rdata_to_text(rrset.rtype, rdata)
            found.append({**fixed, "type": c.type_to_text(rrset.rtype), "data": text})
        for rdata in rrset.sigs():
            found.append({**fixed, "type": "RRSIG", "data": present.rdata_to_text(c.RRSIG, rdata)})
    return found


# --- the parts ----------------------------------------------------------------------------------------------------


def _server_reply(one: ServerReply) -> dict[str, Any]:
    return {
        "address": one.server,
        "port": one.port,
        "status": c.rcode_to_text(one.rcode),
        "flags": formats.flags_of(one.flags),
        "milliseconds": _ms(one.seconds),
        "octets": one.octets,
        "transport": one.transport,
        "answer": records(one.answer),
        "ede": [{"code": code, "name": c.ede_to_text(code), "text": text} for code, text in one.ede],
        "notes": one.notes,
    }


def _delegation(one: Delegation) -> dict[str, Any]:
    return {
        "zone": names.to_text(one.zone),
        "parent": _name(one.parent),
        "source": one.source,
        "for": one.purpose,
        "referred_by": one.referred_by,
        "ttl": one.ttl,
        "servers": [{"name": _name(host.name), "addresses": host.addresses} for host in one.hosts],
        "ds": None if one.ds is None else [_ds(ds) for ds in one.ds],
        "denial_of_ds": one.denial,
    }


def _exchange(one: Exchange) -> dict[str, Any]:
    return {
        "number": one.number,
        "depth": one.depth,
        "for": one.purpose,
        "zone": names.to_text(one.zone),
        "server": one.address,
        "port": one.port,
        "server_name": _name(one.name),
        "name": names.to_text(one.qname),
        "type": c.type_to_text(one.qtype),
        "transport": one.transport.lower(),
        "edns_payload": one.payload,
        "why": one.why,
        "candidates": [
            {
                "server": candidate.address,
                "server_name": _name(candidate.name),
                "state": candidate.state,
                "expected_milliseconds": None if candidate.rtt_estimate is None else _ms(candidate.rtt_estimate),
            }
            for candidate in one.candidates
        ],
        "at_milliseconds": _ms(one.at),
        "milliseconds": None if one.seconds is None else _ms(one.seconds),
        "timeout_milliseconds": None if one.timeout is None else _ms(one.timeout),
        "result": one.result,
        "usable": one.good,
        "text": one.text,
        "rcode": None if one.rcode is None else c.rcode_to_text(one.rcode),
        "flags": formats.flags_of(one.flags),
        "octets": one.octets,
        "server_edns_payload": one.server_payload,
        "server_cookie": one.cookie,
        "connection": None if one.connection is None else formats.connection_values(one.connection),
        "ede": [sentence_of(code, text) for code, text in one.ede],
    }


def _zone(one: ZoneTrust) -> dict[str, Any]:
    return {
        "zone": names.to_text(one.zone),
        "dnssec": _verdict(one.verdict),
        "text": one.text,
        "trust_anchor": one.anchor,
        "from_cache": one.cached,
        "ds": [_ds(ds) for ds in one.ds],
        "keys": [_key(key, one) for key in one.keys],
        "denial_of_ds": records([rrset.without_sigs() for rrset in one.denial]),
    }


def _ds(one: Ds) -> dict[str, Any]:
    return {
        "tag": one.tag,
        "algorithm": one.algorithm,
        "algorithm_name": formats.algorithm(one.algorithm),
        "digest_type": one.digest_type,
        "digest_name": formats.digest_type(one.digest_type),
        "digest": one.digest.hex(),
    }


def _key(one: Dnskey, zone: ZoneTrust) -> dict[str, Any]:
    return {
        "tag": one.tag,
        "algorithm": one.algorithm,
        "algorithm_name": formats.algorithm(one.algorithm),
        "flags": one.flags,
        "role": formats.key_role(one.flags),
        "octets": len(one.key),
        "secure_entry": one.tag in zone.entry,
    }


def _check(one: Check) -> dict[str, Any]:
    sig = one.signature
    return {
        "name": names.to_text(one.owner),
        "type": c.type_to_text(one.rtype),
        "zone": names.to_text(one.zone),
        "result": one.result,
        "text": one.text,
        "key_tag": None if sig is None else sig.tag,
        "algorithm": None if sig is None else sig.algorithm,
        "algorithm_name": None if sig is None else formats.algorithm(sig.algorithm),
        "inception": None if sig is None else sig.inception,
        "expiration": None if sig is None else sig.expiration,
        "labels": None if sig is None else sig.labels,
        "original_ttl": None if sig is None else sig.original_ttl,
        "key_tried": one.key is not None,
        "ede": None if one.ede < 0 else one.ede,
    }


def _proof(one: Proof) -> dict[str, Any]:
    return {
        "what": one.what,
        "zone": _name(one.zone),
        "result": "not proved" if one.verdict is Verdict.BOGUS else _verdict(one.verdict),
        "text": one.text,
        "records": records([rrset.without_sigs() for rrset in one.records]),
    }


def _step(one: TraceStep) -> dict[str, Any]:
    server = one.server
    return {
        "at_milliseconds": None if one.at is None else _ms(one.at),
        "kind": one.kind,
        "depth": one.depth,
        "text": one.text,
        "zone": _name(one.zone),
        "name": _name(one.qname),
        "type": c.type_to_text(one.qtype) if one.qtype else None,
        "server": None if server is None else server.address,
        "rcode": None if one.rcode is None else c.rcode_to_text(one.rcode),
    }


def _name(value: bytes | None) -> str | None:
    return None if value is None else names.to_text(value)


def _verdict(value: Verdict) -> str:
    return value.name.lower()


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
