"""Verdicts with their reasons, and the only function that makes the verdict "insecure" (RFC 4035 section 5.2).

"Insecure" disables validation for a name and all names below it, so it is the verdict that an attacker wants. It needs
one of these proofs, each made from validated data or from the configuration:

* `NoTrustAnchor`: the configuration has no trust anchor above the name, or a negative one (RFC 7646).
* `InsecureDelegation`: the NSEC or NSEC3 record of the name itself has NS, and neither DS nor SOA: an insecure
  delegation, from the parent's side (RFC 6840 section 4.4).
* `OptOutSpan`: an NSEC3 record with the opt-out flag covers the name, so an unsigned delegation may exist there (RFC
  5155 section 6).
* `UnsupportedKeys`: a validated DS set or a trust anchor without a supported algorithm and digest.
* `TooManyIterations`: a validated NSEC3 record has more iterations than the limit (RFC 9276 section 3.2).
* `NotSignable`: data that DNSSEC never signs: RRSIG records, or a response code. It applies to one reply and is never
  the status of a zone.

The verdict of another reply is no proof. The status of a zone is derived only from records of that reply that are
secure themselves; otherwise an alias or unsigned data in the reply would lower it.
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
    """By the configuration, `name` is not validated."""

    __slots__ = ("name",)
    ede = -1

    def __init__(self, name: bytes) -> None:
        self.name = name

    @property
    def text(self) -> str:
        """The reason for people; empty, because the operator configured it."""
        return ""


class InsecureDelegation:
    """The validated NSEC or NSEC3 record of a delegation without DS.

    Raises:
        ValueError: the record is not one of a delegation without DS.
    """

    __slots__ = ("record",)
    ede = -1

    def __init__(self, record: Nsec | Nsec3) -> None:
        if not shows_insecure_delegation(record):
            raise ValueError("the record shows no delegation without DS")
        self.record = record

    @property
    def text(self) -> str:
        """The reason for people; empty, because an insecure delegation is no error."""
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
        """The reason for people; empty, because an insecure delegation is no error."""
        return ""


class UnsupportedKeys:
    """A zone whose validated DS set or trust anchor has no supported record. `digest`: only the digest types are not.
    """

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
        """The reason for people."""
        what = "digests of its keys" if self.digest else "algorithms of its keys"
        return f"none of the {what} is supported for {names.to_text(self.zone)}"


class TooManyIterations:
    """A validated NSEC3 record with more iterations than `most`.

    Raises:
        ValueError: it has not.
    """

    __slots__ = ("record",)
    ede = c.EDE_UNSUPPORTED_NSEC3_ITERATIONS

    def __init__(self, record: Nsec3, most: int) -> None:
        if record.iterations <= most:
            raise ValueError("the record does not exceed the limit of iterations")
        self.record = record

    @property
    def text(self) -> str:
        """The reason for people."""
        return f"{names.to_text(self.record.zone)} has {self.record.iterations} NSEC3 iterations, more than permitted"


class NotSignable:
    """Data of one reply that no signature covers. It is no proof about a zone."""

    __slots__ = ()
    ede = -1
    text = ""


Proof: TypeAlias = NoTrustAnchor | InsecureDelegation | OptOutSpan | UnsupportedKeys | TooManyIterations | NotSignable


class SecurityStatus:
    """A verdict with its reason: the Extended DNS Error (-1: none) and a sentence for people.

    `proof` is the proof of an insecure verdict. `open` is True for a bogus one when the data was not found wrong, but a
    part of the chain of trust could not be obtained. Use `bogus`, `insecure` and `SECURE` to make one.
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
    """The status bogus. `failure`: why a part of the chain of trust could not be obtained."""
    missing = failure is not None and failure.kind is not FailureKind.CYCLE and failure.verdict is not Verdict.BOGUS
    return SecurityStatus(Verdict.BOGUS, ede, text, open=missing)


def insecure(proof: Proof) -> SecurityStatus:
    """The status insecure, by `proof`. No other function makes it."""
    return SecurityStatus(Verdict.INSECURE, proof.ede, proof.text, proof=proof)


def shows_insecure_delegation(record: Nsec | Nsec3) -> bool:
    """Whether the validated record of a name shows a delegation without DS, on the parent's side."""
    return record.has(c.NS) and not record.has(c.DS) and not record.has(c.SOA)
