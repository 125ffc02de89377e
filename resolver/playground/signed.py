"""The signed zones of the playground: how they are signed, their faults, and the expected results.

This module has only data, like world_tables.py. Each query has the answer of a validating resolver with the trust
anchor of the playground: response code, verdict and, for bogus data, the extended error (RFC 8914). A zone below
dnssec.playground is either sound or has exactly the fault that its description names.
"""

from dataclasses import dataclass, replace

from resolver.playground import faults, world_tables
from resolver.playground.signing import DAY, KeySpec, Nsec3, Plan
from resolver.playground.world import World
from resolver.playground.world_tables import ServerSpec, TestQuestion, ZoneSpec
from resolver.verdict import Verdict
from resolver.wire import consts as c

__all__ = ["PLANS", "SERVERS", "SPECIALS", "ZONES", "ZoneCase", "signed_world"]

HOME = "dnssec.playground."
CHILDREN = ("ns.children.dnssec.playground.",)
GRANDCHILDREN = ("ns.grandchildren.dnssec.playground.",)
SERVERS: dict[str, ServerSpec] = {
    "ns.dnssec.playground.": ServerSpec("127.20.30.1"),
    "ns.children.dnssec.playground.": ServerSpec("127.20.30.2"),
    "ns.grandchildren.dnssec.playground.": ServerSpec("127.20.30.3"),
}

RIGHT = Plan()
SECURE, INSECURE, BOGUS = Verdict.SECURE, Verdict.INSECURE, Verdict.BOGUS
TEXT = "aaa A 198.18.20.1\nwww A 198.18.20.2\n"
RICH = """
aaa     A   198.18.20.1
www     A   198.18.20.2
        TXT "Two types: a question for a third is NODATA."
alias   CNAME www
dangle  CNAME nothing-here
*.wild  A   198.18.20.3
*.cwild CNAME www
beside.wild TXT "A name next to the wildcard."
a.ent   A   198.18.20.4
old     DNAME new
www.new A   198.18.20.5
"""
KSK, ZSK = KeySpec(), KeySpec(flags=256, label="zsk")
HASHED = Nsec3()


@dataclass(frozen=True, slots=True)
class ZoneCase:
    """A zone below dnssec.playground. `asked` is (label, type, response code, verdict, extended error, remark)."""

    label: str
    about: str
    asked: tuple[tuple[str, str, str, Verdict, int | None, str], ...]
    plan: Plan | None = RIGHT
    text: str = TEXT
    servers: tuple[str, ...] = CHILDREN

    @property
    def origin(self) -> str:
        """The zone's name."""
        return f"{self.label}.{HOME}"


def _sound(label: str, about: str, plan: Plan) -> ZoneCase:
    asked = (
        ("www", "A", "NOERROR", SECURE, None, ""),
        ("missing", "A", "NXDOMAIN", SECURE, None, "no such name"),
        ("www", "AAAA", "NOERROR", SECURE, None, "no such type"),
    )
    return ZoneCase(label, about, asked, plan)


def _rich(label: str, about: str, nsec3: Nsec3 | None) -> ZoneCase:
    asked = (
        ("www", "A", "NOERROR", SECURE, None, ""),
        ("missing", "A", "NXDOMAIN", SECURE, None, "no such name"),
        ("a.b.missing", "A", "NXDOMAIN", SECURE, None, "no such name, three labels deep"),
        ("www", "AAAA", "NOERROR", SECURE, None, "no such type"),
        ("ent", "A", "NOERROR", SECURE, None, "an empty non-terminal"),
        ("alias", "A", "NOERROR", SECURE, None, "an alias"),
        ("dangle", "A", "NXDOMAIN", SECURE, None, "an alias to a name that does not exist"),
        ("x.wild", "A", "NOERROR", SECURE, None, "synthesised from a wildcard"),
        ("x.y.wild", "A", "NOERROR", SECURE, None, "synthesised from a wildcard, two labels"),
        ("x.wild", "MX", "NOERROR", SECURE, None, "no such type at the wildcard"),
        ("beside.wild", "A", "NOERROR", SECURE, None, "no such type next to the wildcard"),
        ("x.cwild", "A", "NOERROR", SECURE, None, "an alias synthesised from a wildcard"),
        ("www.old", "A", "NOERROR", SECURE, None, "renamed by DNAME"),
        ("nothing.old", "A", "NXDOMAIN", SECURE, None, "renamed to a name that does not exist"),
    )
    return ZoneCase(label, about, asked, Plan(nsec3=nsec3), RICH)


