"""corenet: a fast asyncio loop on epoll and an HTTPS client on top of it.

``corenet.run(main())`` is all most programs need; ``corenet.new_event_loop`` goes wherever a loop factory is taken.
The client's names are loaded when first used, so that programs without it do not pay for it.
"""

from typing import TYPE_CHECKING, Any

from corenet._version import __version__
from corenet.loop import AddressResolver, Loop, new_event_loop, run
from corenet.transports import SocketOptions

if TYPE_CHECKING:
    from corenet.http import HttpClient, get

__all__ = ["AddressResolver", "HttpClient", "Loop", "SocketOptions", "__version__", "get", "new_event_loop", "run"]

LAZY = ("HttpClient", "get")


def __getattr__(name: str) -> Any:
    if name in LAZY:
        from corenet import http

        return getattr(http, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
