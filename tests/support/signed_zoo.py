"""Random signed zones: forty zones under one parent, sound, unsigned and broken, with aliases between them.

dnspython signs them in different ways: NSEC, NSEC3 with and without opt-out, several algorithms, not at all, or wrongly
(expired signatures, a DS for another key, a DS for an unsigned zone). A seed reproduces the zones.
"""

import random
import time

from support.random_zones import LABELS, random_zone
from support.signing import ECDSAP256, ED25519, RSASHA256, Nsec3, ZoneKey, sign_zone

from resolver.playground import World, Zone, world_tables

__all__ = ["ORIGINS", "random_name", "signed_world"]

ZONES = 40
DAY = 86400
LAME = "127.20.232.9"
SERVERS = {
    "a.root.": world_tables.ServerSpec("127.20.232.1"),
    "ns.zoo.": world_tables.ServerSpec("127.20.232.2"),
    "one.zones.zoo.": world_tables.ServerSpec("127.20.232.3"),
    "lame.zoo.": world_tables.ServerSpec(LAME),
}
ORIGINS = [f"z{n}.zoo." for n in range(ZONES)]
CHAINS = (None, Nsec3(), Nsec3(3, "ab"), Nsec3(opt_out=True))
ALGORITHMS = (ECDSAP256, ED25519, RSASHA256)
# What a zone is: mostly sound, sometimes unsigned, sometimes broken in one of three ways.
FATES = ("sound",) * 6 + ("unsigned",) * 2 + ("expired", "wrong DS", "stripped")


def signed_world(seed: int) -> tuple[World, str]:
    """The world and the root's anchor."""
    rng, now = random.Random(seed), int(time.time())
    specs = {".": world_tables.ZoneSpec(("a.root.",), "root"), "zoo.": world_tables.ZoneSpec(("ns.zoo.",), "zoo")}
    for origin in ORIGINS:
        text = random_zone(rng, origin, others=rng.sample(ORIGINS, 3), glue=LAME)
        specs[origin] = world_tables.ZoneSpec(("one.zones.zoo.",), "random", text)
    specs["zones.zoo."] = world_tables.ZoneSpec(("ns.zoo.",), "home of the servers")
    world = World(specs, SERVERS, ())
    links: dict[str, list[str]] = {"zoo.": [], ".": []}
    for origin in [*ORIGINS, "zoo.", "."]:
        fate = rng.choice(FATES) if origin in ORIGINS else "sound"
        key = ZoneKey(origin, rng.choice(ALGORITHMS), label=f"random{rng.randint(1, 3)}")
        text = world.zones[origin].to_text() + "".join(links.get(origin, ()))
        if fate not in ("unsigned", "stripped"):
            begin, end = (now - 9 * DAY, now - 2 * DAY) if fate == "expired" else (now - DAY, now + DAY)
            # With opt-out, what a wildcard says below a cut's empty non-terminals cannot be proved either way.
            unclear = "*" in text and " NS ns." in text
            chain = rng.choice(CHAINS[:-1] if unclear else CHAINS)
            text = sign_zone(origin, text, [key], nsec3=chain, inception=begin, expiration=end)
        world.zones[origin] = Zone.from_text(origin, text)
        if origin in ORIGINS and fate != "unsigned":
            told = ZoneKey(origin, ECDSAP256, label="another") if fate == "wrong DS" else key
            links["zoo."].append(f"{origin} 3600 IN DS {told.ds()}\n")
        if origin == "zoo.":
            links["."].append(f"zoo. 3600 IN DS {key.ds()}\n")
    return world, key.anchor()


def random_name(rng: random.Random, origin: str) -> str:
    """A name below `origin` of the few labels that its zones are made of."""
    return ".".join([*rng.choices([*LABELS[:3], "d"], k=rng.randint(0, 4)), origin])
