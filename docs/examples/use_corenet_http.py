"""A verified HTTPS request, a stream with a bound, and an error; against the playground's own web site."""

import asyncio
import tempfile
from pathlib import Path

import corenet
import resolver
from corenet.http import HttpStatusError, NameResolutionError
from corenet.tls import client_context
from resolver import playground


async def main(authority: Path) -> None:
    async with await playground.start(port=0, web=True, web_port=0, ca=authority) as world:
        assert world.web is not None
        async with resolver.Resolver(world.settings(resolver.Settings())) as dns:
            resolver.install(asyncio.get_running_loop(), dns)
            site = f"https://www.example.playground:{world.web.port}"
            async with corenet.HttpClient(tls_context=client_context(cafile=authority)) as client:
                response = await client.get(site + "/")
                response.raise_for_status()
                print(response.status, response.headers["content-type"], len(response.body))

                async with client.stream("GET", site + "/") as streamed:
                    size = 0
                    async for piece in streamed:
                        size += len(piece)
                assert size == len(response.body)

                try:
                    (await client.get(site + "/nothing-here")).raise_for_status()
                except HttpStatusError as error:
                    print(error)
                try:
                    await client.get("https://nowhere.playground/")
                except NameResolutionError as error:
                    print(error)


with tempfile.TemporaryDirectory() as folder:
    corenet.run(main(Path(folder) / "authority.pem"))
