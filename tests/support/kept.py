"""What resolutions have left in memory: objects of theirs that the garbage collector finds no reason to free.

A cycle through a compiled generator and a function nested in it is never freed: Cython gives closures no `tp_clear`,
and a built-in function has none either.
"""

import gc
from collections import Counter

from resolver.effects import Budget, Task
from resolver.jobs import Job

__all__ = ["kept_objects"]

KINDS = (Task, Job, Budget)


def kept_objects() -> dict[str, int]:
    """The number of objects of one resolution each that are alive, by type; of those that are not 0."""
    gc.collect()
    return dict(Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, KINDS)))
