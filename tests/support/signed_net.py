"""The signed playground in virtual time: a `FakeNet` of its servers and a validating mesh that uses it.

Signatures are verified by the real cryptography, synchronously. A test states a query and the expected verdict.
"""

from support.fakenet import FakeNet, SeededRandom, hosts_from
from support.minet import Minet

from resolver.cache import Store
from resolver.explain import Explanation, Recorder, build_explanation
from resolver.mesh import Mesh
from resolver.playground import World
from resolver.settings import DnssecSettings, IterationSettings, RootServer, Settings
from resolver.validate.verify import check
from resolver.wire import name as names

__all__ = ["NOW", "Crypto", "explained", "resolver_in"]

NOW = 1_700_000_000


class Crypto:
    """Checks in place."""

    def verify(self, jobs, on_done) -> None:
        on_done([check(job) for job in jobs])


def resolver_in(world: World) -> Minet:
    """A resolver with the world's roots and anchor, and an empty cache."""
    roots = tuple(RootServer(names.to_text(name), tuple(addresses)) for name, addresses in world.root_hints)
    settings = Settings(
        root_hints=roots,
        dnssec=DnssecSettings(trust_anchors=world.trust_anchors),
        iteration=IterationSettings(do_not_query_localhost=False, do_ip6=False),
    )
    net = FakeNet(hosts_from(world.authorities))
    store = Store.create(1 << 22, seed=bytes(16))
    mesh = Mesh(exchange=net, crypto=Crypto(), clock=net, rng=SeededRandom(3), store=store, settings=settings)
    return Minet(net, mesh, store, settings)


def explained(minet: Minet, name: str, rtype: str = "A", *, validating: bool = True) -> Explanation:
    """The explanation of one query, in virtual time."""
    began, now = minet.net.monotonic(), minet.net.time()
    steps = Recorder(minet.net.monotonic)
    outcome = minet.ask(name, rtype, trace=steps)
    return build_explanation(steps, outcome, seconds=minet.net.monotonic() - began, now=now, validating=validating)
