"""The examples printed in RFCs: keys, signed sets, DS records and whole replies, as data.

RFC 4035 appendices A and B and RFC 5155 appendices A and B are one zone each, validated at a time when their signatures
were valid (2004, and 2005 to 2015). RFC 5702, 6605 and 8080 (with its verified errata 4935) have one set for each
algorithm. Lines are owner, type and rdata; each TTL of these examples is 3600.
"""

from typing import NamedTuple

from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.rrset import RRset

__all__ = ["DIGESTS", "RFC4035", "RFC5155", "SIGNATURES", "Digest", "Example", "Reply", "Signature", "sets"]

TTL = 3600


def sets(text: str) -> list[RRset]:
    """Record sets of lines, each with its signatures."""
    found: dict[tuple[bytes, int], tuple[list[bytes], list[bytes]]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        owner, rtype, rdata = line.split(None, 2)
        name, number = names.from_text(owner), c.type_from_text(rtype)
        wire = present.rdata_from_text(number, rdata)
        if number == c.RRSIG:
            found.setdefault((name, int.from_bytes(wire[:2], "big")), ([], []))[1].append(wire)
        else:
            found.setdefault((name, number), ([], []))[0].append(wire)
    return [RRset(name, rtype, TTL, rdatas, sigs=sigs) for (name, rtype), (rdatas, sigs) in found.items()]


class Reply(NamedTuple):
    """Response code and sections of one reply."""

    rcode: int
    answer: str = ""
    authority: str = ""
    additional: str = ""


class Example(NamedTuple):
    """A zone's anchor, the moment at which it is looked at, replies by name and type, and referrals by delegation."""

    anchor: str
    now: int
    replies: dict[tuple[str, str], Reply]
    referrals: dict[str, Reply]


class Signature(NamedTuple):
    """One set with one signature and the key that made it."""

    title: str
    zone: str
    key: str
    records: str


class Digest(NamedTuple):
    """A key and the DS record of it."""

    title: str
    zone: str
    key: str
    ds: str


# --- RFC 4035 -------------------------------------------------------------------------------------------------------

_KSK = (
    "257 3 5 AQOeX7+baTmvpVHb2CcLnL1dMRWbuscRvHXlLnXwDzvqp4tZVKp1sZMepFb8MvxhhW3y/0QZsyCjczGJ1qk8vJe52iOhInKROVLRwxGp"
    "MfzPRLMlGybr51bOV/1se0ODacj3DomyB4QB5gKTYot/K9alk5/j8vfd4jWCWD+E1Sze0Q=="
)
_ZSK = (
    "256 3 5 AQOy1bZVvpPqhg4j7EJoM9rI3ZmyEx2OzDBVrZy/lvI5CQePxXHZS4i8dANH4DX3tbHol61ek8EFMcsGXxKciJFHyhl94C+NwILQdzsU"
    "lSFovBZsyl/NX6yEbtw/xN9ZNcrbYvgjjZ/UVPZIySFNsgEYvh0z2542lzMKR4Dh8uZffQ=="
)
_SIGNED = "20040509183619 20040409183619 38519 example."
_KEYS = f"""
example. DNSKEY {_ZSK}
example. DNSKEY {_KSK}
example. RRSIG DNSKEY 5 1 3600 20040509183619 20040409183619 9465 example. ZxgauAuIj+k1YoVEOSlZfx41fcmKzTFHoweZxYnz99\
JVQZJ33wFS0Q0jcP7VXKkaElXk9nYJXevO/7nAbo88iWsMkSpSR6jWzYYKwfrBI/L9hjYmyVO9m6FjQ7uwM4dCP/bIuV/DKqOAK9NYNC3AHfvCV1Tp4VK\
DqxqG7R5tTVM=
example. RRSIG DNSKEY 5 1 3600 {_SIGNED} eGL0s90glUqcOmloo/2y+bSzyEfKVOQViD9ZDNhLz/Yn9CQZlDVRJffACQDAUhXpU/oP34ribKBp\
ysRXosczFrKqS5Oa0bzMOfXCXup9qHApeFIku28Vqfr8Nt7cigZLxjK+u0Ws/4lIRjKk7z5OXogYVaFzHKillDt3HRxHIZM=
"""
_SOA = f"""
example. SOA ns1.example. bugs.x.w.example. 1081539377 3600 300 3600000 3600
example. RRSIG SOA 5 1 3600 {_SIGNED} ONx0k36rcjaxYtcNgq6iQnpNV5+drqYAsC9h7TSJaHCqbhE67Sr6aH2xDUGcqQWu/n0UVzrFvkgO9eb\
arZ0GWDKcuwlM6eNB5SiX2K74l5LWDA7S/Un/IbtDq4Ay8NMNLQI7Dw7n4p8/rjkBjV7j86HyQgM5e7+miRAz8V01b0I=
"""
_APEX_NSEC = f"""
example. NSEC a.example. NS SOA MX RRSIG NSEC DNSKEY
example. RRSIG NSEC 5 1 3600 {_SIGNED} O0k558jHhyrC97ISHnislm4kLMW48C7U7cBmFTfhke5iVqNRVTB1STLMpgpbDIC9hcryoO0VZ9ME5x\
PzUEhbvGnHd5sfzgFVeGxr5Nyyq4tWSDBgIBiLQUv1ivy29vhXy7WgR62dPrZ0PWvmjfFJ5arXf4nPxp/kEowGgBRzY/U=
"""
_B_NSEC = f"""
b.example. NSEC ns1.example. NS RRSIG NSEC
b.example. RRSIG NSEC 5 2 3600 {_SIGNED} GNuxHn844wfmUhPzGWKJCPY5ttEX/RfjDoOx9ueK1PtYkOWKOOdiJ/PJKCYB3hYX+858dDWSxb2q\
nV/LSTCNVBnkm6owOpysY97MVj5VQEWs0lm9tFoqjcptQkmQKYPrwUnCSNwvvclSF1xZvhRXgWT7OuFXldoCG6TfVFMs9xE=
"""
_NS1_NSEC = f"""
ns1.example. NSEC ns2.example. A RRSIG NSEC
ns1.example. RRSIG NSEC 5 2 3600 {_SIGNED} I4hj+Kt6+8rCcHcUdolks2S+Wzri9h3fHas81rGN/eILdJHN7JpV6lLGPIh/8fIBkfvdyWnBjj\
f1q3O7JgYO1UdI7FvBNWqaaEPJK3UkddBqZIaLi8Qr2XHkjq38BeQsbp8X0+6h4ETWSGT8IZaIGBLryQWGLw6Y6X8dqhlnxJM=
"""
_XYW_NSEC = f"""
x.y.w.example. NSEC xx.example. MX RRSIG NSEC
x.y.w.example. RRSIG NSEC 5 4 3600 {_SIGNED} OvE6WUzN2ziieJcvKPWbCAyXyP6ef8cr6CspArVSTzKSquNwbezZmkU7E34o5lmb6CWSSSpg\
xw098kNUFnHcQf/LzY2zqRomubrNQhJTiDTXa0ArunJQCzPjOYq5t0SLjm6qp6McJI1AP5VrQoKqJDCLnoAlcPOPKAm/jJkn3jk=
"""
_STAR_NSEC = f"""
*.w.example. NSEC x.w.example. MX RRSIG NSEC
*.w.example. RRSIG NSEC 5 2 3600 {_SIGNED} r/mZnRC3I/VIcrelgIcteSxDhtsdlTDt8ng9HSBlABOlzLxQtfgTnn8f+aOwJIAFe1Ee5RvU5c\
VhQJNP5XpXMJHfyps8tVvfxSAXfahpYqtx91gsmcV/1V9/bZAG55CefP9cM4Z9Y9NT9XQ8s1InQ2UoIv6tJEaaKkP701j8OLA=
"""
_WILD_MX = f"""
a.z.w.example. MX 1 ai.example.
a.z.w.example. RRSIG MX 5 2 3600 {_SIGNED} OMK8rAZlepfzLWW75Dxd63jy2wswESzxDKG2f9AMN1CytCd10cYISAxfAdvXSZ7xujKAtPbctv\
OQ2ofO7AZJ+d01EeeQTVBPq4/6KCWhqe2XTjnkVLNvvhnc0u28aoSsG0+4InvkkOHknKxw4kX18MMR34i8lC36SR5xBni8vHI=
"""
_AI_AAAA = f"""
ai.example. AAAA 2001:db8::f00:baa9
ai.example. RRSIG AAAA 5 2 3600 {_SIGNED} nLcpFuXdT35AcE+EoafOUkl69KB+/e56XmFKkewXG2IadYLKAOBIoR5+VoQV3XgTcofTJNsh1rn\
F6Eav2zpZB3byI6yo2bwY8MNkr4A7cL9TcMmDwV/hWFKsbGBsj8xSCN/caEL2CWY/5XP2sZM6QjBBLmukH30+w1z3h8PUP2o=
"""
_AI_A = f"""
ai.example. A 192.0.2.9
ai.example. RRSIG A 5 2 3600 {_SIGNED} pAOtzLP2MU0tDJUwHOKE5FPIIHmdYsCgTb5BERGgpnJluA9ixOyf6xxVCgrEJW0WNZSsJicdhBHXfD\
mAGKUajUUlYSAH8tS4ZnrhyymIvk3uArDu2wfT130e9UHnumaHHMpUTosKe22PblOy6zrTpg9FkS0XGVmYRvOTNYx2HvQ=
"""
_XW_MX = f"""
x.w.example. MX 1 xx.example.
x.w.example. RRSIG MX 5 3 3600 {_SIGNED} Il2WTZ+Bkv+OytBx4LItNW5mjB4RCwhOO8y1XzPHZmZUTVYL7LaA63f6T9ysVBzJRI3KRjAPH3U1\
qaYnDoN1DrWqmi9RJe4FoObkbcdm7P3Ikx70ePCoFgRz1Yq+bVVXCvGuAU4xALv3W/Y1jNSlwZ2mSWKHfxFQxPtLj8s32+k=
"""
_XX_A = f"""
xx.example. A 192.0.2.10
xx.example. RRSIG A 5 2 3600 {_SIGNED} kBF4YxMGWF0D8r0cztL+2fWWOvN1U/GYSpYP7SoKoNQ4fZKyk+weWGlKLIUM+uE1zjVTPXoa0Z6WG0oZ\
p46rkl1EzMcdMgoaeUzzAJ2BMq+YVdxG9IK1yZkYGY9AgbTOGPoAgbJyO9EPULsxkbIDV6GPPSZVusnZU6OMgdgzHV4=
"""
_XX_AAAA = f"""
xx.example. AAAA 2001:db8::f00:baaa
xx.example. RRSIG AAAA 5 2 3600 {_SIGNED} Zzj0yodDxcBLnnOIwDsuKo5WqiaK24DlKg9CaGaxDFiKgKobUj2jilYQHpGFn2poFRetZd4zuly\
Qkssz2QHrVrPuTMS22knudCiwP4LWpVTrU4zfeA+rDz9stmSBP/4PekH/x2IoAYnwctd/xS9cL2QgW7FChw16mzlkH6/vsfs=
"""
_NS1_A = f"""
ns1.example. A 192.0.2.1
ns1.example. RRSIG A 5 2 3600 {_SIGNED} F1C9HVhIcs10cZU09G5yIVfKJy5yRQQ3qVet5pGhp82pzhAOMZ3K22JnmK4c+IjUeFp/to06im5FV\
pHtbFisdjyPq84bhTv8vrXt5AB1wNB++iAqvIfdgW4sFNC6oADb1hK8QNauw9VePJhKv/iVXSYC0b7mPSU+EOlknFpVECs=
"""
_NS2_A = f"""
ns2.example. A 192.0.2.2
ns2.example. RRSIG A 5 2 3600 {_SIGNED} V7cQRw1TR+knlaL1z/psxlS1PcD37JJDaCMqQo6/u1qFQu6x+wuDHRH22Ap9ulJPQjFwMKOuyfPGQ\
PC8KzGdE3vt5snFEAoE1Vn3mQqtu7SO6amIjk13Kj/jyJ4nGmdRIc/3cM3ipXFhNTKqrdhx8SZ0yy4ObIRzIzvBFLiSS8o=
"""
_A_DS = f"""
a.example. DS 57855 5 1 B6DCD485719ADCA18E5F3D48A2331627FDD3636B
a.example. RRSIG DS 5 2 3600 {_SIGNED} oXIKit/QtdG64J/CB+Gi8dOvnwRvqrto1AdQoRkAN15FP3iZ7suB7gvTBmXzCjL7XUgQVcoHkdhyCuzp\
8W9qJHgRUSwKKkczSyuL64nhgjuDEML8l9wlWVsl7PR2VnZduM9bLyBhaaPmRKX/Fm+v6ccF2EGNLRiY08kdkz+XHHo=
"""
_NS = f"""
example. NS ns1.example.
example. NS ns2.example.
example. RRSIG NS 5 1 3600 {_SIGNED} gl13F00f2U0R+SWiXXLHwsMY+qStYy5k6zfdEuivWc+wd1fmbNCyql0Tk7lHTX6UOxc8AgNf4ISFve8X\
qF4q+o9qlnqIzmppU3LiNeKT4FZ8RO5urFOvoMRTbQxW3U0hXWuggE4g3ZpsHv480HjMeRaZB/FRPGfJPajngcq6Kwg=
"""


def _referral(label: str) -> str:
    return f"{label}.example. NS ns1.{label}.example.\n{label}.example. NS ns2.{label}.example.\n"


def _glue(label: str, last: int) -> str:
    return f"ns1.{label}.example. A 192.0.2.{last}\nns2.{label}.example. A 192.0.2.{last + 1}\n"


RFC4035 = Example(
    f"example. IN DNSKEY {_KSK}",
    1_082_419_200,  # 2004-04-20
    {
        ("example.", "DNSKEY"): Reply(c.NOERROR, _KEYS),
        ("ai.example.", "A"): Reply(c.NOERROR, _AI_A),
        ("ai.example.", "AAAA"): Reply(c.NOERROR, _AI_AAAA),
        ("example.", "NS"): Reply(c.NOERROR, _NS),
        ("x.w.example.", "MX"): Reply(c.NOERROR, _XW_MX, _NS, _XX_A + _XX_AAAA + _NS1_A + _NS2_A),
        ("xx.example.", "A"): Reply(c.NOERROR, _XX_A),
        ("xx.example.", "AAAA"): Reply(c.NOERROR, _XX_AAAA),
        ("ns1.example.", "A"): Reply(c.NOERROR, _NS1_A),
        ("ns2.example.", "A"): Reply(c.NOERROR, _NS2_A),
        ("a.example.", "DS"): Reply(c.NOERROR, _A_DS),
        ("mc.a.example.", "MX"): Reply(c.NOERROR, "mc.a.example. MX 1 mx.a.example."),
        ("ml.example.", "A"): Reply(c.NXDOMAIN, "", _SOA + _B_NSEC + _APEX_NSEC),
        ("ns1.example.", "MX"): Reply(c.NOERROR, "", _SOA + _NS1_NSEC),
        ("b.example.", "DS"): Reply(c.NOERROR, "", _SOA + _B_NSEC),
        ("mc.b.example.", "MX"): Reply(c.NOERROR, "mc.b.example. MX 1 mx.b.example."),
        ("a.z.w.example.", "MX"): Reply(c.NOERROR, _WILD_MX, _NS + _XYW_NSEC, _AI_A + _AI_AAAA),
        ("a.z.w.example.", "AAAA"): Reply(c.NOERROR, "", _SOA + _XYW_NSEC + _STAR_NSEC),
        ("example.", "DS"): Reply(c.NOERROR, "", _SOA + _APEX_NSEC),
    },
    {
        "a.example.": Reply(c.NOERROR, "", _referral("a") + _A_DS, _glue("a", 5)),
        "b.example.": Reply(c.NOERROR, "", _referral("b") + _B_NSEC, _glue("b", 7)),
    },
)

# --- RFC 5155 -------------------------------------------------------------------------------------------------------

_KSK3 = "257 3 7 AwEAAcUlFV1vhmqx6NSOUOq2R/dsR7Xm3upJj7IommWSpJABVfW8Q0rOvXdM6kzt+TAu92L9AbsUdblMFin8CVF3n4s="
_SIGNED3 = "20150420235959 20051021000000 40430 example."
_KEYS3 = f"""
example. DNSKEY 256 3 7 AwEAAaetidLzsKWUt4swWR8yu0wPHPiUi8LUsAD0QPWU+wzt89epO6tHzkMBVDkC7qphQO2hTY4hHn9npWFRw5BYubE=
example. DNSKEY {_KSK3}
example. RRSIG DNSKEY 7 1 3600 20150420235959 20051021000000 12708 example. AuU4juU9RaxescSmStrQks3Gh9FblGBlVU31uzMZ/\
U/FpsUb8aC6QZS+sTsJXnLnz7flGOsmMGQZf3bH+QsCtg==
"""
_SOA3 = f"""
example. SOA ns1.example. bugs.x.w.example. 1 3600 300 3600000 3600
example. RRSIG SOA 7 1 3600 {_SIGNED3} Hu25UIyNPmvPIVBrldN+9Mlp9Zql39qaUd8iq4ZLlYWfUUbbAS41pG+68z81q1xhkYAcEyHdVI2LmK\
usbZsT0Q==
"""


def _nsec3(owner: str, following: str, types: str, signature: str) -> str:
    return (
        f"{owner}.example. NSEC3 1 1 12 aabbccdd {following} {types}\n"
        f"{owner}.example. RRSIG NSEC3 7 2 3600 {_SIGNED3} {signature}\n"
    )


_H_APEX = _nsec3(
    "0p9mhaveqvm6t7vbl5lop2u3t2rp3tom", "2t7b4g4vsa5smi47k61mv5bv1a22bojr", "NS SOA MX RRSIG DNSKEY NSEC3PARAM",
    "OSgWSm26B+cS+dDL8b5QrWr/dEWhtCsKlwKLIBHYH6blRxK9rC0bMJPwQ4mLIuw85H2EY762BOCXJZMnpuwhpA==",
)  # fmt: skip
_H_XW = _nsec3(
    "b4um86eghhds6nea196smvmlo4ors995", "gjeqe526plbf1g8mklp59enfd789njgi", "MX RRSIG",
    "ZkPG3M32lmoHM6pa3D6gZFGB/rhL//Bs3Omh5u4m/CUiwtblEVOaAKKZd7S959OeiX43aLX3pOv0TSTyiTxIZg==",
)  # fmt: skip
_H_A = _nsec3(
    "35mthgpgcu1qg68fab165klnsnk3dpvl", "b4um86eghhds6nea196smvmlo4ors995", "NS DS RRSIG",
    "g6jPUUpduAJKRljUsN8gB4UagAX0NxY9shwQAynzo8EUWH+z6hEIBlUTPGj15eZll6VhQqgZXtAIR3chwgW+SA==",
)  # fmt: skip
_H_NS1 = _nsec3(
    "2t7b4g4vsa5smi47k61mv5bv1a22bojr", "2vptu5timamqttgl4luu9kg21e0aor3s", "A RRSIG",
    "OmBvJ1Vgg1hCKMXHFiNeIYHK9XVW0iLDLwJN4TFoNxZuP03gAXEI634YwOc4YBNITrj413iqNI6mRk/r1dOSUw==",
)  # fmt: skip
_H_YW = _nsec3(
    "ji6neoaepv8b5o6k4ev33abha8ht9fgc", "k8udemvp1j2f7eg6jebps17vp3n8i58h", "",
    "gPkFp1s2QDQ6wQzcg1uSebZ61W33rUBDcTj72F3kQ490fEdp7k1BUIfbcZtPbX3YCpE+sIt0MpzVSKfTwx4uYA==",
)  # fmt: skip
_H_NS2 = _nsec3(
    "q04jkcevqvmu85r014c7dkba38o0ji5r", "r53bq7cc2uvmubfu5ocmm6pers9tk9en", "A RRSIG",
    "hV5I89b+4FHJDATp09g4bbN0R1F845CaXpL3ZxlMKimoPAyqletMlEWwLfFia7sdpSzn+ZlNNlkxWcLsIlMmUg==",
)  # fmt: skip
_H_W = _nsec3(
    "k8udemvp1j2f7eg6jebps17vp3n8i58h", "kohar7mbb8dc2ce8a9qvl8hon4k53uhi", "",
    "FtXGbvF0+wf8iWkyo73enAuVx03klN+pILBKS6qCcftVtfH4yVzsEZquJ27NHR7ruxJWDNMtOtx7w9WfcIg62A==",
)  # fmt: skip
_H_STAR = _nsec3(
    "r53bq7cc2uvmubfu5ocmm6pers9tk9en", "t644ebqk9bibcna874givr6joj62mlhv", "MX RRSIG",
    "aupviViruXs4bDg9rCbezzBMf9h1ZlDvbW/CZFKulIGXXLj8B/fsDJarXVDA9bnUoRhEbKp+HF1FWKW7RIJdtQ==",
)  # fmt: skip
_WILD_MX3 = f"""
a.z.w.example. MX 1 ai.example.
a.z.w.example. RRSIG MX 7 2 3600 {_SIGNED3} CikebjQwGQPwijVcxgcZcSJKtfynugtlBiKb9FcBTrmOoyQ4InoWVudhCWsh/URX3lc4WRUMi\
vEBP6+4KS3ldA==
"""

RFC5155 = Example(
    f"example. IN DNSKEY {_KSK3}",
    1_262_304_000,  # 2010-01-01
    {
        ("example.", "DNSKEY"): Reply(c.NOERROR, _KEYS3),
        ("a.c.x.w.example.", "A"): Reply(c.NXDOMAIN, "", _SOA3 + _H_APEX + _H_XW + _H_A),
        ("ns1.example.", "MX"): Reply(c.NOERROR, "", _SOA3 + _H_NS1),
        ("y.w.example.", "A"): Reply(c.NOERROR, "", _SOA3 + _H_YW),
        ("c.example.", "DS"): Reply(c.NOERROR, "", _SOA3 + _H_A + _H_APEX),
        ("mc.c.example.", "MX"): Reply(c.NOERROR, "mc.c.example. MX 1 mx.c.example."),
        ("a.z.w.example.", "MX"): Reply(c.NOERROR, _WILD_MX3, _H_NS2),
        ("a.z.w.example.", "AAAA"): Reply(c.NOERROR, "", _SOA3 + _H_W + _H_NS2 + _H_STAR),
        ("example.", "DS"): Reply(c.NOERROR, "", _SOA3 + _H_APEX),
    },
    {"c.example.": Reply(c.NOERROR, "", _referral("c") + _H_A + _H_APEX, _glue("c", 7))},
)

# --- one set for each algorithm -------------------------------------------------------------------------------------

_P256 = "257 3 13 GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edbkrSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA=="
_P384 = (
    "257 3 14 xKYaNhWdGOfJ+nPrL8/arkwf2EY3MDJ+SErKivBVSum1w/egsXvSADtNJhyem5RCOpgQ6K8X1DRSEkrbYQ+OB+v8/uX45NBwY8rp65F6"
    "Glur8I/mlVNgF6W/qTI37m40"
)
_ED1 = "257 3 15 l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4="
_ED2 = "257 3 15 zPnZ/QwEe7S8C5SPz2OfS5RR40ATk2/rYnE9xHIEijs="
_ED448 = "257 3 16 3kgROaDjrh0H2iuixWBrc8g2EpBBLCdGzHmn+G2MpTPhpj/OiBVHHSfPodx1FYYUcJKm1MDpJtIA"
_MX = "example.com. MX 10 mail.example.com.\nexample.com. RRSIG MX"
_WWW = "www.example.net. A 192.0.2.91\nwww.example.net. RRSIG A"
_EDGE = "20150819220000 20150729220000"  # 1440021600 and 1438207200

SIGNATURES = (
    Signature(
        "RFC 5702 RSA/SHA-256", "example.net.",
        "256 3 8 AwEAAcFcGsaxxdgiuuGmCkVImy4h99CqT7jwY3pexPGcnUFtR2Fh36BponcwtkZ4cAgtvd4Qs8PkxUdp6p/DlUmObdk=",
        f"{_WWW} 8 3 3600 20300101000000 20000101000000 9033 example.net. kRCOH6u7l0QGy9qpC9l1sLncJcOKFLJ7GhiUOibu4te\
Yp5VE"
        "9RncriShZNz85mwlMgNEacFYK/lPtPiVYP4bwg==",
    ),
    Signature(
        "RFC 5702 RSA/SHA-512", "example.net.",
        "256 3 10 AwEAAdHoNTOW+et86KuJOWRDp1pndvwb6Y83nSVXXyLA3DLroROUkN6X0O6pnWnjJQujX/AyhqFDxj13tOnD9u/1kTg7cV6rklM\
rZDtJ"
        "CQ5PCl/D7QNPsgVsMu1J2Q8gpMpztNFLpPBz1bWXjDtaR7ZQBlZ3PFY12ZTSncorffcGmhOL",
        f"{_WWW} 10 3 3600 20300101000000 20000101000000 3740 example.net. tsb4wnjRUDnB1BUi+t6TMTXThjVnG+eCkWqjvvjhzQ\
L1d0YR"
        "oOe0CbxrVDYd0xDtsuJRaeUw1ep94PzEWzr0iGYgZBWm/zpq+9fOuagYJRfDqfReKBzMweOLDiNa8iP5g9vMhpuv6OPlvpXwm9Sa9ZXIbNl1\
MBGk"
        "0fthPgxdDLw=",
    ),
    Signature(
        "RFC 6605 P-256", "example.net.", _P256,
        "www.example.net. A 192.0.2.1\nwww.example.net. RRSIG A 13 3 3600 20100909100439 20100812100439 55648 example\
.net. "
        "qx6wLYqmh+l9oCKTN6qIc+bw6ya+KJ8oMz0YP107epXAyGmt+3SNruPFKG7tZoLBLlUzGGus7ZwmwWep666VCw==",
    ),
    Signature(
        "RFC 6605 P-384", "example.net.", _P384,
        "www.example.net. A 192.0.2.1\nwww.example.net. RRSIG A 14 3 3600 20100909102025 20100812102025 10771 example\
.net. "
        "/L5hDKIvGDyI1fcARX3z65qrmPsVz73QD1Mr5CEqOiLP95hxQouuroGCeZOvzFaxsT8Glr74hbavRKayJNuydCuzWTSSPdz7wnqXL5bdcJzu\
sdnI"
        "0RSMROxxwGipWcJm",
    ),
    Signature(
        "RFC 8080 Ed25519", "example.com.", _ED1,
        f"{_MX} 15 2 3600 {_EDGE} 3613 example.com. "
        "oL9krJun7xfBOIWcGHi7mag5/hdZrKWw15jPGrHpjQeRAvTdszaPD+QLs3fx8A4M3e23mRZ9VrbpMngwcrqNAg==",
    ),
    Signature(
        "RFC 8080 Ed25519, second", "example.com.", _ED2,
        f"{_MX} 15 2 3600 {_EDGE} 35217 example.com. "
        "zXQ0bkYgQTEFyfLyi9QoiY6D8ZdYo4wyUhVioYZXFdT410QPRITQSqJSnzQoSm5poJ7gD7AQR0O7KuI5k2pcBg==",
    ),
    Signature(
        "RFC 8080 Ed448", "example.com.", _ED448,
        f"{_MX} 16 2 3600 {_EDGE} 9713 example.com. 3cPAHkmlnxcDHMyg7vFC34l0blBhuG1qpwLmjInI8w1CMB29FkEAIJUA0amxWndkm\
nBZ"
        "6SKiwZSAxGILn/NBtOXft0+Gj7FSvOKxE/07+4RQvE581N3Aj/JtIyaiYVdnYtyMWbSNyGEY2213WKsJlwEA",
    ),
)  # fmt: skip

DIGESTS = (
    Digest(
        "RFC 4509", "dskey.example.com.",
        "256 3 5 AQOeiiR0GOMYkDshWoSKz9XzfwJr1AYtsmx3TGkJaNXVbfi/2pHm822aJ5iI9BMzNXxeYCmZDRD99WYwYqUSdjMmmAphXdvxegXd\
/M5+"
        "X7OrzKBaMbCVdFLUUh6DhweJBjEVv5f2wwjM9XzcnOf+EPbtG9DMBmADjFDc2w/rljwvFw==",
        "60485 5 2 D4B7D520E7BB5F0F67674A0CCEB1E3E0614B93C4F9E99B8383F6A1E4469DA50A",
    ),
    Digest("RFC 6605 P-256", "example.net.", _P256,
           "55648 13 2 B4C8C1FE2E7477127B27115656AD6256F424625BF5C1E2770CE6D6E37DF61D17"),
    Digest("RFC 6605 P-384", "example.net.", _P384,
           "10771 14 4 72D7B62976CE06438E9C0BF319013CF801F09ECC84B8D7E9495F27E305C6A9B0563A9B5F4D288405C3008A946DF983\
D6"),
    Digest("RFC 8080 Ed25519", "example.com.", _ED1,
           "3613 15 2 3AA5AB37EFCE57F737FC1627013FEE07BDF241BD10F3B1964AB55C78E79A304B"),
    Digest("RFC 8080 Ed25519, second", "example.com.", _ED2,
           "35217 15 2 401781B934E392DE492EC77AE2E15D70F6575A1C0BC59C5275C04EBE80C6614C"),
    Digest("RFC 8080 Ed448", "example.com.", _ED448,
           "9713 16 2 6CCF18D5BC5D7FC2FCEB1D59D17321402F2AA8D368048DB93DD811F5CB2B19C7"),
)  # fmt: skip
