"""What ``resolverctl health`` reports: the problems for which an operator or an orchestrator has to act.

A problem is a sentence that names its cause and place. Without problems the daemon is healthy. Failures of single
queries are none, because the reason may be anywhere on the Internet; the metrics count them.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

__all__ = ["problems"]


def problems(
    *,
    workers: list[Mapping[str, Any]],
    reload_problem: str,
    clock: str,
    certificates: Mapping[str, int],
    anchors: Mapping[str, Any] | None,
    zones: Sequence[str] = (),
    now: int,
    changes_problem: str = "",
    lists: Sequence[str] = (),
    balance: Sequence[str] = (),
    second_level: Sequence[str] = (),
) -> list[str]:
    """The problems of a daemon.

    `workers` are the replies to the command ``status``; `reload_problem` is why the last reload was refused, or empty;
    `clock` is what is wrong with the system's clock, or empty; `certificates` are the ends of validity by file, in
    seconds since 1970 as `now`; `anchors` is the reply to the command ``anchors``, None without automatic updates;
    `changes_problem` is why the file of run-time changes cannot be used, or empty; `zones` are the problems of own
    zones, `lists` those of block lists and response policy zones, `balance` those of balanced names, `second_level`
    those of the second-level cache.
    """
    found = [str(worker["error"]) for worker in workers if "error" in worker]
    # Once, although each worker writes to the same file.
    found += dict.fromkeys(f"query log: {worker['query-log']}" for worker in workers if "query-log" in worker)
    if reload_problem:
        found.append(f"the last reload was refused, and the configuration before it is in force: {reload_problem}")
    if changes_problem:
        found.append(changes_problem)
    if clock:
        found.append(clock)
    for file, end in certificates.items():
        if end <= now:
            since = f"{datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} UTC"
            found.append(f"tls.certificate: {file} expired on {since}, so clients refuse it; renew it and reload")
    if anchors is not None:
        if anchors["error"]:
            found.append(f"dnssec.auto-trust-anchor-file: {anchors['file']}: {anchors['error']}")
        found += [
            f"trust anchors: all keys of {zone['zone']} are revoked; its names cannot be validated"
            for zone in anchors["zones"]
            if not zone["trusted"]
        ]
    found += [*zones, *lists, *balance, *second_level]
    return found
