"""Which server of a zone to query next: usually a fast one, sometimes a slower or unknown one.

Of the servers tried least in this step, one is chosen at random among those whose expected round-trip time is within
`RTT_BAND` of the best, so that an off-path attacker does not know it. One query in `EXPLORE_RATE` goes to any of them,
so that a server that became faster is noticed. Servers that are lame for the zone are skipped. One that is dead for the
zone is tried once, when no other is left, and by one query per `SERVER_PROBE_INTERVAL` before all others, so that its
recovery is noticed even beside servers that never fail. Addresses of a family that this host has no route for are tried
last, once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resolver import limits
from resolver.effects import Context, Server
from resolver.iterate.delegation import DelegationPoint, delegations_of

if TYPE_CHECKING:
    from resolver.cache.infra import InfraCache, InfraEntry, ZoneEntry

__all__ = ["reason", "select_server", "server_states", "server_timeout"]

TRIES = limits.TRIES_PER_SERVER
FIRST = limits.SERVER_TIMEOUT_FIRST / 1000
BAND = limits.RTT_BAND / 1000
UNKNOWN = limits.UNKNOWN_SERVER_RTT / 1000
FOREVER = float("inf")
EXPLORE = limits.EXPLORE_RATE


def select_server(
    cut: DelegationPoint, context: Context, tries: dict[tuple[object, ...], int], avoid: frozenset[str]
) -> Server | None:
    """Choose the next server of `cut`; None when no try is left for any. `tries` counts those of this step by address.
    """
    servers: InfraCache = context.store.servers
    now = context.monotonic
    zone = cut.zone
    without = delegations_of(context).family_down(now)
    best: list[tuple[float, Server]] = []
    fewest = TRIES
    fastest = FOREVER
    server: Server
    info: InfraEntry | None
    entry: ZoneEntry | None
    for server in cut.servers:
        key = server.key
        done = tries.get(key, 0) if tries else 0
        if done > fewest or done >= TRIES or (avoid and server.address in avoid):
            continue
        info = servers.find(key)
        if info is None:
            expected = UNKNOWN
        else:
            entry = None if info.zones is None else info.zone_at(zone, now)
            expected = info.expected(entry)
            if entry is not None:
                if entry.lame_until > now:
                    continue
                if entry.timeouts and entry.dead:
                    routed = not without or (6 if ":" in server.address else 4) != without
                    if not tries and routed and now >= entry.probe_after and servers.is_usable(key, zone, now):
                        return server
                    # One attempt, after all servers that may respond.
                    done += TRIES - 1
                    if done > fewest or done >= TRIES:
                        continue
        if without and (6 if ":" in server.address else 4) == without:
            done += TRIES - 1
            if done > fewest or done >= TRIES:
                continue
        if done < fewest:
            fewest = done
            fastest = expected
            best = [(expected, server)]
        else:
            if expected < fastest:
                fastest = expected
            best.append((expected, server))
    if len(best) <= 1:
        return best[0][1] if best else None
    below = context.rng.below
    if below(EXPLORE) == 0:
        return best[below(len(best))][1]
    limit = fastest + BAND
    near = [server for expected, server in best if expected <= limit]
    return near[below(len(near))] if len(near) > 1 else near[0]


def server_timeout(
    server: Server, cut: DelegationPoint, context: Context, tries: dict[tuple[object, ...], int], avoid: frozenset[str]
) -> float:
    """Seconds to wait for `server`: its timeout, at most the shortest of the others that may still answer, or FIRST.

    A server that does not answer, beside servers that do, gets the first timeout and not the doubled ones. Servers that
    are lame, dead, avoided, without a route or have no try left in this step cannot answer in its place.
    """
    servers = context.store.servers
    now = context.monotonic
    zone = cut.zone
    wait = servers.timeout(server.key, zone, now)
    if wait <= FIRST:
        return wait
    without = delegations_of(context).family_down(now)
    shortest = wait
    for other in cut.servers:
        if other is server or tries.get(other.key, 0) >= TRIES or other.address in avoid:
            continue
        if without and (6 if ":" in other.address else 4) == without:
            continue
        if servers.may_answer(other.key, zone, now):
            shortest = min(shortest, servers.timeout(other.key, zone, now))
    return max(shortest, FIRST)


def reason(server: Server, cut: DelegationPoint, context: Context, tried: int) -> str:
    """Why `server` was chosen, as text for a trace. `tried` is how often it was tried in this step before."""
    info = context.store.servers.find(server.key)
    entry = None if info is None else info.zone_at(cut.zone, context.monotonic)
    if info is None:
        why = "never queried before"
    elif entry is not None and entry.dead:
        why = "counts as dead: tried once per interval, and when no other server is left"
    else:
        expected = info.expected(entry) * 1000
        why = f"expected in {expected:.0f} ms" if expected >= 10 else f"expected in {expected:.2f} ms"
    again = f", try {tried + 1}" if tried else ""
    return f"{why}, one of {len(cut.servers)}{again}"


def server_states(cut: DelegationPoint, context: Context) -> list[tuple[Server, str, float | None]]:
    """The state of each server of `cut` for a trace: a word, and the expected round-trip time in seconds."""
    now = context.monotonic
    without = delegations_of(context).family_down(now)
    found: list[tuple[Server, str, float | None]] = []
    for server in cut.servers:
        info = context.store.servers.find(server.key)
        entry = None if info is None else info.zone_at(cut.zone, now)
        if without and (6 if ":" in server.address else 4) == without:
            word = "no route"
        elif info is None:
            word = "untried"
        elif entry is not None and entry.lame_until > now:
            word = "lame"
        elif entry is not None and entry.dead:
            word = "dead"
        else:
            word = "timed out" if info.timeouts or (entry is not None and entry.timeouts) else "known"
        found.append((server, word, None if info is None else info.expected(entry)))
    return found
