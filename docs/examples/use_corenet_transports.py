"""Transports are what the loop makes: here a datagram endpoint whose protocol takes whole batches."""

import asyncio

import corenet
from corenet.transports import DatagramTransport


class Collect(asyncio.DatagramProtocol):
    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.got: list[bytes] = []
        self.done = asyncio.get_running_loop().create_future()

    def datagrams_received(self, batch: list[tuple[bytes, tuple[str, int]]]) -> None:
        # One call for everything that one read of the socket brought; datagram_received works as well.
        self.got += [data for data, _address in batch]
        if len(self.got) == self.wanted:
            self.done.set_result(None)


async def main() -> None:
    loop = asyncio.get_running_loop()
    receiver, collected = await loop.create_datagram_endpoint(lambda: Collect(8), local_addr=("127.0.0.1", 0))
    sender, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=receiver.get_extra_info("sockname")
    )
    assert isinstance(sender, DatagramTransport)
    sender.send_many([(b"message %d" % number, None) for number in range(8)])
    await asyncio.wait_for(collected.done, 5)
    assert collected.got == [b"message %d" % number for number in range(8)]
    sender.close()
    receiver.close()


corenet.run(main())
