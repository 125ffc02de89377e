"""Worker classes for gunicorn: ``gunicorn -k corenet.adapters.gunicorn.UvicornWorker`` and ``...AiohttpWorker``.

Each is the worker of its framework with another loop; nothing else of it is changed. A class is made when it is first
asked for, because its parent comes from a package that need not be there (uvicorn-worker, aiohttp).
"""

import importlib
from typing import Any

import corenet

__all__ = ["AiohttpWorker", "UvicornWorker"]  # noqa: F822 - made by __getattr__


def __getattr__(name: str) -> Any:
    if name == "UvicornWorker":
        return uvicorn_worker()
    if name == "AiohttpWorker":
        return aiohttp_worker()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def uvicorn_worker() -> type[Any]:
    """The worker of the package uvicorn-worker, on corenet."""
    parent: Any = importlib.import_module("uvicorn_worker").UvicornWorker

    class UvicornWorker(parent):  # type: ignore[misc]
        """ASGI by uvicorn, on corenet."""

        CONFIG_KWARGS = {**parent.CONFIG_KWARGS, "loop": "corenet:new_event_loop"}

    return UvicornWorker


def aiohttp_worker() -> type[Any]:
    """The worker that comes with aiohttp, on corenet."""
    parent: Any = importlib.import_module("aiohttp.worker").GunicornWebWorker

    class AiohttpWorker(parent):  # type: ignore[misc]
        """aiohttp's applications, on corenet."""

        def init_process(self) -> None:
            """Choose the loop before the parent makes one."""
            corenet.install()
            super().init_process()

    return AiohttpWorker