def _bogus(
    label: str,
    ede: int,
    about: str,
    *given: faults.Fault,
    ask: str = "www",
    qtype: str = "A",
    plan: Plan = RIGHT,
    text: str = TEXT,
) -> ZoneCase:
    return ZoneCase(label, about, ((ask, qtype, "SERVFAIL", BOGUS, ede, ""),), replace(plan, faults=given), text)


def _hashed(label: str, ede: int, about: str, *given: faults.Fault, ask: str = "missing", text: str = TEXT) -> ZoneCase:
    return _bogus(label, ede, about, *given, ask=ask, plan=Plan(nsec3=HASHED), text=text)


def _insecure(label: str, about: str, plan: Plan | None, ede: int | None = None) -> ZoneCase:
    return ZoneCase(label, about, (("www", "A", "NOERROR", INSECURE, ede, ""),), plan)


VALID = (
    _sound("rsasha1", "RSA with SHA-1, algorithm 5.", Plan((KeySpec(5),))),
    _sound("rsasha1-nsec3", "RSA with SHA-1, algorithm 7, NSEC3.", Plan((KeySpec(7),), HASHED)),
    _sound("rsasha256", "RSA with SHA-256, algorithm 8.", Plan((KeySpec(8),))),
    _sound("rsasha512", "RSA with SHA-512, algorithm 10.", Plan((KeySpec(10),))),
    _sound("ecdsap256", "ECDSA on P-256, algorithm 13.", Plan((KeySpec(13),))),
    _sound("ecdsap384", "ECDSA on P-384, algorithm 14.", Plan((KeySpec(14),))),
    _sound("ed25519", "Ed25519, algorithm 15.", Plan((KeySpec(15),))),
    _sound("ed448", "Ed448, algorithm 16.", Plan((KeySpec(16),))),
    _rich("nsec", "Everything that NSEC can prove.", None),
    _rich("nsec3", "Everything that NSEC3 can prove.", HASHED),
    _rich("nsec3-salt", "NSEC3 with salt and ten iterations.", Nsec3(10, b"\xab\xcd\xef\x01")),
    _sound("split", "A key-signing key and a zone-signing key.", Plan((KSK, ZSK))),
    _sound("only-ksk", "One key with the SEP flag signs everything.", Plan((KSK,))),
    _sound("rollover", "Two keys with two algorithms, both sign.", Plan((KSK, KeySpec(15, label="new")))),
    _sound("standby", "The DS RRset names a key that is not in the zone.", Plan(ds=faults.ds_other_key)),
    _sound(
        "prepublished", "The DNSKEY RRset has a key that signs nothing.", Plan((KSK, KeySpec(signs=False, label="n")))
    ),
    _sound("ds-sha1", "The DS has a SHA-1 digest.", Plan(ds=faults.ds_with(1))),
    _sound("ds-sha384", "The DS has a SHA-384 digest.", Plan(ds=faults.ds_with(4))),
    _sound("collision", "Another key shares the tag of the one that signs.", Plan(faults=(faults.collide(1),))),
    _sound(
        "one-algorithm",
        "The DS RRset names two algorithms, of which only one signs; RFC 6840 section 5.11 allows this.",
        Plan((KSK, KeySpec(15, label="idle")), faults=(faults.sign_all_with(""),)),
    ),
    ZoneCase(
        "signed-by-parent",
        "The keys of the parent have signed www; the parent may sign names below it, so this is accepted.",
        (("www", "A", "NOERROR", SECURE, None, ""),),
        Plan(faults=(faults.resign_by_parent("www", c.A),)),
    ),
    _sound(
        "ttl-raised",
        "The TTL of www is above the original TTL and is reduced to it.",
        Plan(faults=(faults.set_ttl("www", c.A, DAY),)),
    ),
)

