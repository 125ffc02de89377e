"""What a starting resolverd does with signals for which it has no handlers yet.

No signal makes it print a traceback.
"""

import signal
from typing import Any

__all__ = ["hold_signals"]


def hold_signals() -> Any:
    """Until the worker or the supervisor handles them, block SIGHUP, SIGUSR1 and SIGUSR2, and let SIGINT end this
    process as SIGTERM does, without a traceback. Returns the handler of SIGINT before."""
    # They would kill a starting daemon. The worker unblocks them when it has handlers. In an upgrade they are blocked
    # from the first instruction on (`Successor`).
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2))
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not ignored, as in a background job of a shell
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return before
