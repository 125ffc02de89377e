"""Trace points: the named and timed steps of a request.

The names are dns, https and tlsa (records), connect, proxy, tls, request and response; each is started, then done or
failed. A point connect.attempt comes for each attempt while a resolver streams addresses. Other packages may send
their own points to the same callback. Without a callback nothing is created or called.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["DONE", "FAILED", "STARTED", "Trace", "TracePoint", "report"]

STARTED = "started"
DONE = "done"
FAILED = "failed"


@dataclass(frozen=True, slots=True)
class TracePoint:
    """One step: `name`, `phase`, `time` of the loop's clock in seconds, and details."""

    name: str
    phase: str
    time: float
    details: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        details = " ".join(f"{key}={value}" for key, value in self.details.items())
        return f"{self.name}.{self.phase}" + (f" {details}" if details else "")


Trace = Callable[[TracePoint], None]


def report(trace: Trace | None, name: str, phase: str, time: float, /, **details: Any) -> None:
    """Send one point to `trace` unless it is None."""
    if trace is not None:
        trace(TracePoint(name, phase, time, details))
