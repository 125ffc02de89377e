"""corenet: a fast asyncio loop on epoll, streams and framed protocols in C, and an HTTPS client on top of them.

Most programs need only ``corenet.run(main())``. ``corenet.new_event_loop`` is a loop factory; ``corenet.install()`` is
for programs that accept neither. Everything except the loop is loaded when first used, so that programs that do not
use it do not pay for it.
"""

from typing import TYPE_CHECKING, Any

from corenet.core import lazy_exports  # isort: skip - before asyncio, see corenet.core.interpreter
from corenet.loop.loop import Loop, new_event_loop, run
from corenet.loop.name_resolution import AddressResolver

if TYPE_CHECKING:
    from asyncio import DefaultEventLoopPolicy as EventLoopPolicy

    from corenet._version import __version__
    from corenet.core.framer import (
        DelimiterFramer,
        FixedFramer,
        FrameError,
        FrameTooLarge,
        IncompleteFrame,
        LengthFramer,
    )
    from corenet.core.views import FrameView
    from corenet.http import HttpClient, get
    from corenet.loop.policy import install
    from corenet.loop.statistics import LoopStatistics
    from corenet.serving import serve
    from corenet.transports.framed_protocol import FramedProtocol
    from corenet.transports.options import SocketOptions
    from corenet.transports.streams import (
        StreamReader,
        StreamReaderProtocol,
        StreamWriter,
        open_connection,
        open_unix_connection,
        start_server,
        start_unix_server,
    )

__all__ = [
    "AddressResolver",
    "DelimiterFramer",
    "EventLoopPolicy",
    "FixedFramer",
    "FrameError",
    "FrameTooLarge",
    "FrameView",
    "FramedProtocol",
    "HttpClient",
    "IncompleteFrame",
    "LengthFramer",
    "Loop",
    "LoopStatistics",
    "SocketOptions",
    "StreamReader",
    "StreamReaderProtocol",
    "StreamWriter",
    "__version__",
    "get",
    "install",
    "new_event_loop",
    "open_connection",
    "open_unix_connection",
    "run",
    "serve",
    "start_server",
    "start_unix_server",
]

_FRAMER = "corenet.core.framer"
_STREAMS = "corenet.transports.streams"
_LAZY = {
    "DelimiterFramer": _FRAMER,
    "FixedFramer": _FRAMER,
    "FrameError": _FRAMER,
    "FrameTooLarge": _FRAMER,
    "FrameView": "corenet.core.views",
    "FramedProtocol": "corenet.transports.framed_protocol",
    "HttpClient": "corenet.http",
    "IncompleteFrame": _FRAMER,
    "LengthFramer": _FRAMER,
    "LoopStatistics": "corenet.loop.statistics",
    "SocketOptions": "corenet.transports.options",
    "StreamReader": _STREAMS,
    "StreamReaderProtocol": _STREAMS,
    "StreamWriter": _STREAMS,
    "__version__": "corenet._version",
    "get": "corenet.http",
    "install": "corenet.loop.policy",
    "open_connection": _STREAMS,
    "open_unix_connection": _STREAMS,
    "serve": "corenet.serving",
    "start_server": _STREAMS,
    "start_unix_server": _STREAMS,
}
_load, __dir__ = lazy_exports(globals(), _LAZY)


def __getattr__(name: str) -> Any:
    if name == "EventLoopPolicy":
        from corenet.loop import policy

        return policy.make_policy_class()
    return _load(name)
