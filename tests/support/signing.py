"""Signs zones for tests with dnspython and `cryptography`, so that our validator is not tested by its own code.

`sign_zone` takes master file text and returns master file text with DNSKEY, RRSIG and an NSEC or NSEC3 chain, for
`Zone.from_text`. Keys are made once for each algorithm, zone and label, because RSA keys take a tenth of a second.
"""

import functools
from dataclasses import dataclass

import dns.dnssec
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.rrset
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from dns.rdtypes.ANY.NSEC import Bitmap

RSASHA1, NSEC3RSASHA1, RSASHA256, RSASHA512, ECDSAP256, ECDSAP384, ED25519, ED448 = 5, 7, 8, 10, 13, 14, 15, 16
RRSIG = dns.rdatatype.RRSIG
ALL_ALGORITHMS = (RSASHA1, NSEC3RSASHA1, RSASHA256, RSASHA512, ECDSAP256, ECDSAP384, ED25519, ED448)

INCEPTION = 1_700_000_000
NOW = INCEPTION + 86_400
EXPIRATION = INCEPTION + 30 * 86_400
"""Unix times in seconds: signatures are valid for 30 days, and tests run a day after the validity begins."""


@functools.cache
def _private_key(algorithm: int, label: str):
    if algorithm in (RSASHA1, NSEC3RSASHA1, RSASHA256, RSASHA512):
        return rsa.generate_private_key(public_exponent=65537, key_size=1024)
    if algorithm == ECDSAP256:
        return ec.generate_private_key(ec.SECP256R1())
    if algorithm == ECDSAP384:
        return ec.generate_private_key(ec.SECP384R1())
    return (ed25519.Ed25519PrivateKey if algorithm == ED25519 else ed448.Ed448PrivateKey).generate()


@dataclass(frozen=True)
class ZoneKey:
    """A key that signs all record sets of its zone; 257: flags ZONE and SEP (RFC 4034 section 2.1.1)."""

    zone: str
    algorithm: int = ECDSAP256
    label: str = "a"
    flags: int = 257

    @property
    def private(self):
        return _private_key(self.algorithm, self.label + self.zone)

    @property
    def dnskey(self):
        return dns.dnssec.make_dnskey(self.private.public_key(), self.algorithm, self.flags)

    @property
    def tag(self) -> int:
        return dns.dnssec.key_id(self.dnskey)

    def ds(self, digest: str = "SHA256") -> str:
        """DS rdata in text form, for the parent or as an anchor."""
        policy = dns.dnssec.Policy()
        policy.ok_to_create_ds = lambda _digest: True
        return dns.dnssec.make_ds(dns.name.from_text(self.zone), self.dnskey, digest, policy=policy).to_text()

    def anchor(self) -> str:
        """A trust anchor line."""
        return f"{self.zone} IN DS {self.ds()}"

    def sign(
        self,
        rrset: dns.rrset.RRset,
        *,
        inception: int = INCEPTION,
        expiration: int = EXPIRATION,
        signer: str | None = None,
    ):
        """The RRSIG rdata over a set."""
        policy = dns.dnssec.Policy()
        policy.ok_to_sign = lambda _key: True
        return dns.dnssec.sign(
            rrset,
            self.private,
            dns.name.from_text(signer or self.zone),
            self.dnskey,
            inception=inception,
            expiration=expiration,
            policy=policy,
        )


@dataclass(frozen=True)
class Nsec3:
    """Parameters of an NSEC3 chain."""

    iterations: int = 0
    salt: str = ""
    opt_out: bool = False


def _bitmap(types) -> tuple:
    return tuple(Bitmap.from_rdtypes(sorted(types)).windows)


