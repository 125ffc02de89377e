"""Random small zones: four labels and a few types are enough to reach every case of the lookup.

They have wildcards beside and below each other, empty non-terminals, aliases to any of them, DNAMEs and zone cuts. The
caller's generator makes all choices, so zones are reproducible.
"""

import random
from collections.abc import Sequence

__all__ = ["LABELS", "random_zone"]

LABELS = ("a", "b", "c", "*")
DIGEST = "0" * 63 + "1"


def random_zone(
    rng: random.Random, origin: str, *, others: Sequence[str] = (), glue: str = "192.0.2.53", most: int = 12
) -> str:
    """Master-file text without SOA; nothing below a cut but glue, nothing below a DNAME, nothing beside a CNAME.

    Aliases lead into the zone itself and into `others`; cuts lead to a server at `glue`.
    """
    # An asterisk stands leftmost only: as an empty non-terminal it matches, and nobody but us proves that it is empty.
    owners = {
        ".".join([rng.choice(LABELS), *rng.choices(LABELS[:3], k=rng.randint(0, 2))])
        for _ in range(rng.randint(3, most))
    }
    lines, closed = [], set[str]()
    for owner in sorted(owners, key=lambda name: (name.count("."), name)):
        labels = owner.split(".")
        if any(".".join(labels[n:]) in closed for n in range(len(labels))):
            continue
        kind = rng.choice(["A", "A", "TXT", "both", "CNAME", "NS", "NS+DS", "DNAME"])
        target = f"{'.'.join(rng.choices([*LABELS[:3], 'd'], k=rng.randint(1, 3)))}.{rng.choice([origin, *others])}"
        if "*" in labels and kind in ("NS", "NS+DS", "DNAME"):
            kind = "A"  # undefined or discouraged at wildcards (RFC 4592 sections 4.2 and 4.4)
        if kind in ("A", "both"):
            lines.append(f"{owner} A 192.0.2.{rng.randint(1, 9)}")
        if kind in ("TXT", "both"):
            lines.append(f'{owner} TXT "{owner}"')
        if kind == "CNAME":
            lines.append(f"{owner} CNAME {target}")
        if kind == "DNAME":
            lines.append(f"{owner} DNAME {rng.choice([*others, 'elsewhere.example.'])}")
        if kind.startswith("NS"):
            lines += [f"{owner} NS ns.{owner}", f"ns.{owner} A {glue}"]
            if kind == "NS+DS":
                lines.append(f"{owner} DS 7 13 2 {DIGEST}")
        if kind in ("DNAME", "NS", "NS+DS"):
            closed.add(owner)
    return "\n".join(lines) + "\n"
