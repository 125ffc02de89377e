"""A `RecordResolver` with fixed answers, and the wire form of HTTPS and TLSA records."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from corenet.loop import Records

__all__ = ["FixedRecords", "https_record", "name_wire", "param", "tlsa_record"]


def name_wire(text: str) -> bytes:
    """A name without compression; "" and "." are the root."""
    labels = [label.encode("latin-1") for label in text.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def param(key: int, value: bytes) -> bytes:
    """One SvcParam."""
    return key.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value


def https_record(
    priority: int,
    target: str,
    *,
    alpn: tuple[str, ...] = (),
    default: bool = True,
    port: int | None = None,
    hints: tuple[str, ...] = (),
    mandatory: tuple[int, ...] = (),
    more: bytes = b"",
) -> bytes:
    """The data of an HTTPS record; `default=False` is no-default-alpn, `more` are parameters with higher keys."""
    data = priority.to_bytes(2, "big") + name_wire(target)
    if mandatory:
        data += param(0, b"".join(key.to_bytes(2, "big") for key in mandatory))
    if alpn:
        data += param(1, b"".join(bytes([len(one)]) + one.encode() for one in alpn))
    if not default:
        data += param(2, b"")
    if port is not None:
        data += param(3, port.to_bytes(2, "big"))
    four = [socket.inet_pton(socket.AF_INET, one) for one in hints if ":" not in one]
    six = [socket.inet_pton(socket.AF_INET6, one) for one in hints if ":" in one]
    if four:
        data += param(4, b"".join(four))
    if six:
        data += param(6, b"".join(six))
    return data + more


def tlsa_record(usage: int, selector: int, matching: int, data: bytes) -> bytes:
    """The data of a TLSA record."""
    return bytes((usage, selector, matching)) + data


@dataclass
class FixedRecords:
    """Answers from `addresses` (host to lists that come one after the other) and `records` ((name, type) to answers).

    A value that is an exception is raised. An event among the lists is waited for, and names and types in `held` are
    not answered before their event is set.
    """

    addresses: dict[str, Any] = field(default_factory=dict)
    records: dict[tuple[str, int], Any] = field(default_factory=dict)
    held: dict[tuple[str, int], asyncio.Event] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        raise AssertionError(f"getaddrinfo was asked for {host}")

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> Any:
        raise AssertionError("getnameinfo was asked")

    async def stream_addresses(self, host: str, port: int) -> AsyncIterator[Any]:
        self.asked.append((host, 0))
        await self._wait(host, 0)
        found = self.addresses.get(host, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
        if isinstance(found, Exception):
            raise found
        for known in found:
            if isinstance(known, asyncio.Event):
                await known.wait()
                continue
            yield [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (one, port, 0, 0)) if ":" in one
                else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port))
                for one in known
            ]  # fmt: skip

    async def lookup_records(self, name: str, rdtype: int) -> Records:
        self.asked.append((name, rdtype))
        await self._wait(name, rdtype)
        found = self.records.get((name, rdtype), Records(name, False, ()))
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, Records)
        return found

    async def _wait(self, name: str, rdtype: int) -> None:
        await asyncio.sleep(0)
        event = self.held.get((name, rdtype))
        if event is not None:
            await event.wait()