CHAINS = (
    ZoneCase(
        "chains",
        "Aliases from a signed zone to others.",
        (
            ("far", "A", "NOERROR", SECURE, None, "through three signed zones, NSEC and NSEC3"),
            ("www.away", "A", "NOERROR", SECURE, None, "renamed by DNAME into another signed zone"),
            ("to-nothing", "A", "NXDOMAIN", SECURE, None, "to a name that does not exist in another signed zone"),
            ("to-insecure", "A", "NOERROR", INSECURE, None, "into a zone without signatures"),
            ("to-outside", "A", "NOERROR", INSECURE, None, "out of the signed part of the playground"),
            ("to-bogus", "A", "SERVFAIL", BOGUS, c.EDE_SIGNATURE_EXPIRED, "into a zone with expired signatures"),
        ),
        text="""
far         CNAME alias.nsec.dnssec.playground.
away        DNAME nsec3.dnssec.playground.
to-nothing  CNAME nothing.nsec3.dnssec.playground.
to-insecure CNAME www.insecure.dnssec.playground.
to-outside  CNAME www.example.playground.
to-bogus    CNAME www.expired.dnssec.playground.
""",
    ),
)

UNPROVED = (
    _insecure("insecure", "An ordinary delegation without DS.", None),
    _insecure("signed-no-ds", "Signed, but the parent has no DS: an island.", Plan(ds=lambda _zone, _keys: [])),
    _insecure("ds-algorithm", "The DS names an unknown algorithm.", Plan(ds=faults.ds_unknown(200)), 1),
    _insecure("ds-dsa", "The DS names DSA, which validators no longer support.", Plan(ds=faults.ds_unknown(3)), 1),
    _insecure("ds-digest", "The DS has an unknown digest type.", Plan(ds=faults.ds_digest(200)), 2),
    ZoneCase(
        "optout",
        "NSEC3 with opt-out.",
        (
            ("www", "A", "NOERROR", SECURE, None, "opt-out does not affect existing names"),
            ("www", "AAAA", "NOERROR", SECURE, None, "no such type, proved by the record of the name"),
            ("missing", "A", "NXDOMAIN", INSECURE, None, "no such name, but an unsigned delegation could be there"),
            ("x.wild", "A", "NOERROR", INSECURE, None, "synthesised from a wildcard: no AD (RFC 5155 section 9.2)"),
        ),
        Plan(nsec3=Nsec3(opt_out=True)),
        "www A 198.18.20.2\n*.wild A 198.18.20.3\n",
    ),
    ZoneCase(
        "plain.optout",
        "A delegation without DS that opt-out omits from the chain.",
        (("www", "A", "NOERROR", INSECURE, None, ""), ("", "DS", "NOERROR", INSECURE, None, "no DS, by opt-out")),
        None,
        servers=GRANDCHILDREN,
    ),
    ZoneCase(
        "signed.optout",
        "A signed delegation in a zone with opt-out.",
        (("www", "A", "NOERROR", SECURE, None, ""),),
        servers=GRANDCHILDREN,
    ),
    ZoneCase(
        "iterations",
        "NSEC3 with 500 iterations: existing names are secure, denials are insecure (RFC 9276).",
        (
            ("www", "A", "NOERROR", SECURE, None, ""),
            ("missing", "A", "NXDOMAIN", INSECURE, c.EDE_UNSUPPORTED_NSEC3_ITERATIONS, ""),
            ("www", "AAAA", "NOERROR", INSECURE, c.EDE_UNSUPPORTED_NSEC3_ITERATIONS, ""),
        ),
        Plan(nsec3=Nsec3(500)),
    ),
)

