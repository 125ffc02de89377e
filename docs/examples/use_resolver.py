"""Answers with their verdict, a failure with its reason, and the explanation of a query, in the playground."""

import corenet
import resolver
from resolver import playground


async def main() -> None:
    async with await playground.start(port=0) as world:
        settings = world.settings(resolver.Settings())
        async with resolver.Resolver(settings) as dns:
            answer = (await dns.resolve("www.example.playground", "A")).raise_for_failure()
            print(answer.verdict.name, list(answer), answer.ttl, "s")

            again = await dns.resolve("www.example.playground", "A")
            assert again.outcome.from_cache

            try:
                (await dns.resolve("nothing.example.playground", "A")).raise_for_failure()
            except resolver.NXDomain as error:
                print(error)

            report = await dns.explain("alias.example.playground", "AAAA")
            print(report)


corenet.run(main())
