"""The environment variable by which an upgrade tells the new process which descriptor leads to the old one.

It has a module of its own because every start of `resolverd` looks for it, also ``--check``, and the other modules of
an upgrade (`handover`, `predecessor`) load what only a serving daemon needs.
"""

__all__ = ["UPGRADE_VARIABLE"]

UPGRADE_VARIABLE = "RESOLVERD_UPGRADE"
"""Its value is the number of the descriptor of the new process's end."""
