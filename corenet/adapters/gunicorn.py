"""Worker classes for gunicorn: ``gunicorn -k corenet.adapters.gunicorn.UvicornWorker`` and ``...AiohttpWorker``.

Each is the framework's own worker with another loop. A class is created at first use, because its base class comes from
an optional package (uvicorn-worker, aiohttp).
"""

import importlib
from typing import Any

import corenet

__all__ = ["AiohttpWorker", "UvicornWorker"]  # noqa: F822 - created by __getattr__


def __getattr__(name: str) -> Any:
    if name == "UvicornWorker":
        return uvicorn_worker()
    if name == "AiohttpWorker":
        return aiohttp_worker()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def uvicorn_worker() -> type[Any]:
    """The worker class of the package uvicorn-worker, on corenet."""
    parent: Any = importlib.import_module("uvicorn_worker").UvicornWorker

    class UvicornWorker(parent):  # type: ignore[misc]
        """Serves ASGI with uvicorn on corenet."""

        CONFIG_KWARGS = {**parent.CONFIG_KWARGS, "loop": "corenet:new_event_loop"}

    return UvicornWorker


def aiohttp_worker() -> type[Any]:
    """The worker class of aiohttp, on corenet."""
    parent: Any = importlib.import_module("aiohttp.worker").GunicornWebWorker

    class AiohttpWorker(parent):  # type: ignore[misc]
        """Serves aiohttp applications on corenet."""

        def init_process(self) -> None:
            """Set the event loop policy before the base class creates a loop."""
            corenet.install()
            super().init_process()

    return AiohttpWorker
