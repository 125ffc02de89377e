"""The servers of bench_streams: the same programs with framed protocols, with streams, and with a Python protocol.

The protocol has length prefixes of four bytes. A server either sends every message back, or only receives messages and
answers one whose first byte is 1 with an empty message.
"""

import asyncio
import struct
from typing import Any

import corenet

ACKNOWLEDGEMENT = b"\0\0\0\0"
SIZE = struct.Struct(">I")


class FramesEcho(corenet.FramedProtocol):
    """Sends every frame back."""

    def frames_received(self, frames: list[Any]) -> None:
        self.write_frames(frames)


class FramesReceive(corenet.FramedProtocol):
    """Reads the first byte of every frame."""

    def frames_received(self, frames: list[Any]) -> None:
        for frame in frames:
            if frame[0] == 1:
                self.write_frame(b"")


class ByHand(asyncio.Protocol):
    """The same in Python, written carefully."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.held = b""

    def data_received(self, data: bytes) -> None:
        unpack = SIZE.unpack_from
        if self.held:
            data = self.held + data
        at, end = 0, len(data)
        while end - at >= 4:
            (size,) = unpack(data, at)
            stop = at + 4 + size
            if stop > end:
                break
            message = data[at + 4 : stop]
            if message[0] == 1:
                self.transport.write(ACKNOWLEDGEMENT)
            at = stop
        self.held = data[at:]


async def readexactly_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Two reads for each message; every message is sent back."""
    try:
        while True:
            head = await reader.readexactly(4)
            body = await reader.readexactly(int.from_bytes(head, "big"))
            writer.write(head + body)
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        writer.close()


async def readexactly_receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Two reads for each message; its first byte is read."""
    try:
        while True:
            head = await reader.readexactly(4)
            body = await reader.readexactly(int.from_bytes(head, "big"))
            if body[0] == 1:
                writer.write(ACKNOWLEDGEMENT)
                await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        writer.close()


async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back what it receives."""
    try:
        while data := await reader.read(262144):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


PROTOCOLS = {
    "frames_echo": lambda: FramesEcho(corenet.LengthFramer(4)),
    "frames_receive": lambda: FramesReceive(corenet.LengthFramer(4)),
    "by_hand_receive": ByHand,
}
HANDLERS = {"readexactly_echo": readexactly_echo, "readexactly_receive": readexactly_receive, "streams": streams}


async def start(kind: str) -> asyncio.AbstractServer | None:
    """Start a server of `kind`; None when it is not one of these."""
    if kind in PROTOCOLS:
        return await asyncio.get_running_loop().create_server(PROTOCOLS[kind], "127.0.0.1", 0)
    if kind in HANDLERS:
        return await asyncio.start_server(HANDLERS[kind], "127.0.0.1", 0, limit=262144)
    if kind == "native_streams":
        return await corenet.start_server(streams, "127.0.0.1", 0, limit=262144)
    return None
