"""Checks of the host at start: a plausible clock and the limit of descriptors.

Each finding names what is wrong and how to correct it. Nothing here is remembered.
"""

import errno
import resource
import time

from resolver import limits

__all__ = ["clock_problem", "descriptor_hint", "explain", "raise_descriptor_limit"]


def clock_problem(now: int) -> str:
    """A log message when the clock is evidently wrong, else "".

    A host without a battery-backed clock starts in 1970. Until its clock is set, no signature is valid (RFC 4035
    section 5.3.1), and SERVFAIL for signed names would be the only symptom.
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
    """Raise the soft limit of descriptors to the hard limit; each connection and upstream socket needs one.

    Raises:
        OSError: the limit is too low to start; the text says so.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < limits.DESCRIPTORS_LEAST:
        raise OSError(errno.EMFILE, f"{descriptor_hint()} {limits.DESCRIPTORS_LEAST} is the least.")


def descriptor_hint() -> str:
    """A sentence with the limit of descriptors of this process, and how to raise it."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return f"The limit of open files of this process is {limit}: raise it (ulimit -n, LimitNOFILE= under systemd)."


def explain(error: OSError) -> str:
    """The text of `error`, with the limit and the remedy when descriptors are lacking and it does not name them."""
    text = error.strerror or str(error)
    if error.errno != errno.EMFILE or (hint := descriptor_hint()) in text:
        return text
    return f"{text}. {hint}"
