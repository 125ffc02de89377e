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
from collections.abc import Callable

__all__ = ["call_as", "drop_root", "explain", "find_user", "is_user"]

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


def is_user(name: str) -> bool:
    """Whether this process runs as the user `name`, which exists."""
    return os.geteuid() == pwd.getpwnam(name).pw_uid


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


def call_as(name: str, function: Callable[[], None]) -> None:
    """Call `function` with the rights of the user `name`: in another process when this one is root, so that it stays
    root itself.

    Raises:
        ValueError: there is no such user, the system refuses, or `function` has raised it.
    """
    user = find_user(name)
    if user is None:
        function()
        return
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.close(reading)
            with open(writing, "w", errors="surrogateescape") as report:
                try:
                    drop_root(user)
                    function()
                except (ValueError, OSError, ImportError) as error:
                    report.write(explain(name, error) or getattr(error, "strerror", None) or str(error))
            status = 0
        except BaseException:  # noqa: BLE001 - the child must not continue the program of its parent
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, errors="surrogateescape") as report:
        trouble = report.read()
    _, status = os.waitpid(pid, 0)
    if trouble or status:
        raise ValueError(trouble or f"server.user: the check as {name} has failed; this is a bug")


def _program_files() -> list[str]:
    """The files of all loaded modules, and the directories where they are, from which others will be loaded."""
    loaded = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    files = sorted({file for file in loaded if isinstance(file, str) and os.path.isabs(file)})
    return [*files, *sorted({os.path.dirname(file) for file in files})]


def explain(name: str, error: Exception) -> str:
    """What to tell when `error` shows that the user `name` of server.user cannot read a part of the program, or ""."""
    if not name or not is_user(name):
        return ""
    if isinstance(error, ImportError):
        return f"server.user: {name} cannot load {error.name or 'a module'} ({error}); {FIX}"
    if isinstance(error, PermissionError) and str(error.filename).endswith((".py", ".so")):
        return f"server.user: {name} cannot read {error.filename}; {FIX}"
    return ""
