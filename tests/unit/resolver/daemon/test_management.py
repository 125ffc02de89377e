"""What the servers for administration share: a connection for which there is no memory is closed and keeps no place."""

import asyncio

import pytest
from support.shortage import FullDict

from resolver.daemon.management import ManagementServer


class Writer:
    closed = False

    def close(self) -> None:
        self.closed = True


class Quiet(ManagementServer):
    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("it was not taken in")


def test_shortage_of_memory_costs_a_connection_and_no_place() -> None:
    server, writer = Quiet(1, 100), Writer()
    server._open = FullDict()

    async def main() -> None:
        with pytest.raises(MemoryError):
            await server._on_connection(None, writer)  # type: ignore[arg-type]

    asyncio.run(main())
    assert writer.closed and not server._open
