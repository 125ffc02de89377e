"""Trace points: what a request is doing, named and timed, for people who ask where the time went.

The names are dns, connect, tls, request and response, each started, then done or failed; other packages may send points
of their own through the same callback. Nothing is made or called while nobody listens.
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
    """One step: `name` and `phase`, the loop's monotonic `time` in seconds, and what is worth knowing about it."""

    name: str
    phase: str
    time: float
    details: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        details = " ".join(f"{key}={value}" for key, value in self.details.items())
        return f"{self.name}.{self.phase}" + (f" {details}" if details else "")


Trace = Callable[[TracePoint], None]


def report(trace: Trace | None, name: str, phase: str, time: float, /, **details: Any) -> None:
    """Send one point if anybody listens."""
    if trace is not None:
        trace(TracePoint(name, phase, time, details))
