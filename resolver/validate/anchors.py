"""Trust anchors and negative trust anchors (RFC 4035 section 4.4, RFC 7646): what is validated, and from which keys.

Anchors are DS or DNSKEY records in text form, of any name and several for each. The longest one that is an ancestor
of a name decides; a negative anchor at least as long switches validation off below it. `rollover` changes them while
the resolver runs (RFC 5011): every validator of a process reads them here, so there is one place to change.
"""

import base64
import binascii
from collections.abc import Iterable

from resolver import hints
from resolver.validate.records import Dnskey, Ds, parse_dnskey, parse_ds
from resolver.wire import name as names

__all__ = ["Anchor", "Anchors"]


class Anchor:
    """What the operator trusts for one zone."""

    __slots__ = ("ds", "keys", "zone")

    def __init__(self, zone: bytes) -> None:
        self.zone = zone
        self.ds: list[Ds] = []
        self.keys: list[Dnskey] = []


class Anchors:
    """All anchors of a configuration.

    Raises:
        ValueError: an anchor or a name cannot be read.
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
        self._negative = {names.lower(names.from_text(text)) for text in negative}

    def __bool__(self) -> bool:
        return bool(self._zones)

    def configured(self) -> list[Anchor]:
        """What is trusted now, zone by zone."""
        return list(self._zones.values())

    def put(self, zone: bytes, anchor: Anchor | None) -> None:
        """Trust `anchor` for `zone` (lower case) from now on; None: as if nothing had ever been configured for it."""
        if anchor is None:
            self._zones.pop(zone, None)
        else:
            self._zones[zone] = anchor

    def get(self, zone: bytes) -> Anchor | None:
        """The anchor exactly at `zone` (lower case), unless a negative one takes it away."""
        return None if zone in self._negative else self._zones.get(zone)

    def closest(self, name: bytes) -> Anchor | None:
        """The anchor that governs `name`; None when the name is not to be validated."""
        name = names.lower(name)
        while True:
            if name in self._negative:
                return None
            anchor = self._zones.get(name)
            if anchor is not None or name == names.ROOT:
                return anchor
            name = names.parent(name)


def _record(text: str) -> tuple[bytes, str, bytes]:
    """Owner in lower case, type and rdata of one DS or DNSKEY record in text form; TTL and class may be there or not.

    Raises:
        ValueError: it is neither, or its fields cannot be read.
    """
    tokens = text.split(";", 1)[0].replace("(", " ").replace(")", " ").split()
    at = next((n for n, token in enumerate(tokens[:4]) if n and token.upper() in ("DS", "DNSKEY")), 0)
    if not at:
        raise ValueError(f"trust anchor {text.strip()[:60]!r}: neither a DS nor a DNSKEY record")
    owner, rtype, fields = names.lower(names.from_text(tokens[0])), tokens[at].upper(), tokens[at + 1 :]
    try:
        # The algorithm may be a mnemonic: of a DS record the second field, of a DNSKEY the third.
        first, second, third = (int(hints.ALGORITHMS.get(field.upper(), field)) for field in fields[:3])
        rest = "".join(fields[3:])
        data = binascii.unhexlify(rest) if rtype == "DS" else base64.b64decode(rest, validate=True)
        return owner, rtype, first.to_bytes(2, "big") + bytes((second, third)) + data
    except (ValueError, OverflowError) as error:
        raise ValueError(f"trust anchor {text.strip()[:60]!r}: {error}") from None
