"""Opens the sockets of addresses that a reload adds, and explains why one cannot be served, at start too.

Sockets that are in use stay open until the switch, so an address can be in the way of another one of the same daemon.
"""

import errno
from collections.abc import Sequence

from resolver.daemon import sockets
from resolver.daemon.sockets import Endpoint, ListenError
from resolver.settings import Settings

__all__ = ["open_new", "with_setting"]


def open_new(given: Settings, served: Sequence[Endpoint], config: str) -> list[Endpoint]:
    """Open sockets for the addresses of `given` that are not among `served`. `config` is the configuration file, or "".

    Raises:
        ListenError: an address is not available.
    """
    keys = {endpoint.key for endpoint in served}
    new = tuple(listener.key for listener in given.listeners if listener.key not in keys)
    lenient = given.server.listen == Settings().server.listen  # as at start
    try:
        return sockets.open_endpoints(new, freebind=given.freebound, lanes=given.server.lanes, lenient=lenient,
                                      enough=bool(keys))[0]
    except ListenError as error:
        raise with_setting(_explain_own_port(error, served), given, config) from None


def _explain_own_port(error: ListenError, served: Sequence[Endpoint]) -> ListenError:
    """`error`, with another text when this daemon itself uses the port."""
    if error.errno != errno.EADDRINUSE or error.endpoint is None:
        return error
    address, port, _ = error.endpoint
    whole = "::" if ":" in address else "0.0.0.0"
    for own in served:
        if own.port == port and (":" in own.address) == (":" in address) and whole in (own.address, address):
            text = f"cannot listen on {address} port {port} while this daemon serves {own}; restart to change it"
            return ListenError(error.errno, text, endpoint=error.endpoint)
    return error


def with_setting(error: ListenError, given: Settings, config: str) -> ListenError:
    """`error` with the setting that names the address, and its line in the configuration file; as it is when it is not
    about one address."""
    if error.endpoint is None:
        return error
    setting, wanted = "server.listen", ""
    for number, listener in enumerate(given.listeners):
        if listener.key == error.endpoint:
            wanted = listener.address
            setting = "server.listen" if number < len(given.server.listen) else "listener"
    reason = ValueError(f"{setting}: {wanted!r}: {error.strerror}")
    if config:
        from resolver.daemon.config import add_location

        reason = add_location(config, reason)
    return ListenError(error.errno, str(reason), endpoint=error.endpoint)
