"""The sections [control], [metrics] and [log].

The control socket and the metrics are off until a path or an address is named.
"""

from dataclasses import dataclass

from resolver import limits
from resolver.options import check_limits, check_path, option, parse_listen

__all__ = ["ControlSettings", "LogSettings", "MetricsSettings"]


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """The control channel of resolverctl."""

    socket: str = option(
        "",
        "Path of the Unix socket for resolverctl. Only the user of the daemon and root can open it. Empty: no control"
        " socket.",
    )
    changes_file: str = option(
        "",
        "File in which negative trust anchors, forward and stub zones and local data that resolverctl adds at run time"
        " are kept. The daemon's user must be able to write to its directory. Empty: nothing can be added.",
    )

    def __post_init__(self) -> None:
        check_path(self.socket, "control.socket")
        check_path(self.changes_file, "control.changes_file")


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Metrics for Prometheus."""

    listen: str = option(
        "",
        "Address and port of GET /metrics over HTTP, for example 127.0.0.1:9335. There is no access control. It needs"
        " prometheus-client (pip install 'corenet-resolver[metrics]'). Empty: no metrics.",
    )

    def __post_init__(self) -> None:
        if self.listen:
            parse_listen(self.listen, limits.METRICS_PORT, "metrics.listen")


LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The log on standard error."""

    level: str = option("info", "Lowest severity that is logged: debug, info, warning or error.")
    rate_limit_interval: float = option(
        float(limits.LOG_INTERVAL.default),
        "Within this time, a repeated message is logged once, with a count of the repetitions, and at most"
        f" {limits.LOG_FAILURES} different failed queries are logged.",
        kind="seconds",
        limit=limits.LOG_INTERVAL,
    )

    def __post_init__(self) -> None:
        check_limits(self, "log")
        if self.level not in LOG_LEVELS:
            raise ValueError(f"log.level: {self.level!r} is not one of {', '.join(LOG_LEVELS)}")