ADDRESS_LIE = bytes((198, 18, 66, 66))
BOGUS_ZONES = (
    _bogus("expired", 7, "All signatures have expired.", plan=Plan(begins=-30 * DAY, ends=-2 * DAY)),
    _bogus("future", 8, "No signature is valid yet.", plan=Plan(begins=2 * DAY, ends=30 * DAY)),
    _bogus(
        "expired-one", 7, "The signature of www has expired.", faults.resign("www", c.A, begins=-9 * DAY, ends=-DAY)
    ),
    _bogus("future-one", 8, "The signature of www is not valid yet.", faults.resign("www", c.A, begins=2 * DAY)),
    _bogus(
        "reversed",
        25,
        "The signature of www ends before it begins.",
        faults.resign("www", c.A, begins=9 * DAY, ends=-DAY),
    ),
    _bogus("wrong-signature", 6, "The signature of www is wrong.", faults.corrupt("www", c.A)),
    _bogus(
        "tampered", 6, "The address of www was changed after signing.", faults.replace_rdata("www", c.A, ADDRESS_LIE)
    ),
    _bogus(
        "original-ttl",
        6,
        "The original TTL in the signature of www was changed.",
        faults.alter_signature("www", c.A, faults.TTL_AT, b"\0\1\0\0"),
    ),
    _bogus("no-signature", 10, "The signature of www is missing.", faults.unsign("www", c.A)),
    _bogus(
        "no-signatures",
        10,
        "All signatures but that of the keys are missing.",
        faults.unsign_all(c.A, c.NS, c.SOA, c.TXT, c.NSEC),
    ),
    _bogus(
        "wrong-algorithm",
        9,
        "The signature of www states an algorithm without a key.",
        faults.alter_signature("www", c.A, faults.ALGORITHM_AT, b"\x0f"),
    ),
    _bogus(
        "wrong-tag",
        9,
        "The signature of www names a key that is not in the zone.",
        faults.alter_signature("www", c.A, faults.TAG_AT, b"\0\1"),
    ),
    _bogus(
        "wrong-signer",
        6,
        "The signature of www names a sibling zone as signer.",
        faults.resign_as("www", c.A, "nsec.dnssec.playground."),
    ),
    _bogus(
        "labels-more", 6, "The signature of www states more labels than www has.", faults.resign("www", c.A, labels=5)
    ),
    _bogus(
        "labels-fewer",
        6,
        "The signature of www states fewer labels than the signer.",
        faults.resign("www", c.A, labels=2),
    ),
    _bogus(
        "fake-wildcard",
        12,
        "The signature of www claims synthesis from a wildcard, without proof.",
        faults.resign("www", c.A, labels=3),
    ),
    _bogus("no-dnskey", 9, "Signed, but there is no DNSKEY RRset.", faults.forget("", c.DNSKEY)),
    _bogus("dnskey-unsigned", 10, "The keys are not signed.", faults.unsign("", c.DNSKEY)),
    _bogus("dnskey-spoilt", 6, "The signature of the keys is wrong.", faults.corrupt("", c.DNSKEY)),
    _bogus(
        "dnskey-expired",
        7,
        "The signature of the keys has expired.",
        faults.resign("", c.DNSKEY, begins=-9 * DAY, ends=-DAY),
    ),
    _bogus(
        "dnskey-by-zsk",
        10,
        "The DNSKEY RRset is signed, but not by the key that the DS names.",
        faults.sign_with("", c.DNSKEY, "zsk"),
        plan=Plan((KSK, ZSK)),
    ),
    _bogus(
        "zsk-missing",
        9,
        "The data are signed by a key that is not in the DNSKEY RRset.",
        plan=Plan((KSK, replace(ZSK, published=False))),
    ),
    _bogus("revoked", 9, "The only key is revoked (RFC 5011).", plan=Plan((KeySpec(flags=0x181),))),
    _bogus("no-zone-key", 11, "The only key has no zone-key bit.", plan=Plan((KeySpec(flags=0x001),))),
    _bogus("protocol", 11, "The only key is not for protocol 3.", plan=Plan((KeySpec(protocol=1),))),
    _bogus(
        "keytrap",
        6,
        "Twelve wrong signatures by a tag that nine keys share (CVE-2023-50387).",
        faults.collide(8, junk="www"),
    ),
    _bogus("ds-mismatch", 9, "The digest in the DS is that of another key.", plan=Plan(ds=faults.ds_spoilt)),
    _bogus("ds-tag", 9, "The DS names a tag that no key has.", plan=Plan(ds=faults.ds_tag)),
    _bogus("ds-known-algorithm", 9, "The DS names Ed25519, the key is for ECDSA.", plan=Plan(ds=faults.ds_unknown(15))),
    _bogus(
        "ds-downgrade",
        9,
        "The SHA-256 digest is wrong, the SHA-1 digest right (RFC 4509).",
        plan=Plan(ds=faults.ds_downgrade),
    ),
    ZoneCase(
        "ds-unsigned-zone",
        "There is a DS, but the zone is not signed.",
        (("www", "A", "SERVFAIL", BOGUS, c.EDE_DNSKEY_MISSING, ""),),
        Plan(faults=(faults.strip,)),
    ),
    _bogus(
        "nsec-missing",
        12,
        "The NSEC record that covers the name is missing.",
        faults.forget("aaa", c.NSEC),
        ask="missing",
    ),
    _bogus("nsec-span", 12, "The NSEC record ends too early.", faults.nsec_next("aaa", "bbb"), ask="missing"),
    _bogus(
        "nsec-bitmap",
        12,
        "The NSEC record says that the type exists.",
        faults.nsec_bitmap("www", (c.A, c.AAAA, c.RRSIG, c.NSEC)),
        qtype="AAAA",
    ),
    _bogus(
        "nsec-cname",
        12,
        "The NSEC record says that the name is an alias.",
        faults.nsec_bitmap("www", (c.A, c.CNAME, c.RRSIG, c.NSEC)),
        qtype="AAAA",
    ),
    _bogus(
        "nsec-delegation",
        12,
        "The NSEC record is that of a delegation.",
        faults.nsec_bitmap("www", (c.NS, c.RRSIG, c.NSEC)),
        qtype="AAAA",
    ),
    _bogus(
        "nsec-unsigned",
        12,
        "No NSEC record is signed.",
        faults.unsign_all(c.NSEC),
        ask="missing",
    ),
    _bogus("nsec-spoilt", 6, "The signature of the NSEC record is wrong.", faults.corrupt("www", c.NSEC), qtype="AAAA"),
    _bogus("nsec-no-star", 12, "There is no proof that no wildcard exists.", faults.forget("", c.NSEC), ask="bbb"),
    _bogus("stripped", 12, "The zone has no NSEC records at all.", faults.forget_all(c.NSEC), ask="missing"),
    _bogus(
        "soa-spoilt", 6, "The signature of the SOA of a denial is wrong.", faults.corrupt("", c.SOA), ask="missing"
    ),
    _bogus(
        "wildcard-unproved",
        12,
        "Synthesised from a wildcard, without proof that no closer name exists.",
        faults.forget("*.wild", c.NSEC),
        ask="x.wild",
        text="*.wild A 198.18.20.3\n",
    ),
    _bogus(
        "wildcard-shadowed",
        12,
        "Synthesised from a wildcard, and the NSEC record does not cover the name.",
        faults.nsec_next("*.wild", "b.wild"),
        ask="x.wild",
        text="*.wild A 198.18.20.3\n",
    ),
    _hashed("nsec3-no-encloser", 12, "The NSEC3 record of the closest encloser is missing.", faults.nsec3_forget("")),
    _hashed(
        "nsec3-no-cover",
        12,
        "The NSEC3 record that covers the next closer name is missing.",
        faults.nsec3_forget("missing", covering=True),
    ),
    _hashed("nsec3-wrong-hash", 12, "The NSEC3 records have wrong owner hashes.", faults.nsec3_rehash),
    _hashed("nsec3-unsigned", 12, "No NSEC3 record is signed.", faults.nsec3_unsign),
    _hashed("nsec3-spoilt", 6, "The signatures of the NSEC3 records are wrong.", faults.nsec3_spoil),
    _hashed(
        "nsec3-wildcard-unproved",
        12,
        "Synthesised from a wildcard, without the NSEC3 record for the next closer name.",
        faults.nsec3_forget("x.wild", covering=True),
        ask="x.wild",
        text="*.wild A 198.18.20.3\n",
    ),
    _bogus(
        "nsec3-bitmap",
        12,
        "The NSEC3 record says that the type exists.",
        faults.nsec3_bitmap("www", (c.A, c.AAAA, c.RRSIG)),
        qtype="AAAA",
        plan=Plan(nsec3=HASHED),
    ),
    _bogus(
        "nsec3-algorithm",
        12,
        "The NSEC3 records use an unknown hash algorithm.",
        ask="missing",
        plan=Plan(nsec3=Nsec3(algorithm=2)),
    ),
    _bogus(
        "nsec3-flags",
        12,
        "The NSEC3 records have an unknown flag.",
        ask="missing",
        plan=Plan(nsec3=Nsec3(flags=0x80)),
    ),
    _bogus(
        "cname-unsigned",
        10,
        "An alias without a signature.",
        faults.unsign("alias", c.CNAME),
        ask="alias",
        text="alias CNAME www\nwww A 198.18.20.2\n",
    ),
    _bogus(
        "dname-unsigned",
        10,
        "A DNAME without a signature.",
        faults.unsign("old", c.DNAME),
        ask="www.old",
        text="old DNAME new\nwww.new A 198.18.20.5\n",
    ),
)

