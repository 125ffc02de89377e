"""corenet: a fast asyncio loop on epoll and an HTTPS client on top of it.

``corenet.run(main())`` is all most programs need; ``corenet.new_event_loop`` goes wherever a loop factory is taken;
``corenet.install()`` is for programs that offer neither. Names that not every program needs (the client, the policy,
`serve`) are loaded when first used.
"""

from typing import TYPE_CHECKING, Any

from corenet._version import __version__
from corenet.loop import AddressResolver, Loop, install, new_event_loop, run
from corenet.transports import SocketOptions

if TYPE_CHECKING:
    from asyncio import DefaultEventLoopPolicy as EventLoopPolicy

    from corenet.http import HttpClient, get
    from corenet.serving import serve

__all__ = [
    "AddressResolver",
    "EventLoopPolicy",
    "HttpClient",
    "Loop",
    "SocketOptions",
    "__version__",
    "get",
    "install",
    "new_event_loop",
    "run",
    "serve",
]


def __getattr__(name: str) -> Any:
    if name in ("HttpClient", "get"):
        from corenet import http

        return getattr(http, name)
    if name == "serve":
        from corenet import serving

        return serving.serve
    if name == "EventLoopPolicy":
        from corenet.loop import policy

        return policy.make_policy_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
