"""Pipe transports beside asyncio's: end of file, a reader that goes away, queued writes, refusals."""

import asyncio
import os
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
from support.twin import Recorder, loop_factory, twin

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]


async def both_ends() -> tuple[Recorder, Recorder]:
    loop = asyncio.get_running_loop()
    read, write = os.pipe()
    _, reader = await loop.connect_read_pipe(Recorder, os.fdopen(read, "rb", 0))
    _, writer = await loop.connect_write_pipe(Recorder, os.fdopen(write, "wb", 0))
    return reader, writer


def test_data_and_end_of_file(twin: Twin) -> None:
    async def main() -> None:
        reader, writer = await both_ends()
        assert isinstance(reader.transport, asyncio.ReadTransport)
        assert isinstance(writer.transport, asyncio.WriteTransport)
        assert writer.transport.get_extra_info("pipe") is not None
        writer.transport.write(b"x" * 1_000_000)
        writer.transport.write_eof()
        await reader.lost
        await writer.lost
        assert len(reader.data) == 1_000_000
        assert reader.events[-2:] == ["eof", "lost"]

    twin(main())


def test_flow_control(twin: Twin) -> None:
    async def main() -> None:
        reader, writer = await both_ends()
        reader.transport.pause_reading()
        while "pause" not in writer.events:
            writer.transport.write(b"x" * 50_000)
        reader.transport.resume_reading()
        await writer.until(lambda: "resume" in writer.events)
        writer.transport.close()
        await reader.lost
        await writer.lost

    twin(main())


def test_reader_goes_away(twin: Twin) -> None:
    async def main() -> None:
        reader, writer = await both_ends()
        reader.transport.close()
        await reader.lost
        assert await writer.lost is None

    twin(main())


def test_reader_goes_away_with_data_queued(twin: Twin) -> None:
    async def main() -> None:
        reader, writer = await both_ends()
        reader.transport.pause_reading()
        while writer.transport.get_write_buffer_size() == 0:
            writer.transport.write(b"x" * 50_000)
        reader.transport.close()
        await reader.lost
        assert isinstance(await writer.lost, BrokenPipeError)

    twin(main())


def test_regular_files_are_refused(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with tempfile.TemporaryFile() as file:
            with pytest.raises(ValueError, match="Pipe transport"):
                await loop.connect_read_pipe(Recorder, file)
            with pytest.raises(ValueError, match="Pipe transport"):
                await loop.connect_write_pipe(Recorder, file)

    twin(main())