FAMILY = (
    ZoneCase(
        "family",
        "A sound zone with broken delegations.",
        (("www", "A", "NOERROR", SECURE, None, ""),),
        Plan(
            faults=(
                faults.corrupt("ds-spoilt", c.DS),
                faults.unsign("ds-unsigned", c.DS),
                faults.unsign("unproved", c.NSEC),
                faults.nsec_bitmap("claims-ds", (c.NS, c.DS, c.RRSIG, c.NSEC)),
            )
        ),
    ),
    ZoneCase(
        "ds-spoilt.family",
        "The signature of the DS is wrong.",
        (("www", "A", "SERVFAIL", BOGUS, 6, ""),),
        servers=GRANDCHILDREN,
    ),
    ZoneCase(
        "ds-unsigned.family", "The DS is not signed.", (("www", "A", "SERVFAIL", BOGUS, 10, ""),), servers=GRANDCHILDREN
    ),
    ZoneCase(
        "unproved.family",
        "No DS, and no proof of its absence.",
        (("www", "A", "SERVFAIL", BOGUS, 12, ""),),
        None,
        servers=GRANDCHILDREN,
    ),
    ZoneCase(
        "claims-ds.family",
        "No DS, but the NSEC record says that there is one.",
        (("www", "A", "SERVFAIL", BOGUS, 12, ""),),
        None,
        servers=GRANDCHILDREN,
    ),
)

