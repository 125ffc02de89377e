"""The systemd unit of ``resolverd --print-unit``: started at boot, watched, and confined to what the settings need.

The sandbox is made from the settings: a capability only for ports below 1024, write access only to the directories of
files that the daemon writes. systemd creates a user for the service (``DynamicUser``) unless ``server.user`` names one.
The directives are those of systemd 247 and later (systemd.exec(5)).
"""

import os
import shutil
from pathlib import Path

from resolver import limits
from resolver.daemon.file_uses import uses_of
from resolver.settings import Settings

__all__ = ["render"]

_PRIVILEGED_PORTS = 1024
HOMES = ("home", "root", "run/user")
"""The folders that ProtectHome= hides (systemd.exec(5)). A program in one needs it readable."""
_STATE, _RUNTIME, _LOGS = Path("/var/lib"), Path("/run"), Path("/var/log")

_UNIT = """\
[Unit]
Description=Recursive DNS resolver (resolverd)
Documentation=man:resolv.conf(5)
Wants=network-online.target nss-lookup.target
After=network-online.target
Before=nss-lookup.target

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
# After an installation, "resolverctl upgrade" or SIGUSR2 to the main process replaces it without a lost query.
Restart=always
RestartSec=1
WatchdogSec={watchdog}
TimeoutStopSec={stop}
LimitNOFILE={files}
{user}{directories}
# What the daemon may do: sockets of the Internet and of Unix, and the files above.
{capabilities}NoNewPrivileges=yes
SecureBits=noroot-locked
ProtectSystem=strict
ProtectHome={home}
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers={private_users}
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
KeyringMode=private
UMask=0077
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def render(settings: Settings, program: str, config: str | None) -> str:
    """The unit for `settings`. `program` is the command that was run, `config` the configuration file.

    Raises:
        ValueError: a path cannot be written in a unit.
    """
    command = [_absolute(program)]
    if config:
        command += ["--config", os.path.abspath(config)]
    low = any(listener.key[1] < _PRIVILEGED_PORTS for listener in settings.listeners)
    capability = "CAP_NET_BIND_SERVICE" if low else ""
    return _UNIT.format(
        command=" ".join(_quoted(word) for word in command),
        watchdog=limits.UNIT_WATCHDOG,
        stop=limits.UNIT_STOP,
        files=limits.UNIT_DESCRIPTORS,
        user=f"User={settings.server.user}\n" if settings.server.user else "DynamicUser=yes\n",
        directories=_directories(settings),
        capabilities=(f"AmbientCapabilities={capability}\n" if low else "") + f"CapabilityBoundingSet={capability}\n",
        home="read-only" if any(_under_home(word) for word in command) else "yes",
        # In a separate user namespace the capability would not apply to the host's ports.
        private_users="no" if low else "yes",
    )


def _absolute(program: str) -> str:
    return os.path.abspath(shutil.which(program) or program)


def _under_home(path: str) -> bool:
    """Whether ProtectHome=yes would hide `path`."""
    return any(path.startswith(f"/{folder}/") for folder in HOMES)


def _quoted(word: str) -> str:
    """`word` as systemd reads it back (systemd.service(5), "Command lines").

    Raises:
        ValueError: it has a line end.
    """
    if "\n" in word:
        raise ValueError(f"the path {word!r} has a line end, which a unit cannot hold")
    word = word.replace("%", "%%").replace("$", "$$")
    if not word or set(word) & set(" \t'\"\\;"):
        return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return word


def _directories(settings: Settings) -> str:
    """The directives that let the daemon write where the settings say. Below /var/lib, /run and /var/log,
    systemd makes the directories."""
    lines: list[str] = []
    for path in (use.path for use in uses_of(settings) if use.writes):
        directory = Path(os.path.abspath(path)).parent
        for base, directive in ((_STATE, "StateDirectory"), (_RUNTIME, "RuntimeDirectory"), (_LOGS, "LogsDirectory")):
            if base in directory.parents:
                line = f"{directive}={directory.relative_to(base)}"
                break
        else:
            line = f"ReadWritePaths={_quoted(str(directory))}"
        if line not in lines:
            lines.append(line)
    return "".join(line + "\n" for line in lines)
