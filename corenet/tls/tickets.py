"""Session ticket keys of a server, chosen by the program instead of by OpenSSL.

The C side is `corenet.tls.ticket_keys`, which is loaded when keys are first set.
"""

import ssl
from collections.abc import Sequence

from corenet.tls.libssl import load

__all__ = ["set_ticket_keys"]


def set_ticket_keys(context: ssl.SSLContext, keys: Sequence[bytes]) -> None:
    """Make a server's context encrypt the session tickets of later handshakes with the first of `keys`, and accept
    tickets of all of them.

    A key has 80 bytes from a cryptographic source, such as ``os.urandom(80)``. Processes with the same keys resume each
    other's sessions. An attacker who learns a key can read the recorded TLS 1.2 connections that were resumed with its
    tickets. So keys are changed at least once a day and never stored, and the former one is accepted for one more
    period. All contexts of one port need the same keys, also those that an SNI callback chooses.

    Raises:
        ValueError: there is no key, there are more than four, or one has another size.
        RuntimeError: keys cannot be set with this Python's ssl; the message gives the reason.
    """
    from corenet.tls.ticket_keys import install_keys, missing

    reason = load() or missing()
    if reason is not None:
        raise RuntimeError(f"session ticket keys cannot be set: {reason}")
    install_keys(context, list(keys))
