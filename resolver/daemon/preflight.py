"""What a worker expects of its host: a clock that can be right, and descriptors enough."""

import resource
import time

from resolver import limits

__all__ = ["clock_trouble", "raise_descriptor_limit"]


def clock_trouble(now: int) -> str:
    """What is evidently wrong with the clock, in words for the log; empty when nothing is.

    A machine without a clock of its own starts in 1970, and a resolver that validates is of no use until it is set
    (RFC 4035 section 5.3.1); nothing else would say so but SERVFAIL for every signed name.
    """
    earliest, latest = limits.CLOCK_EARLIEST, limits.CLOCK_LATEST
    if earliest <= now < latest:
        return ""
    shown = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(max(now, 0)))
    why = "before the release of this program" if now < earliest else "too far in the future"
    return (
        f"clock: {shown} UTC is {why}: no signature is valid, so every name in a signed zone gets SERVFAIL. Set the"
        " clock (timedatectl set-ntp true, or date -s); a restart is not needed"
    )


def raise_descriptor_limit() -> None:
    """Take as many descriptors as the system grants: connections and upstream sockets need one each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
