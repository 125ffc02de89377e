"""What a flood did to a resolver: figures, the table, and which goals were missed."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flood_load import Phase

__all__ = ["HEADINGS", "SILENT", "Outcome", "drops", "line", "missed", "worse"]

MIB = 1 << 20
CACHED_GOAL, P99_GOAL, COLD_GOAL = 0.8, 3.0, 0.5
MARGIN = 0.05
"""Figures of two resolvers that differ by less than this part count as equal."""
ADDITIONAL_MIB = 4
"""So do amounts of memory that differ by less than this."""
DROPS = (
    "rate_limit.queries_dropped", "rate_limit.queries_refused", "rate_limit.queries_truncated",
    "rate_limit.replies_dropped", "rate_limit.replies_truncated", "fetch_limit.refused", "slow_path.overloaded",
    "slow_path.ended", "slow_path.discarded", "slow_path.truncated", "slow_path.refused", "slow_path.access_dropped",
    "slow_path.malformed", "slow_path.servfail", "fast_path.refused", "fast_path.access_dropped",
    "fast_path.invalid_dropped", "fast_path.formerr", "resolution.failures", "resolution.timed_out",
    "resolution.refused", "resolution.refused_sub_queries", "resolution.evicted", "resolution.ended_for_memory",
    "resolution.internal_errors", "resolution.out_of_memory", "client_udp.errors", "client_udp.lane_overflowed",
)
SILENT = (
    "rate_limit.queries_dropped", "slow_path.discarded", "slow_path.access_dropped", "fast_path.access_dropped",
    "fast_path.invalid_dropped", "client_udp.errors", "client_udp.lane_overflowed",
)
"""Those of queries that get no reply and are not among ``clients.replies``."""
DROP_FIELDS = ("rejected", "evicted", "timed_out", "write_overrun", "malformed", "handshake_failures", "dropped",
               "retries")
"""Counters with these names in the groups of the listeners, ``client_*``."""


def drops(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """The counters of what was dropped, refused or ended, by reason, that have increased."""
    found = {}
    for name, value in after.items():
        group, _, rest = name.partition(".")
        counts = name.startswith(DROPS) or (group.startswith("client_") and rest.split(".")[0] in DROP_FIELDS)
        if counts and value > before.get(name, 0):
            found[name] = value - before.get(name, 0)
    return found


@dataclass
class Outcome:
    """One resolver in one flood."""

    kind: str
    server: str
    rate: float
    """What the attacker really sent a second."""
    quiet: Phase
    flood: Phase
    growth: int
    """Octets by which the resident memory grew at most, from before the flood."""
    unsent: int
    """Octets that wait in the kernel for clients that do not read."""
    upstream: float
    """Packets to name servers of the attacker for each of its own."""
    reflected: float
    """Octets of replies for each octet that the attacker sent, where it reads."""
    pulse: float
    """The most octets that came within a tenth of a second, as a multiple of what was sent in such a time."""
    kernel_drops: int
    drops: dict[str, float]
    uncounted: int | None
    """Queries over UDP that have neither a reply nor a counter of a reason; None: not known."""
    memory_limit: int
    """Octets of all tables that have a limit; 0: not known."""

    @property
    def p99_ratio(self) -> float:
        """How many times the 99th percentile of the quiet run."""
        return self.flood.p99_us / max(self.quiet.p99_us, 1.0)

    @property
    def cached_ratio(self) -> float:
        """Part of the cached names answered, relative to the quiet run."""
        return self.flood.cached / max(self.quiet.cached, 1e-9)

    @property
    def full_ratio(self) -> float:
        """The highest rate of cached answers, relative to the quiet run."""
        return self.flood.full_rate / max(self.quiet.full_rate, 1e-9)

    def as_json(self) -> dict[str, Any]:
        """All figures."""
        return self.__dict__ | {"quiet": self.quiet.as_json(), "flood": self.flood.as_json(),
                                "p99_ratio": self.p99_ratio, "cached_ratio": self.cached_ratio}


COLUMNS = (("flood", -17), ("server", -9), ("rate/s", 6), ("cached %", 9), ("p50 us", 12), ("p99 us", 14), ("ratio", 6),
           ("cold %", 8), ("tcp %", 8), ("core %", 8), ("wait %", 7), ("RSS MiB", 8), ("kernel", 7),
           ("unsent", 7), ("upstr", 6), ("refl", 5), ("pulse", 6), ("full %", 7))
"""Headings and widths; a negative width begins at the left."""


def _row(cells: Iterable[str]) -> str:
    return " ".join(f"{text:<{-width}}" if width < 0 else f"{text:>{width}}"
                    for text, (_, width) in zip(cells, COLUMNS, strict=True))


HEADINGS = _row(heading for heading, _ in COLUMNS)


def line(found: Outcome) -> str:
    """One row of the table; pairs are quiet and in the flood."""
    quiet, flood = found.quiet, found.flood

    def pair(field: str, factor: float = 1.0) -> str:
        return f"{getattr(quiet, field) * factor:.0f} {getattr(flood, field) * factor:.0f}"

    return _row((
        found.kind, found.server, f"{found.rate:.0f}", pair("cached", 100), pair("p50_us"), pair("p99_us"),
        f"{found.p99_ratio:.1f}", pair("cold", 100), pair("streams", 100), pair("core", 100), pair("delayed", 100),
        f"{found.growth / MIB:+.1f}", str(found.kernel_drops), f"{found.unsent / MIB:.0f}",
        f"{found.upstream:.1f}", f"{found.reflected:.1f}", f"{found.pulse:.1f}",
        f"{found.full_ratio * 100:.0f}" if quiet.full_rate else "-",
    ))


def missed(found: Outcome) -> list[str]:
    """The goals that it missed."""
    said = []
    if found.cached_ratio < CACHED_GOAL:
        said.append(f"cached names {found.cached_ratio:.0%} of the quiet run, goal {CACHED_GOAL:.0%}")
    if found.quiet.full_rate and found.full_ratio < CACHED_GOAL:
        said.append(f"highest rate of cached names {found.full_ratio:.0%} of the quiet run, goal {CACHED_GOAL:.0%}")
    if found.p99_ratio > P99_GOAL:
        said.append(f"p99 {found.p99_ratio:.1f} times the quiet run, goal {P99_GOAL:.0f}")
    if found.flood.cold < COLD_GOAL:
        said.append(f"new names {found.flood.cold:.0%}, goal {COLD_GOAL:.0%}")
    if found.uncounted:
        said.append(f"{found.uncounted} queries have neither a reply nor a counter of a reason, goal 0")
    if found.memory_limit and found.growth > found.memory_limit:
        said.append(f"memory grew by {found.growth / MIB:.0f} MiB, its tables may have {found.memory_limit / MIB:.0f}")
    return said


def worse(ours: Outcome, theirs: Outcome) -> list[str]:
    """Figures that are better for `theirs`."""
    more = 1 + MARGIN
    figures: Iterable[tuple[str, float, float, float]] = (
        # name, ours, theirs: higher is better; and what may be ignored
        ("cached names answered", ours.flood.cached, theirs.flood.cached, 0.0),
        ("new names answered", ours.flood.cold, theirs.flood.cold, 0.0),
        ("TCP queries answered", ours.flood.streams, theirs.flood.streams, 0.0),
        ("highest rate in the flood", ours.full_ratio, theirs.full_ratio, 0.0),
        ("p99 in the flood (us)", -ours.flood.p99_us, -theirs.flood.p99_us, 0.0),
        ("growth of memory (MiB)", -ours.growth / MIB, -theirs.growth / MIB, ADDITIONAL_MIB),
        ("unsent data in the kernel (MiB)", -ours.unsent / MIB, -theirs.unsent / MIB, ADDITIONAL_MIB),
        ("CPU (cores)", -ours.flood.core, -theirs.flood.core, 0.0),
        ("packets upstream for each query", -ours.upstream, -theirs.upstream, 0.0),
        ("octets reflected for each sent", -ours.reflected, -theirs.reflected, 0.0),
        ("pulse", -ours.pulse, -theirs.pulse, 0.0),
    )
    return [f"{name} {abs(own):.3g} against {abs(other):.3g}" for name, own, other, ignored in figures
            if own < min(other * more, other / more) - ignored]
