"""Query the servers of one zone until one gives a usable reply, or no try is left for any.

The faults of real servers are handled here: no reply, truncation, no support for EDNS or cookies, changed letter case,
REFUSED and SERVFAIL, lameness, and name servers whose addresses are not known yet. Each packet is charged with
`Budget.take_packet`, because a path without a counter can become an endless loop (CVE-2026-5950). Addresses of name
servers are looked up one at a time and few in one step (NXNSAttack, CVE-2020-12662). Each zone and each server has a
quota of what may be outstanding (`fetch_quota`). Forwarders have none, because names of many zones are behind them, nor
has the root, which every name needs at a cold start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resolver import limits
from resolver.cache.scoped import UNSENT, describe_scope
from resolver.effects import (
    CLIENT_PURPOSES,
    FOR_NS_ADDRESS,
    Ask,
    Context,
    Failure,
    FailureKind,
    Need,
    Outcome,
    Pause,
    Question,
    Server,
    Steps,
    Task,
)
from resolver.iterate.classify import classify
from resolver.iterate.delegation import DelegationPoint, delegations_of
from resolver.iterate.delegation_path import is_forbidden
from resolver.iterate.minimise import PROBE_TYPE
from resolver.iterate.own_zone import ask_copy
from resolver.iterate.scrub import (
    RESPONSE_EMPTY,
    RESPONSE_LAME,
    RESPONSE_REFERRAL,
    RESPONSE_THROWAWAY,
    Scrubbed,
    cut_chain,
    question_matches,
    scrub,
)
from resolver.iterate.server_selection import reason, select_server, server_states, server_timeout
from resolver.wire.client_subnet import describe_subnet, encode_subnet
from resolver.wire.consts import (
    BADCOOKIE,
    BADVERS,
    EDE_FILTERED,
    EDE_INVALID_DATA,
    EDE_NETWORK_ERROR,
    EDE_NO_REACHABLE_AUTHORITY,
    FORMERR,
    NOERROR,
    NOTIMP,
    NXDOMAIN,
    rcode_to_text,
)
from resolver.wire.name import is_subdomain, lower, to_text, zone_lookup_name

if TYPE_CHECKING:
    from resolver.cache.infra import InfraCache, InfraEntry, ZoneEntry
    from resolver.cache.scoped import Scope
    from resolver.effects import Reply
    from resolver.iterate.fetch_quota import FetchQuota
    from resolver.wire.client_subnet import Subnet
    from resolver.wire.message import MessageView

__all__ = ["FORBIDDEN", "IterationState", "query_servers", "without_room"]

TRIES_PER_CUT = limits.TRIES_PER_CUT
TRIES_PER_SERVER = limits.TRIES_PER_SERVER
LOOKUPS = limits.ADDRESS_LOOKUPS
MISSING, MISSING_IN_ALL = limits.MISSING_ADDRESSES, limits.MISSING_ADDRESSES_IN_ALL
EDNS_GIVE_UP = limits.EDNS_GIVE_UP
EDNS_BROKEN = limits.SERVER_EDNS_BROKEN
FIRST_TIMEOUT = limits.SERVER_TIMEOUT_FIRST / 1000
STREAM_TIMEOUT = limits.SERVER_TIMEOUT_STREAM / 1000
SHORTEST = limits.SERVER_TIMEOUT_MINIMUM / 1000
SHARE = limits.ATTEMPT_TIME_SHARE / 100
LOCAL_ERROR_DELAY = limits.LOCAL_ERROR_DELAY / 1000
EXCLUDED = 1 << 20
FALLBACK_ATTEMPTS = limits.FALLBACK_ATTEMPTS
ABORTS_QUERY = frozenset({FailureKind.BUDGET, FailureKind.DEADLINE, FailureKind.CANCELLED, FailureKind.OVERLOAD})
NO_EDNS = frozenset({FORMERR, NOTIMP, BADVERS})
FORBIDDEN = Failure(FailureKind.POLICY, EDE_FILTERED, "a policy forbids the name servers of the zone")


class IterationState:
    """State of one call of `iterate`: the name that is resolved, addresses to avoid, how many name servers had no
    usable address, and the clients that the last reply is for (`RawReply.scope`)."""

    __slots__ = ("avoid", "missing", "qname", "scope")

    def __init__(self, avoid: frozenset[str], qname: bytes) -> None:
        self.avoid = avoid
        self.qname = qname
        self.missing = 0
        self.scope: Scope | None = None


def query_servers(
    cut: DelegationPoint,
    qname: bytes,
    qtype: int,
    context: Context,
    task: Task,
    search: IterationState,
    *,
    probing: bool = False,
) -> Steps[Scrubbed | Failure]:
    """Get a usable reply of the zone `cut` to (`qname`, `qtype`), or the reason why there is none.

    `probing`: the query is a minimised one; after an error the full qname is tried instead of other servers.
    """
    delegations = delegations_of(context)
    copy = None if delegations.zones is None else ask_copy(cut, qname, qtype, context, task, search.avoid)
    if copy is not None:
        return copy
    quota: FetchQuota = delegations.fetches
    zone = cut.zone
    if cut.recursive or len(zone) == 1:
        return (yield from _query_zone(cut, qname, qtype, context, task, search, probing, False))
    fetched = lower(search.qname)  # not the minimised one, which is the same for many names
    counted = (delegations.part, zone)
    if not quota.take_zone(counted, fetched, qtype):
        return _over_quota(quota.refuse_zone(counted, context.monotonic), task)
    try:
        return (yield from _query_zone(cut, qname, qtype, context, task, search, probing, True))
    finally:
        quota.give_zone(counted, fetched, qtype)


def without_room(cut: DelegationPoint, qname: bytes, qtype: int, context: Context) -> Failure | None:
    """The failure of a client query that begins at the zone `cut`, when its quota or that of each server is used up;
    None when a query may be sent.

    It is what `query_servers` would return for the first query of a job for (`qname`, `qtype`), minimised or not. None
    as well where something else may decide first: an own copy of the zone, or policies for name servers.
    """
    delegations = delegations_of(context)
    zone, servers, now = cut.zone, cut.servers, context.monotonic
    if cut.recursive or len(zone) == 1 or context.name_server is not None or (
        delegations.zones is not None and delegations.zones.get(zone) is not None
    ):
        return None
    quota: FetchQuota = delegations.fetches
    fetched = lower(qname)
    counted = (delegations.part, zone)
    if not quota.has_zone_room(counted, fetched, qtype) and not quota.has_zone_room(counted, fetched, PROBE_TYPE):
        return quota.refuse_zone(counted, now)
    full: Server | None = None
    server: Server
    entry: ZoneEntry | None
    for server in servers:
        if not quota.is_full(server.key, zone):
            return None
        entry = context.store.servers.zone_at(server.key, zone, now)
        if entry is None or entry.lame_until <= now:
            full = server  # else it is not queried, and when all are lame, the parent is
    return None if full is None else quota.refuse_server(zone, full, now)


def _over_quota(failure: Failure, task: Task) -> Failure:
    """Note that the query failed for lack of room, so that no failure that follows from it is cached for long."""
    if task.local_error is None:
        task.local_error = failure
    if task.trace is not None:
        task.note("failure", failure.text, facts={"failure": failure})
    return failure


def _query_zone(
    cut: DelegationPoint,
    qname: bytes,
    qtype: int,
    context: Context,
    task: Task,
    search: IterationState,
    probing: bool,
    limited: bool,
) -> Steps[Scrubbed | Failure]:
    """`query_servers` after the own copy of the zone and its quota; with `limited`, servers have a quota, too."""
    zone = cut.zone
    quota: FetchQuota = delegations_of(context).fetches
    full: Server | None = None
    tries: dict[tuple[object, ...], int] = {}
    looked_up: set[bytes] | None = None
    last: Failure | None = None
    spare: Scrubbed | None = None
    # Servers that had less than their own timeout because others might answer. None when they were tried again.
    hurried: list[tuple[object, ...]] | None = []
    packets = 0
    no_route: Failure | None = None
    checked_servers = -1
    table: InfraCache = context.store.servers
    while packets < TRIES_PER_CUT:
        server = select_server(cut, context, tries, search.avoid)
        if server is None:
            if hurried:
                # The others gave no answer either. A server that counts as dead has only been probed so far.
                for key in hurried:
                    tries[key] = 0
                hurried = None
                continue
            if full is not None:
                break  # more addresses of a zone that has its quota would cost more queries
            if looked_up is None:
                looked_up = set()
            gained = yield from _look_up_addresses(cut, context, task, search, looked_up)
            if isinstance(gained, Failure):
                return gained
            if not gained:
                break
            continue
        if context.name_server is not None and checked_servers != len(cut.servers):
            checked_servers = len(cut.servers)
            if is_forbidden(cut, search.qname, context, task):
                return FORBIDDEN
        key = server.key
        if limited and quota.is_full(key, zone):
            full = server
            tries[key] = EXCLUDED
            continue
        packets += 1
        own = wait = table.timeout(key, zone, context.monotonic)
        if own > FIRST_TIMEOUT:
            # With a reply or other servers to fall back on, none is waited for longer than the first timeout. A dead
            # forwarder is, by one query per interval, for it may have become slower than that.
            fallback = spare is not None or (cut.first and table.is_dead_between_probes(key, zone, context.monotonic))
            wait = FIRST_TIMEOUT if fallback else server_timeout(server, cut, context, tries, search.avoid)
        result = yield from _query_with_fallback(
            server, cut, qname, qtype, context, task, tries.get(key, 0), wait, search, probing)
        if isinstance(result, Failure):
            if result.kind in ABORTS_QUERY:
                return result
            if result.is_unrouted:
                no_route = result
            else:
                last = result
            again = result.kind is FailureKind.TIMEOUT or result.kind is FailureKind.LOCAL_RESOURCE
            tries[key] = tries.get(key, 0) + 1 if again else EXCLUDED
            if wait < own and result.kind is FailureKind.TIMEOUT and hurried is not None and not (
                spare is not None or cut.first
            ):
                hurried.append(key)
            if result.kind is FailureKind.LOCAL_RESOURCE:
                # Buffers and descriptors are free again in milliseconds; without a pause the next attempt would fail.
                yield Pause(LOCAL_ERROR_DELAY)
            continue
        view: MessageView = result.view
        if not question_matches(view, qname, qtype):
            last = Failure(FailureKind.CASE_MISMATCH, EDE_INVALID_DATA, f"{server.address} answers another query")
            tries[key] = EXCLUDED
            continue
        found: Scrubbed = scrub(view, qname, qtype, zone)
        if found.alias:
            _stop_at_configured_zone(found, qname, qtype, context)
        found.server = server
        found.scope = search.scope
        found.kind = kind = classify(view, found, qname, qtype, zone, recursive=cut.recursive)
        if task.trace is not None:
            whom = "" if search.scope is None else f", {describe_scope(search.scope)}"
            task.note("reply", f"{kind.name.lower()} from {server.address}{whom}", zone=zone, server=server,
                      qname=qname, qtype=qtype, rtt=result.rtt, rcode=view.rcode,
                      facts={"reply": result, "kind": kind.name.lower()})
        if kind is RESPONSE_THROWAWAY:
            last = _bad_code(view.rcode, server, zone)
            if probing:
                return last
        elif kind is RESPONSE_LAME:
            last = Failure(FailureKind.LAME, EDE_NO_REACHABLE_AUTHORITY,
                           f"{server.address} does not serve {to_text(zone)}")
            if probing:
                return last
            if not task.told_subnet:  # it may serve the zone to other clients
                table.note_lame(key, zone, context.monotonic)
        else:
            if kind is not RESPONSE_EMPTY and (
                view.aa or not view.ra or cut.recursive or kind is RESPONSE_REFERRAL
            ):
                return found
            # An empty reply, or one of a recursive server: used only if no other server gives a better one.
            if spare is None or spare.kind is RESPONSE_EMPTY:
                spare = found
        tries[key] = EXCLUDED
    if spare is not None:
        return spare
    if full is not None:
        return _over_quota(quota.refuse_server(zone, full, context.monotonic), task)
    if last is None and no_route is not None and task.local_error is None:
        task.local_error = no_route
    if task.local_error is not None:
        # A local error prevented a query to a server of this zone, or one that its address depends on.
        return task.local_error
    if last is None:
        return Failure(FailureKind.UNREACHABLE, EDE_NO_REACHABLE_AUTHORITY,
                       f"no server of {to_text(zone)} has a usable address")
    if last.kind in (FailureKind.TIMEOUT, FailureKind.NETWORK):
        return Failure(FailureKind.UNREACHABLE, EDE_NO_REACHABLE_AUTHORITY,
                       f"no server of {to_text(zone)} could be reached; {last.text}")
    return last


def _query_with_fallback(
    server: Server,
    cut: DelegationPoint,
    qname: bytes,
    qtype: int,
    context: Context,
    task: Task,
    earlier: int,
    wait: float,
    search: IterationState,
    probing: bool,
) -> Steps[Reply | Failure]:
    """One attempt at one server, with fallbacks: with or without EDNS, cookies and client subnet, over UDP or TCP.

    `earlier` is how many attempts there were before, and `wait` for how long to wait (seconds). `search.scope` is set.
    """
    table: InfraCache = context.store.servers
    delegations = delegations_of(context)
    fetches: FetchQuota = delegations.fetches
    budget = task.budget
    key = server.key
    zone = cut.zone
    info: InfraEntry | None = table.find(key)
    now = context.monotonic
    entry: ZoneEntry | None = None if info is None else info.zone_at(zone, now)
    payload: int | None = delegations.payload
    timeout = FIRST_TIMEOUT
    dead = silent = False
    known = b""  # client and server cookie as the server returned them last
    # TLS protects more than cookies do, and a timeout does not show broken EDNS of a server that was configured.
    encrypted = server.encryption is not None
    cookie: bytes | None = b"" if delegations.cookies and not earlier and not encrypted else None
    tcp, case = delegations.tcp_only or encrypted, delegations.use_caps_for_id(qname)
    if not case and delegations.randomise_case:
        qname = lower(qname)  # a zone of iteration.case-exempt, whose servers fail with mixed case
    if info is not None:
        timeout = info.timeout_of(entry)
        # A timeout does not show broken EDNS when the server has replied with EDNS before (RFC 6891 section 6.2.2).
        silent = earlier >= EDNS_GIVE_UP and not info.edns_seen and not encrypted
        if silent:
            payload = None
        if info.tcp_until > now:
            tcp = True
        if encrypted:
            cookie = None
        elif delegations.cookies and info.cookie:
            cookie = known = info.cookie
        elif info.no_cookie_until > now:
            cookie = None
    if entry is not None:
        dead = entry.dead
    if server.edns_broken_until > now:
        payload, silent = None, False
    if payload is None:
        cookie, known = None, b""
    subnets, subnet, refused_subnet = context.subnets, None, False
    search.scope = None
    if subnets is not None and not probing and (payload is not None or silent) and (
        info is None or info.no_subnet_until <= now
    ) and subnets.applies(server.address, cut.zone, qname, qtype):
        # What the resolver asks for itself says nothing about a client. After timeouts there is no EDNS for the option,
        # but the server may support it.
        subnet = budget.subnet if task.purpose in CLIENT_PURPOSES and not silent else None
        if subnet is None:
            search.scope = UNSENT
    expected = timeout
    several = len(cut.servers) > 1
    if earlier:
        # Replies to other queries shorten the timeout, but a retransmission backs off (RFC 1035 section 4.2.1).
        wait = max(wait, SHORTEST * (1 << earlier))
    bad_cookies = 0
    refused_edns = False
    result: Reply | Failure
    for _ in range(FALLBACK_ATTEMPTS):
        if not budget.take_packet():
            assert budget.failure is not None
            return budget.failure
        timeout = max(wait, STREAM_TIMEOUT) if tcp else wait
        whole = max(expected, STREAM_TIMEOUT) if tcp else expected
        own = min(timeout, whole)
        if several or cut.first:
            timeout = min(timeout, max((budget.deadline - context.monotonic) * SHARE, SHORTEST))
        told: Subnet | None = None
        if subnet is not None and subnets is not None:
            if subnets.take(qname, qtype, subnet):
                told, task.told_subnet = subnet, True
            else:
                subnet, search.scope = None, UNSENT
        asked = context.monotonic
        try:
            if task.trace is not None:
                variant = f"{f' over {server.over}' if encrypted else ' over TCP' if tcp else ''}"
                variant += "" if payload else " without EDNS"
                variant += "" if subnet is None else f" with client subnet {describe_subnet(subnet)}"
                why = reason(server, cut, context, earlier)
                task.note("ask", f"query {server.address}{variant}: {why}", zone=cut.zone, server=server, qname=qname,
                          qtype=qtype, facts={"tcp": tcp, "payload": payload, "timeout": timeout, "why": why,
                                              "candidates": server_states(cut, context)})
            ask = Ask(
                server, qname, qtype, tcp=tcp, edns_payload=payload, do=payload is not None, rd=cut.recursive,
                timeout=timeout, checking_disabled=cut.recursive and context.validator is not None,
                randomise_case=case, cookie=cookie, subnet=None if subnet is None else encode_subnet(subnet),
                zone=cut.zone, budget=budget,
            )
            result = yield ask
        finally:
            if told is not None and subnets is not None:
                subnets.give(qname, qtype, told)
        if context.on_query_end is not None and not ask.joined:
            _note_query_end(context, cut.zone, result, asked)
        if isinstance(result, Failure):
            if task.trace is not None:
                task.note("failure", f"{server.address}: {result.text}", zone=cut.zone, server=server,
                          facts={"failure": result})
            if result.kind is FailureKind.CASE_MISMATCH and not tcp:
                # The server changes letter case, or the reply is forged. Neither matters over TCP.
                tcp, case = True, False
                table.note_tcp_only(key, context.monotonic)
                continue
            if result.kind is FailureKind.SPOOF_SUSPECTED and not tcp:
                # Nothing is noted about the server, because forged packets may be from anyone.
                tcp = True
                continue
            if result.kind is FailureKind.LOCAL_RESOURCE:
                # Nothing was sent, so nothing is noted about the server.
                if task.local_error is None:
                    task.local_error = result
            elif result.kind is FailureKind.NO_FAMILY:
                delegations.note_no_family(server.address, context.monotonic)
            elif result.kind is FailureKind.TIMEOUT or result.kind is FailureKind.NETWORK:
                if timeout >= own or result.kind is FailureKind.NETWORK:
                    if not ask.joined:
                        if not dead or timeout >= expected:  # a short wait does not put off the next probe
                            table.note_timeout(key, zone, asked, context.monotonic)
                        if timeout >= FIRST_TIMEOUT:  # a shorter pause of a fast server is no overload
                            fetches.note_result(key, timed_out=result.kind is FailureKind.TIMEOUT)
                elif timeout < FIRST_TIMEOUT or not dead:
                    # The wait was shortened for lack of time, which says nothing about the server and the names in its
                    # zones. An attacker can leave a query as little time as he likes for the target of his alias.
                    budget.exhausted = True
            return result
        view: MessageView = result.view
        delegations.note_reachable(server.address)
        if not ask.joined:
            table.note_reply(key, zone, result.rtt, context.monotonic, edns=view.edns is not None)
            fetches.note_result(key, timed_out=False)
        expected = table.timeout(key, zone, context.monotonic)
        if view.tc:
            if result.tcp:
                return Failure(FailureKind.MALFORMED, EDE_INVALID_DATA, f"{server.address} truncates even over TCP")
            tcp = True
            if task.trace is not None:
                task.note("truncated", f"the reply of {server.address} is truncated: queried again over TCP",
                          zone=cut.zone, server=server, rtt=result.rtt, rcode=view.rcode, facts={"reply": result})
            continue
        rcode = view.rcode
        if cookie is not None and result.connection is None:  # a query over TLS has none
            again = ""
            if result.cookie:
                if result.cookie != known:
                    known = cookie = result.cookie
                    table.note_cookie(key, known, context.monotonic)
                if rcode == BADCOOKIE:
                    # RFC 7873 section 5.3: once more with the new cookie, then over TCP, which proves our address.
                    bad_cookies += 1
                    tcp = tcp or bad_cookies > 1
                    again = "wants another cookie"
            elif known and not result.tcp:
                # A server that supports cookies would have sent one, so the reply may be forged.
                tcp = True
                again = "sent no cookie, although it supports them: queried again over TCP"
            elif (known or view.edns is not None) and (subnet is None or rcode != FORMERR):
                table.note_no_cookie(key, context.monotonic)
                if rcode == FORMERR and view.edns is not None:
                    cookie, known = None, b""
                    again = "fails with cookies: queried again without"
            if again:
                if task.trace is not None:
                    task.note("retry", f"{server.address} {again}", zone=cut.zone, server=server, rtt=result.rtt,
                              rcode=rcode, facts={"reply": result})
                continue
        # After the cookies: a forged reply must not take the subnet from all queries to this server. A format error of
        # a server without known cookies is attributed to the subnet first, and to the cookie if it fails again.
        if subnet is not None:
            assert subnets is not None
            problem = subnets.problem(subnet, rcode, view.edns)
            if problem:
                # RFC 7871 section 11.2: what is for another subnet is not used.
                subnet, refused_subnet = None, True
                if task.trace is not None:
                    task.note("retry", f"{server.address} {problem}: queried again without", zone=cut.zone,
                              server=server, rtt=result.rtt, rcode=rcode, facts={"reply": result})
                continue
        if rcode in NO_EDNS and payload is not None and (view.edns is None or rcode == BADVERS):
            if task.trace is not None:
                task.note("retry", f"{server.address} does not support EDNS: queried again without", zone=cut.zone,
                          server=server, rtt=result.rtt, rcode=rcode, facts={"reply": result})
            payload, refused_edns = None, True
            cookie, known, subnet = None, b"", None
            continue
        if refused_edns and rcode in (NOERROR, NXDOMAIN):
            server.edns_broken_until = context.monotonic + EDNS_BROKEN  # RFC 6891 section 6.2.2
        if refused_subnet and rcode in (NOERROR, NXDOMAIN):
            table.note_no_subnet(key, context.monotonic)
        if subnet is not None and subnets is not None:
            search.scope = subnets.scope_of(subnet, view.edns, qname, qtype, context.now)
        return result
    return Failure(FailureKind.MALFORMED, EDE_NETWORK_ERROR, f"{server.address} gives no usable reply")


def _note_query_end(context: Context, zone: bytes, result: Reply | Failure, asked: float) -> None:
    """Tell those who watch that a query to a server of `zone`, sent at the monotonic second `asked`, has ended."""
    note = context.on_query_end
    assert note is not None
    if not isinstance(result, Failure):
        note(zone, result.rtt, True)
    elif result.kind is FailureKind.TIMEOUT or result.kind is FailureKind.NETWORK:
        note(zone, context.monotonic - asked, False)


def _bad_code(rcode: int, server: Server, zone: bytes) -> Failure:
    if rcode in (NOERROR, NXDOMAIN):
        return Failure(FailureKind.LAME, EDE_INVALID_DATA, f"{server.address} contradicts itself")
    return Failure(FailureKind.RCODE, EDE_NO_REACHABLE_AUTHORITY,
                   f"{server.address} answers {rcode_to_text(rcode)} for {to_text(zone)}")


def _stop_at_configured_zone(found: Scrubbed, qname: bytes, qtype: int, context: Context) -> None:
    """End an alias chain where it leaves the current forward or stub zone, or enters another one or local names.

    Otherwise the servers of the surrounding zone could add data for names of that zone (CVE-2026-44687).
    """
    delegations = delegations_of(context)
    policy = context.policy
    side = delegations.forward_or_stub_for(zone_lookup_name(qname, qtype))

    def leaves_zone(name: bytes) -> bool:
        if policy is not None and policy.changes(Question(name, qtype)):
            return True
        return delegations.forward_or_stub_for(lower(name)) is not side

    cut_chain(found, leaves_zone)


def _look_up_addresses(
    cut: DelegationPoint, context: Context, task: Task, search: IterationState, looked_up: set[bytes]
) -> Steps[bool | Failure]:
    """Look up name servers of the zone cut until it has one more address; False when none was found.

    Names without an address are first, then names outside the zone, whose own zones may have other addresses than the
    glue.
    """
    delegations = delegations_of(context)
    zone = cut.zone
    candidates = [name for name in cut.missing if name not in looked_up]
    if not candidates:
        candidates = [name for name in cut.names if name not in looked_up and not is_subdomain(name, zone)]
    before = len(cut.servers)
    while candidates:
        if len(looked_up) >= LOOKUPS or search.missing >= MISSING:
            break
        if task.budget.missing >= MISSING_IN_ALL:
            # Spent on other zones, for example those of the aliases before: it says nothing about this one.
            task.budget.exhausted = True
            break
        name = candidates.pop(context.rng.below(len(candidates)))
        looked_up.add(name)
        gained = False
        for rtype in delegations.types:
            outcome = yield Need(Question(name, rtype), FOR_NS_ADDRESS)
            if isinstance(outcome, Failure):
                if task.trace is not None:
                    task.note("failure", f"address of {to_text(name)}: {outcome.text}", zone=zone)
                if outcome.kind in ABORTS_QUERY and task.budget.failure is not None:
                    return task.budget.failure
                break
            # The sub-query may have used this same zone cut and added the address to it.
            gained = _add_addresses(cut, name, rtype, outcome, context) or len(cut.servers) > before
            if gained:
                break
        if gained:
            return True
        search.missing += 1
        task.budget.missing += 1
    # The last resort: addresses that other known delegations have for these names.
    gained = False
    for name in cut.names:
        for address in delegations.glue_of(name):
            gained = cut.add_address(name, address, delegations.port) or gained
    return gained


def _add_addresses(cut: DelegationPoint, name: bytes, rtype: int, outcome: Outcome, context: Context) -> bool:
    delegations = delegations_of(context)
    gained = known = False
    for rrset in outcome.answer:
        if rrset.rtype != rtype:
            continue
        for rdata in rrset.rdatas():
            text = delegations.address_of(rdata)
            if text is not None:
                known = True
                gained = cut.add_address(name, text, delegations.port) or gained
        cut.until = min(cut.until, context.now + rrset.ttl)
    if known and name in cut.missing:
        cut.missing.remove(name)
    return gained
