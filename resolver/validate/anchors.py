"""Trust anchors and negative trust anchors (RFC 4035 section 4.4, RFC 7646): which names are validated, by which keys.

Trust anchors are DS or DNSKEY records in text form, of any name and several for each. For a name, the closest one at or
above it applies. A negative trust anchor between them, or at the same name, disables validation. `autotrust` changes
trust anchors while the resolver runs (RFC 5011); all validators of a process read them here.

A negative trust anchor may have an end. It is compared with the time of each look-up, so none is honoured past its end,
whatever becomes of the timer that removes it (RFC 7646 section 2: they have a limited lifetime).
"""

import base64
import binascii
from collections.abc import Iterable

from resolver import hints
from resolver.validate.records import Dnskey, Ds, parse_dnskey, parse_ds
from resolver.wire import name as names

__all__ = ["Anchor", "Anchors"]

ENDLESS = 1 << 62


class Anchor:
    """The trust anchor of one zone: DS and DNSKEY records."""

    __slots__ = ("ds", "keys", "zone")

    def __init__(self, zone: bytes) -> None:
        self.zone = zone
        self.ds: list[Ds] = []
        self.keys: list[Dnskey] = []


class Anchors:
    """All trust anchors and negative trust anchors of a configuration.

    Raises:
        ValueError: an anchor or a name is invalid.
    """

    def __init__(self, anchors: Iterable[str], negative: Iterable[str] = ()) -> None:
        self._zones: dict[bytes, Anchor] = {}
        for text in anchors:
            owner, rtype, rdata = _record(text)
            anchor = self._zones.setdefault(owner, Anchor(owner))
            ds = parse_ds(rdata) if rtype == "DS" else None
            key = parse_dnskey(rdata) if rtype == "DNSKEY" else None
            if ds is not None:
                anchor.ds.append(ds)
            elif key is not None:
                anchor.keys.append(key)
            else:
                raise ValueError(f"trust anchor {text.strip()[:60]!r}: the record has no digest or key")
        #: the end of each negative trust anchor, `ENDLESS` for those that have none.
        self._negative: dict[bytes, int] = {}
        for text in negative:
            zone, until = hints.negative_anchor(text)
            self._put_negative(names.lower(names.from_text(zone)), until or ENDLESS)

    def with_negative(self, negative: Iterable[str]) -> "Anchors":
        """The same trust anchors, also when they change, with further negative ones.

        Raises:
            ValueError: a name is invalid.
        """
        made = Anchors((), negative)
        made._zones = self._zones
        for zone, until in self._negative.items():
            made._put_negative(zone, until)
        return made

    def _put_negative(self, zone: bytes, until: int) -> None:
        """Of several with the same name, the one that ends last is in force."""
        self._negative[zone] = max(until, self._negative.get(zone, 0))

    def __bool__(self) -> bool:
        return bool(self._zones)

    def configured(self) -> list[Anchor]:
        """The current trust anchors of all zones."""
        return list(self._zones.values())

    def put(self, zone: bytes, anchor: Anchor | None) -> None:
        """Replace the trust anchor of `zone` (lower case); None removes it."""
        if anchor is None:
            self._zones.pop(zone, None)
        else:
            self._zones[zone] = anchor

    def get(self, zone: bytes, now: int) -> Anchor | None:
        """The trust anchor exactly at `zone` (lower case) at the time `now`; None with none or a negative one."""
        return None if now < self._negative.get(zone, 0) else self._zones.get(zone)

    def closest(self, name: bytes, now: int) -> Anchor | None:
        """The trust anchor that applies to `name` at the time `now`; None when the name is not validated."""
        name = names.lower(name)
        if not self._negative:
            zone = names.closest_in(name, self._zones)
            return None if zone is None else self._zones[zone]
        while True:
            if now < self._negative.get(name, 0):
                return None
            anchor = self._zones.get(name)
            if anchor is not None or name == names.ROOT:
                return anchor
            name = names.parent(name)


def _record(text: str) -> tuple[bytes, str, bytes]:
    """Owner in lower case, type and rdata of one DS or DNSKEY record in text form; TTL and class are optional.

    Raises:
        ValueError: it is neither, or a field is invalid.
    """
    tokens = text.split(";", 1)[0].replace("(", " ").replace(")", " ").split()
    at = next((n for n, token in enumerate(tokens[:4]) if n and token.upper() in ("DS", "DNSKEY")), 0)
    if not at:
        raise ValueError(f"trust anchor {text.strip()[:60]!r}: neither a DS nor a DNSKEY record")
    owner, rtype, fields = names.lower(names.from_text(tokens[0])), tokens[at].upper(), tokens[at + 1 :]
    try:
        # The algorithm may be a mnemonic: it is the second field of a DS record and the third of a DNSKEY record.
        first, second, third = (int(hints.ALGORITHMS.get(field.upper(), field)) for field in fields[:3])
        rest = "".join(fields[3:])
        data = binascii.unhexlify(rest) if rtype == "DS" else base64.b64decode(rest, validate=True)
        return owner, rtype, first.to_bytes(2, "big") + bytes((second, third)) + data
    except (ValueError, OverflowError) as error:
        raise ValueError(f"trust anchor {text.strip()[:60]!r}: {error}") from None