CASES = (*VALID, *CHAINS, *UNPROVED, *BOGUS_ZONES, *FAMILY)

ZONES: dict[str, ZoneSpec] = {
    **world_tables.ZONES,
    HOME: ZoneSpec(("ns.dnssec.playground.",), "The parent of signed zones, sound and broken.", "www A 198.18.20.9\n"),
    **{case.origin: ZoneSpec(case.servers, case.about, case.text) for case in CASES},
}

PLANS: dict[str, Plan] = {
    ".": Plan((KeySpec(8), KeySpec(8, 256, label="zsk"))),
    "arpa.": Plan(),
    "com.": Plan(nsec3=Nsec3(opt_out=True)),
    "net.": Plan(nsec3=Nsec3(opt_out=True)),
    "org.": Plan((KSK, ZSK), Nsec3(salt=b"\x0f\xf1")),
    "playground.": Plan((KeySpec(15),)),
    "about.playground.": Plan(),
    HOME: Plan(),
    **{case.origin: case.plan for case in CASES if case.plan is not None},
}

SPECIALS: tuple[TestQuestion, ...] = (
    *world_tables.SPECIALS,
    TestQuestion("missing-tld.", "A", "NXDOMAIN", "No such top-level domain.", SECURE),
    TestQuestion("www.dnssec.playground.", "A", "NOERROR", "Signed.", SECURE),
    *(
        TestQuestion(
            f"{label}.{case.origin}" if label else case.origin,
            qtype,
            rcode,
            f"{case.about.rstrip('.')}: {remark}." if remark else case.about,
            verdict,
            ede,
        )
        for case in CASES
        for label, qtype, rcode, verdict, ede, remark in case.asked
    ),
)


def signed_world(now: int) -> World:
    """The playground, signed at `now` (seconds since 1970)."""
    return World(ZONES, {**world_tables.SERVERS, **SERVERS}, SPECIALS, plans=PLANS, now=now)
