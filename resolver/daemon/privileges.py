"""Drops root: the daemon becomes the user of ``server.user`` when its sockets are open.

The order is fixed: supplementary groups, group, user, because each step needs the privilege that the last one gives up
(CWE-250). Afterwards it is checked that root cannot be had back. What is opened later, as at a reload, is opened as the
user: files must be readable by it, and new ports below 1024 cannot be bound. That holds for the program itself, parts
of which are loaded later: that the user can read it is checked at once, and what is missed is told by `explain`.
"""

import errno
import os
import pwd
import sys

__all__ = ["drop_root", "explain", "find_user"]

FIX = "install Python and all packages where every user can read them"


def find_user(name: str) -> pwd.struct_passwd | None:
    """The user that the daemon becomes; None when `name` is empty or this process is not root.

    Raises:
        ValueError: there is no such user, or it is root.
    """
    if not name:
        return None
    try:
        found = pwd.getpwnam(name)
    except (KeyError, ValueError):  # ValueError: it has a zero octet
        raise ValueError(f"server.user: this system has no user {name!r}") from None
    if not found.pw_uid:
        raise ValueError(f"server.user: {name!r} is root; name a user without privileges")
    return found if not os.geteuid() else None


def drop_root(user: pwd.struct_passwd) -> None:
    """Become `user` for good.

    Raises:
        OSError: the system refuses, for instance in a user namespace that has no such id; or the user cannot read this
            program, parts of which are loaded later.
    """
    files = [file for file in _program_files() if os.path.exists(file)]  # a module may be in a ZIP archive
    os.initgroups(user.pw_name, user.pw_gid)
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    if 0 in os.getresuid():
        raise PermissionError(errno.EPERM, "root could be had back after server.user was applied")
    for file in files:
        if not os.access(file, os.R_OK):
            raise PermissionError(errno.EACCES, f"server.user: {user.pw_name} cannot read {file}; {FIX}")


def _program_files() -> list[str]:
    """The files of all loaded modules, and the directories where they are, from which others will be loaded."""
    loaded = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    files = sorted({file for file in loaded if isinstance(file, str) and os.path.isabs(file)})
    return [*files, *sorted({os.path.dirname(file) for file in files})]


def explain(name: str, error: Exception) -> str:
    """What to tell when `error` shows that the user `name` of server.user cannot read a part of the program, or ""."""
    if not name or os.geteuid() != pwd.getpwnam(name).pw_uid:
        return ""
    if isinstance(error, ImportError):
        return f"server.user: {name} cannot load {error.name or 'a module'} ({error}); {FIX}"
    if isinstance(error, PermissionError) and str(error.filename).endswith((".py", ".so")):
        return f"server.user: {name} cannot read {error.filename}; {FIX}"
    return ""