def sign_zone(
    origin: str,
    text: str,
    keys: list[ZoneKey],
    *,
    nsec3: Nsec3 | None = None,
    inception: int = INCEPTION,
    expiration: int = EXPIRATION,
) -> str:
    """Sign master file text. Names below the apex with NS records are delegations; glue below them is not signed."""
    apex = dns.name.from_text(origin)
    zone = dns.zone.from_text(text, origin=apex, relativize=False, check_origin=False)
    soa = zone.get_rdataset(apex, "SOA")
    minimum = min(soa[0].minimum, soa.ttl)
    for key in keys:
        zone.find_rdataset(apex, "DNSKEY", create=True).add(key.dnskey, 3600)
    if nsec3 is not None:
        rdata = dns.rdata.from_text("IN", "NSEC3PARAM", f"1 0 {nsec3.iterations} {nsec3.salt or '-'}")
        zone.find_rdataset(apex, "NSEC3PARAM", create=True).add(rdata, 0)
    cuts = {n for n in zone if n != apex and zone.get_rdataset(n, "NS")}
    names = sorted(n for n in zone if not any(n != cut and n.is_subdomain(cut) for cut in cuts))
    sets: list[dns.rrset.RRset] = []
    types: dict[dns.name.Name, set[int]] = {}
    for name in names:
        types[name] = set()
        for rdataset in zone[name]:
            rtype = int(rdataset.rdtype)
            if name in cuts and rtype not in (dns.rdatatype.NS, dns.rdatatype.DS):
                continue
            types[name].add(rtype)
            if name not in cuts or rtype == dns.rdatatype.DS:
                sets.append(_as_rrset(name, rdataset))
    signed_types = {n: t | ({RRSIG} if n not in cuts or dns.rdatatype.DS in t else set()) for n, t in types.items()}
    if nsec3 is None:
        for here, following in zip(names, [*names[1:], names[0]], strict=True):
            rdata = dns.rdata.Rdata.__new__(dns.rdata.get_rdata_class(1, dns.rdatatype.NSEC))
            rdata.__init__(1, dns.rdatatype.NSEC, following, _bitmap(signed_types[here] | {RRSIG, dns.rdatatype.NSEC}))
            sets.append(_single(here, minimum, rdata))
    else:
        sets += _nsec3_chain(apex, signed_types, cuts, nsec3, minimum)
    lines = [f"$ORIGIN {origin}"]
    for name in zone:
        lines += [_as_rrset(name, rdataset).to_text() for rdataset in zone[name]]
    for rrset in sets:
        if rrset.rdtype in (dns.rdatatype.NSEC, dns.rdatatype.NSEC3):
            lines.append(rrset.to_text())
        for key in keys:
            rrsig = key.sign(rrset, inception=inception, expiration=expiration)
            lines.append(f"{rrset.name} {rrset.ttl} IN RRSIG {rrsig.to_text()}")
    return "\n".join(lines) + "\n"


def _as_rrset(name, rdataset) -> dns.rrset.RRset:
    rrset = dns.rrset.RRset(name, rdataset.rdclass, rdataset.rdtype)
    rrset.update(rdataset)
    return rrset


def _single(name, ttl: int, rdata) -> dns.rrset.RRset:
    rrset = dns.rrset.RRset(name, 1, rdata.rdtype)
    rrset.add(rdata, ttl)
    return rrset


def _nsec3_chain(apex, types, cuts, params: Nsec3, minimum: int) -> list[dns.rrset.RRset]:
    full = dict(types)
    if params.opt_out:
        full = {n: t for n, t in full.items() if n not in cuts or dns.rdatatype.DS in t}
    for name in list(full):  # empty non-terminals have records too (RFC 5155 section 7.1)
        while name != apex:
            name = name.parent()
            full.setdefault(name, set())
    hashes = sorted((dns.dnssec.nsec3_hash(n, params.salt, params.iterations, 1), n) for n in full)
    sets = []
    for (digest, name), (following, _) in zip(hashes, [*hashes[1:], hashes[0]], strict=True):
        words = " ".join(dns.rdatatype.to_text(t) for t in sorted(full[name]))
        rdata = dns.rdata.from_text(
            "IN", "NSEC3", f"1 {int(params.opt_out)} {params.iterations} {params.salt or '-'} {following} {words}"
        )
        sets.append(_single(dns.name.from_text(digest.lower(), apex), minimum, rdata))
    return sets


def spoiled(rrsig: bytes, number: int = 1) -> bytes:
    """The RRSIG rdata `rrsig` with a wrong signature; `number`, 1 to 65,535, selects one of many wrong ones.

    The last octets are changed. Fixed ones in their place would sometimes be right, because keys are new in each run.
    """
    return rrsig[:-2] + (int.from_bytes(rrsig[-2:]) ^ number).to_bytes(2)
