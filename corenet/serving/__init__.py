"""Serving from several processes: `serve`, and `Worker`, which each application gets.

The supervisor process opens the sockets, forks the workers, and replaces those that die or are to be reloaded. It
accepts no connections and has no event loop, so that no loop is ever forked. docs/serving.md describes the use.
"""

from corenet.serving.entry import serve
from corenet.serving.worker import Service, Worker

__all__ = ["Service", "Worker", "serve"]
