"""Serving from several processes: `serve`, and what a worker is told and may use (`Worker`).

One process opens the sockets, forks the workers, and replaces those that die or are to be renewed; it serves nobody
itself and has no event loop, so that nothing of a loop is ever forked. docs/serving.md says how to use it.
"""

from corenet.serving.entry import serve
from corenet.serving.worker import Service, Worker

__all__ = ["Service", "Worker", "serve"]
