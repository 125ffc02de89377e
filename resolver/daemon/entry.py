"""The first instructions of resolverd. Signals come first, because loading the other modules is most of a start."""

from resolver.daemon.early_signals import hold_signals

__all__ = ["main"]


def main() -> int:
    """Run resolverd and return its exit status."""
    hold_signals()
    from resolver.daemon.main import main as run

    return run()
