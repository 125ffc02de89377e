"""What the tests of the signed playground share: its questions, and extended errors that are as good as the table's.

The tables of the playground name the one extended error (RFC 8914) that tells an operator most. Where a validator
meets the same fault by another way and says so with another code, that is no wrong answer; such codes stand here.
"""

from resolver.playground import atlas, signed

__all__ = ["ALSO", "SIGNED"]

SIGNED = signed.SPECIALS[len(atlas.SPECIALS) :]
"""The questions about signed zones, without those of the unsigned playground."""

ALSO: dict[str, frozenset[int | None]] = {
    # RFC 8914 sections 4.2 and 4.3: what is merely insecure need not be explained.
    "www.ds-algorithm.dnssec.playground.": frozenset((None,)),
    "www.ds-dsa.dnssec.playground.": frozenset((None,)),
    "www.ds-digest.dnssec.playground.": frozenset((None,)),
    # The question for the keys waits for itself, since the denial of the keys would need them.
    "www.no-dnskey.dnssec.playground.": frozenset((22,)),
    # Before the missing signature stands the missing proof that the name is no unsigned delegation.
    "www.no-signatures.dnssec.playground.": frozenset((12,)),
    "www.ds-unsigned-zone.dnssec.playground.": frozenset((12,)),
    # A revoked key is present, but may not sign.
    "www.revoked.dnssec.playground.": frozenset((11,)),
}
