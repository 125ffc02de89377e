"""The messages between the two processes of an upgrade, over a pair of Unix sockets (SOCK_SEQPACKET).

Each message is one datagram: an object of JSON whose ``kind`` says what it is, and the descriptors that belong to it.
The old process sends ``hello`` with the format first, then ``listener`` for each address of each worker, ``control``,
``metrics`` and ``web``, ``cache``, and ``end``. The new one replies ``ready``, or ``failed`` with the reason. Then the
old one sends ``main``: from then on the new process is the main process of the service. ``flushed`` in it says that
something was flushed from the cache after the copy in ``cache`` was begun. The old one ends the channel when the
service manager knows the new one, which takes over then. The end of file before ``main`` means that the other side has
ended, which is a failure of the upgrade.

The two processes may be of different versions. `FORMAT` changes when an older one would misunderstand a message. Keys
that a reader does not know are ignored. The cache has a version of its own (`resolver.cache.snapshot`).
"""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from resolver import limits

__all__ = ["FORMAT", "HandoverError", "Message", "receive", "send"]

FORMAT = 1

Message = dict[str, Any]


class HandoverError(ValueError):
    """A message that is not of this protocol, or another state than expected; the text says which."""


def send(channel: socket.socket, kind: str, content: Mapping[str, object], descriptors: Sequence[int] = ()) -> None:
    """Send one message.

    Raises:
        BlockingIOError: the other side has not read the earlier ones.
        OSError: it has ended, or the system refuses the descriptors.
    """
    data = json.dumps({**content, "kind": kind}).encode()
    if descriptors:
        socket.send_fds(channel, [data], list(descriptors))
    else:
        channel.send(data)


def receive(channel: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors, which the caller owns; None when the other side has ended.

    Raises:
        BlockingIOError: none has arrived.
        HandoverError: it is not of this protocol, or a descriptor was lost.
    """
    most = (limits.HANDOVER_MESSAGE, limits.HANDOVER_DESCRIPTORS)
    try:
        data, descriptors, flags, _ = socket.recv_fds(channel, *most)
    except ConnectionResetError:
        # The other side has ended before it had read everything. Linux reports that once, and before its last messages.
        data, descriptors, flags, _ = socket.recv_fds(channel, *most)
    try:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # older versions of Python ignore the flags of `recv_fds`
        if not data:
            return None
        if flags & socket.MSG_CTRUNC:
            raise HandoverError("upgrade: too few descriptors are left for the sockets; raise the limit of open files")
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
            raise HandoverError("upgrade: the other process has sent something that is no message")
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return message, descriptors
