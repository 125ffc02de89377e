"""Verdicts with their reasons, and the one place where anything is found insecure (RFC 4035 section 5.2).

"Insecure" switches validation off for a name and all names below it, so it is the verdict that a forger wants. It is
given for these proofs and for nothing else, and each is an object made of what was validated:

* `NoTrustAnchor`: the configuration has no trust anchor above the name, or a negative one (RFC 7646).
* `InsecureDelegation`: the NSEC or NSEC3 record of the name itself has NS, and neither DS nor SOA: an insecure
  delegation seen from the parent's side (RFC 6840 section 4.4).
* `OptOutSpan`: a span with the opt-out flag covers the name, so an unsigned delegation may be there (RFC 5155 section
  6).
* `UnsupportedKeys`: a validated DS set, or an anchor, with no algorithm or digest that is supported.
* `TooManyIterations`: a validated NSEC3 record asks for more hashing than the limit (RFC 9276 section 3.2).
* `NotSignable`: something that nothing in DNSSEC signs: RRSIG records, or a response code. It concerns one reply and is
  never taken as the state of a zone.

Rule: the verdict of another reply is no proof. Who needs the state of a zone derives it from the records of that reply
that are secure themselves; otherwise an alias or an unsigned neighbour in it would lower the verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from resolver.effects import Failure, FailureKind
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names

if TYPE_CHECKING:
    from resolver.validate.fields import Dnskey, Rrsig
    from resolver.validate.nsec import Nsec
    from resolver.validate.nsec3 import Nsec3

__all__ = [
    "SECURE",
    "InsecureDelegation",
    "NoTrustAnchor",
    "NotSignable",
    "OptOutSpan",
    "Proof",
    "SecurityStatus",
    "TooManyIterations",
    "UnsupportedKeys",
    "bogus",
    "insecure",
]


class NoTrustAnchor:
    """The configuration says that `name` is not to be validated."""

    __slots__ = ("name",)
    ede = -1

    def __init__(self, name: bytes) -> None:
        self.name = name

    @property
    def text(self) -> str:
        """The reason, for people; none, since the operator knows."""
        return ""


class InsecureDelegation:
    """The validated record of a name that is a delegation without DS.

    Raises:
        ValueError: the record does not say so.
    """

    __slots__ = ("record",)
    ede = -1

    def __init__(self, record: Nsec | Nsec3) -> None:
        if not shows_insecure_delegation(record):
            raise ValueError("the record shows no delegation without DS")
        self.record = record

    @property
    def text(self) -> str:
        """The reason, for people: an insecure delegation is nothing to be told of."""
        return ""


class OptOutSpan:
    """A validated NSEC3 record with the opt-out flag covers the name, or the next closer one.

    Raises:
        ValueError: the record has no opt-out flag.
    """

    __slots__ = ("record",)
    ede = -1

    def __init__(self, record: Nsec3) -> None:
        if not record.opt_out:
            raise ValueError("the record has no opt-out flag")
        self.record = record

    @property
    def text(self) -> str:
        """The reason, for people: an insecure delegation is nothing to be told of."""
        return ""


class UnsupportedKeys:
    """A zone whose validated DS set or anchor names nothing that is supported. `digest`: only its digests are odd."""

    __slots__ = ("digest", "zone")

    def __init__(self, zone: bytes, *, digest: bool) -> None:
        self.zone = zone
        self.digest = digest

    @property
    def ede(self) -> int:
        """The Extended DNS Error."""
        return c.EDE_UNSUPPORTED_DS_DIGEST_TYPE if self.digest else c.EDE_UNSUPPORTED_DNSKEY_ALGORITHM

    @property
    def text(self) -> str:
        """The reason, for people."""
        what = "digests of its keys" if self.digest else "algorithms of its keys"
        return f"none of the {what} is supported for {names.to_text(self.zone)}"


class TooManyIterations:
    """A validated NSEC3 record that asks for more iterations than `most`.

    Raises:
        ValueError: it does not.
    """

    __slots__ = ("record",)
    ede = c.EDE_UNSUPPORTED_NSEC3_ITERATIONS

    def __init__(self, record: Nsec3, most: int) -> None:
        if record.iterations <= most:
            raise ValueError("the record keeps to the limit")
        self.record = record

    @property
    def text(self) -> str:
        """The reason, for people."""
        return f"{names.to_text(self.record.zone)} asks for {self.record.iterations} NSEC3 iterations"


class NotSignable:
    """Something that no signature covers, in one reply. It is no proof about a zone."""

    __slots__ = ()
    ede = -1
    text = ""


Proof: TypeAlias = NoTrustAnchor | InsecureDelegation | OptOutSpan | UnsupportedKeys | TooManyIterations | NotSignable


class SecurityStatus:
    """A verdict with its reason: the Extended DNS Error (-1: none) and a sentence for people.

    `proof` is what an insecure verdict rests on; `bogus`, `insecure` and `SECURE` make findings. `open` says of a bogus
    one that nothing is wrong with the data: a part of the chain of trust was not to be had.
    """

    __slots__ = ("ede", "keys", "open", "proof", "signature", "text", "verdict")

    def __init__(
        self,
        verdict: Verdict,
        ede: int = -1,
        text: str = "",
        *,
        keys: Sequence[Dnskey] = (),
        signature: Rrsig | None = None,
        proof: Proof | None = None,
        open: bool = False,
    ) -> None:
        if (verdict is Verdict.INSECURE) is (proof is None):
            raise ValueError("an insecure verdict needs a proof, and no other has one")
        self.verdict = verdict
        self.ede = ede
        self.text = text
        self.keys = keys
        self.signature = signature
        self.proof = proof
        self.open = open


SECURE = SecurityStatus(Verdict.SECURE)


def bogus(ede: int, text: str, *, failure: Failure | None = None) -> SecurityStatus:
    """The finding that data is bogus, for this reason. `failure`: what its chain of trust needs was not obtained."""
    missing = failure is not None and failure.kind is not FailureKind.CYCLE and failure.verdict is not Verdict.BOGUS
    return SecurityStatus(Verdict.BOGUS, ede, text, open=missing)


def insecure(proof: Proof) -> SecurityStatus:
    """The finding that something is insecure, by `proof`. No other function makes one."""
    return SecurityStatus(Verdict.INSECURE, proof.ede, proof.text, proof=proof)


def shows_insecure_delegation(record: Nsec | Nsec3) -> bool:
    """Whether the validated record of a name shows a delegation without DS, from the parent's side."""
    return record.has(c.NS) and not record.has(c.DS) and not record.has(c.SOA)
