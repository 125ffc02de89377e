"""The section [dnssec]: validation, trust anchors and negative trust anchors.

`check_negative_anchors` is also for those of views. Bounds of the work that a query may cause are in `resolver.limits`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from resolver import hints, limits
from resolver.options import check_limits, check_names, check_path, option

__all__ = ["DnssecSettings", "check_negative_anchors"]


@dataclass(frozen=True, slots=True)
class DnssecSettings:
    """DNSSEC validation and trust anchors."""

    enabled: bool = option(True, "Validate answers (RFC 4035). Off: no answer is marked secure or rejected as bogus.")
    trust_anchors: tuple[str, ...] = option(
        hints.ROOT_ANCHORS,
        "Trust anchors: DS or DNSKEY records in presentation format, for any zone, several for one zone if needed"
        " (RFC 4035 5). An empty list turns validation off. The default is the two root keys, key tags 20326 and"
        " 38696.",
    )
    auto_trust_anchor_file: str = option(
        "",
        "File in which trust anchors are updated when their zones roll their keys (RFC 5011). The daemon must be able"
        " to write to its directory. Empty: the configured anchors do not change.",
    )
    add_hold_down: float = option(
        float(limits.ADD_HOLD_DOWN.default),
        "RFC 5011 add hold-down time: a new key of a zone with a trust anchor must be published and signed for this"
        " long before it is trusted.",
        kind="seconds",
        limit=limits.ADD_HOLD_DOWN,
    )
    remove_hold_down: float = option(
        float(limits.REMOVE_HOLD_DOWN.default),
        "RFC 5011 remove hold-down time: a revoked key is listed as revoked for this long before it is removed. It is"
        " not trusted meanwhile.",
        kind="seconds",
        limit=limits.REMOVE_HOLD_DOWN,
    )
    missing_hold_down: float = option(
        float(limits.MISSING_HOLD_DOWN.default),
        "Time after which a trusted key in the RFC 5011 state Missing is removed if another trusted key remains. 0"
        " keeps it. Unbound calls this keep-missing.",
        kind="seconds",
        limit=limits.MISSING_HOLD_DOWN,
    )
    negative_trust_anchors: tuple[str, ...] = option(
        (),
        "Zones at and below which answers are not validated, for a zone whose signatures are known to be broken (RFC"
        " 7646). After a space may follow the time in seconds since 1970 at which it ends.",
    )
    accept_sha1: bool = option(
        True,
        "Validate with algorithms 5 and 7 (RSA with SHA-1, RFC 9905). Off: zones signed only with them count as"
        " insecure.",
    )
    harden_algorithm_downgrade: bool = option(
        False,
        "Require a valid signature of every algorithm in a zone's DS records and keys, so that breaking the weakest"
        " algorithm is not enough. Off by default: RFC 6840 5.11 requires only one, and some zones have only one"
        " during a rollover.",
    )
    signature_skew_min: float = option(
        float(limits.SIGNATURE_SKEW_MIN.default),
        "Lowest clock skew tolerated at both ends of a signature's validity period. The default is 0 because RFC 4035"
        " 5.3.1 tolerates none; other resolvers use one hour here and one day for `signature-skew-max`.",
        kind="seconds",
        limit=limits.SIGNATURE_SKEW_MIN,
    )
    signature_skew_max: float = option(
        float(limits.SIGNATURE_SKEW_MAX.default),
        "Highest clock skew tolerated. Between the two bounds, a tenth of the signature's validity period is"
        " tolerated. 0 tolerates none.",
        kind="seconds",
        limit=limits.SIGNATURE_SKEW_MAX,
    )
    nsec3_max_iterations: int = option(
        limits.NSEC3_ITERATIONS.default,
        "Highest NSEC3 iteration count that is validated. A zone with a higher count is treated as insecure (RFC 9276"
        " 3.2).",
        limit=limits.NSEC3_ITERATIONS,
    )

    def __post_init__(self) -> None:
        check_limits(self, "dnssec")
        check_negative_anchors(self.negative_trust_anchors, "dnssec.negative_trust_anchors")
        check_path(self.auto_trust_anchor_file, "dnssec.auto_trust_anchor_file")
        if self.signature_skew_min > self.signature_skew_max:
            raise ValueError("dnssec.signature_skew_min: it is larger than dnssec.signature-skew-max")
        for text in self.trust_anchors:
            hints.check_anchor(text, "dnssec.trust_anchors")
            check_names((text.replace("(", " ").split()[0],), "dnssec.trust_anchors")

    @property
    def active(self) -> bool:
        """Whether answers are validated."""
        return self.enabled and bool(self.trust_anchors)


def check_negative_anchors(values: Iterable[str], where: str) -> None:
    """Check the negative trust anchors `values`.

    Raises:
        ValueError: one is wrong; the message names `where`.
    """
    try:
        zones = [hints.negative_anchor(text)[0] for text in values]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    check_names(zones, where)
