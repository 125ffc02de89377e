"""Runs worlds: `python tests/simulation/dns/run.py --worlds 1000`, or one with all its steps: `--seed N --trace`.

One run has a world made from a seed, liars in front of some of its servers, in some worlds an off-path forger, a
resolver with an empty cache, and clients that query it in virtual time, in some worlds by packets too (`clients.py`).
After each answer the invariants are checked (`truth.py`; work and time here), and those of the mesh after each of its
steps. A failing seed is shrunk by leaving out queries and lies while it still fails. The rest is printed, and the same
command repeats it.
"""

import argparse
import hashlib
import logging
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[3]), str(Path(__file__).resolve().parents[2])]

from simulation.dns.clients import Asked, ClientQuery, Front
from simulation.dns.liars import Forger, Liar, Lies
from simulation.dns.truth import Oracle
from simulation.dns.world import EVIL, MALLORY, SimulatedCrypto, World, root_anchor
from support.fakenet import FakeNet, Host, Link, SeededRandom
from support.kept import kept_objects
from support.mesh_invariants import broken_invariants

from resolver import limits
from resolver.cache import Store
from resolver.effects import Outcome, Question, TraceStep
from resolver.mesh import Mesh
from resolver.playground.authority import Authority
from resolver.settings import (
    CacheSettings,
    DnssecSettings,
    IterationSettings,
    PolicySettings,
    RootServer,
    ServerSettings,
    Settings,
)
from resolver.wire import consts as c
from resolver.wire import name as names

TYPES = (c.A, c.A, c.TXT, c.TLSA, c.MX, c.CNAME, c.DS, c.DNSKEY, c.NS, c.SOA, c.DNAME, c.AAAA)
WAITS = (0.5, 30.0, 61.0, 301.0, 950.0, 5100.0, 90000.0)
HOME_NETWORK = "10.6.6.0/24"
CACHE_BYTES = 1 << 20
FORGED_WORLDS = 0.4
STALE_WORLDS = 0.4
SERVE_STALE = 3 * 86400
BOGUS_WORLDS = 0.25
"""Share of worlds whose liars use only tricks that validation detects, so that every server answers every query."""
FOCUSED_WORLDS = 0.4
"""Share of worlds with queries for names of one zone and its parent, and for few types, so that the cache is used."""
SLOW_SERVERS = 0.08
"""Share of the servers of a world with liars whose replies come late and out of order."""
FRONT_WORLDS = 0.3
"""Share of worlds with clients that send packets."""
SMALL_WORLDS = 0.3
"""Share of worlds whose tables beside the cache are full after a few zones."""
SMALL_DENIALS, SMALL_DELEGATIONS, SMALL_KEYS = 8_000, 64_000, 2  # octets, octets, zones
EVERYTHING = 0.1
"""Share of queries that are changed to ANY."""
REPEATED = 0.2
BAITED = 0.2
SUB_QUERIES = 100
"""What one client query may cost beyond its own answer: twice the highest cost that was ever seen, and far below the
limits, so that work done twice is noticed."""
ANSWER_SECONDS = 30.0
"""Seconds beyond any deadline: a query without an answer by then never gets one."""


@dataclass
class Report:
    """The result of one run. `wrong` is empty when nothing failed."""

    seed: int
    wrong: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    lies: dict[str, str] = field(default_factory=dict)
    queries: int = 0


@cache
def settings_for(root: tuple[str, ...], serve_stale: int, welcome: bytes | None) -> Settings:
    """`welcome` is the zone whose names may have addresses in the clients' own network; None: any zone."""
    home = PolicySettings() if welcome is None else PolicySettings(
        private_addresses=(HOME_NETWORK,), private_domains=(names.to_text(welcome),)
    )
    return Settings(
        policy=home,
        cache=CacheSettings(max_stale_ttl=serve_stale),
        root_hints=(RootServer("ns0.", root),),
        server=ServerSettings(minimal_any=False),
        dnssec=DnssecSettings(trust_anchors=(root_anchor(),)),
        iteration=IterationSettings(do_ip6=False),
    )


def play(
    seed: int,
    *,
    only: frozenset[int] | None = None,
    without: frozenset[str] = frozenset(),
    trace: bool = False,
) -> Report:
    """Run the world of `seed`; `only` keeps these queries, `without` leaves these lies out."""
    with counted_hashes() as hashes:
        return _Run(seed, only, without, trace, hashes).go()


@dataclass
class Hashes:
    """Counts the NSEC3 hashes of the resolver: each iteration calls SHA-1 once."""

    made: int = 0

    def outside(self, host: Host) -> Host:
        """`host`, without counting its own hashes."""

        def answer(packet: bytes, tcp: bool) -> bytes | None:
            before = self.made
            try:
                return host(packet, tcp)
            finally:
                self.made = before

        return answer


class Turns:
    """Drives the mesh as the network does, records the jobs started in one call of `tick`, and checks its invariants.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.longest = 0
        self.broken: dict[str, None] = {}
        """Sentences about the invariants of the mesh that did not hold."""

    def next_timer(self) -> float:
        return self.mesh.next_timer()

    def tick(self, now: float) -> float | None:
        counts = self.mesh._counts
        before = counts["jobs"]
        due = self.mesh.tick(now)
        self.longest = max(self.longest, counts["jobs"] - before)
        self.broken.update(dict.fromkeys(broken_invariants(self.mesh)))
        return due


@contextmanager
def counted_hashes() -> Iterator[Hashes]:
    """Count all calls of SHA-1 by the resolver."""
    hashes, real = Hashes(), hashlib.sha1

    def sha1(*arguments: bytes, **options: bool) -> object:
        hashes.made += 1
        return real(*arguments, **options)

    hashlib.sha1 = sha1
    try:
        yield hashes
    finally:
        hashlib.sha1 = real


class _Run:
    def __init__(
        self, seed: int, only: frozenset[int] | None, without: frozenset[str], trace: bool, hashes: Hashes
    ) -> None:
        self.hashes = hashes
        self.rng = rng = random.Random(f"run {seed}")
        self.only, self.trace = only, trace
        self.report = Report(seed)
        self.net = FakeNet({}, {}, seed & 0xFFFF)
        self.world = World.make(seed, self.net.time())
        hosts = self.world.hosts
        # A quarter of the worlds is honest: there an answer is required, and not only that it is not wrong.
        count = rng.choice((0, 1, 1, 2, len(hosts)))
        chosen = set(rng.sample(sorted(hosts), min(count, len(hosts))))
        if count:
            chosen |= {*self.world.sites[EVIL].addresses, *self.world.sites[MALLORY].addresses}
        # A separate generator, so that a further choice does not change the others.
        self.ways = ways = random.Random(f"ways {seed}")
        bogus_only = ways.random() < BOGUS_WORLDS
        self.lies = Lies(self.world, share=rng.choice((0.1, 0.3, 0.9)), without=without, bogus_only=bogus_only)
        slow = random.Random(f"slow {seed}")
        for address, sites in hosts.items():
            authority = Authority([site.zone for site in sites])
            host: Host = (
                Liar(self.lies, address, sites, authority)
                if address in chosen
                else lambda packet, tcp, authority=authority: authority.answer(packet, tcp=tcp)
            )
            self.net.hosts[address] = hashes.outside(host)
            if count and rng.random() < 0.1 and not bogus_only:
                self.net.links[address] = Link(loss=0.3, delay=0.05)
            if count and slow.random() < SLOW_SERVERS and not bogus_only:
                # Some replies come after the timeout of their query, and before or after those to later ones.
                delay = slow.choice((0.05, 0.4, 1.0))
                self.net.links[address] = Link(loss=slow.choice((0.0, 0.1)), delay=delay, jitter=2.0)
        if random.Random(f"forger {seed}").random() < FORGED_WORLDS and not bogus_only:
            self.net.forge = Forger(self.lies)
        outages = self.net.forge is not None or (count > 0 and not bogus_only) or bool(self.world.baits)
        self.oracle = Oracle(self.world, chosen, unsure=self.net.links, outages=outages)
        self.crypto = SimulatedCrypto()
        serve_stale = SERVE_STALE if ways.random() < STALE_WORLDS else 0
        welcome = self.world.welcome if self.world.home else None
        settings = settings_for(self.world.sites[names.ROOT].addresses, serve_stale, welcome)
        store = Store.create(CACHE_BYTES, seed=bytes(16))
        self.mesh = Mesh(exchange=self.net, crypto=self.crypto, clock=self.net, rng=SeededRandom(seed), store=store,
                         settings=settings)
        if random.Random(f"memory {seed}").random() < SMALL_WORLDS:
            store.denials.limit, self.mesh._delegations.delegations.limit = SMALL_DENIALS, SMALL_DELEGATIONS
            if self.mesh.validation is not None:
                self.mesh.validation.chain.parsed.most = SMALL_KEYS
        self.turns = Turns(self.mesh)
        self.packets = settings.iteration.max_upstream_queries
        self.serves_stale = serve_stale > 0
        front = random.Random(f"front {seed}").random() < FRONT_WORLDS
        self.front = Front(settings, self.mesh, store, self.net) if front else None
        self.everything = random.Random(f"everything {seed}")

    def go(self) -> Report:
        rng, ways, known = self.rng, self.ways, self.world.interesting_names()
        types = TYPES
        if ways.random() < FOCUSED_WORLDS:
            site = ways.choice([site for site in self.world.sites.values() if site.parent is not None])
            known = self.world.interesting_names([one for one in (site, site.parent) if one is not None])
            types = tuple(ways.choices(TYPES, k=2))
        before: list[Question] = []
        for number in range(len(self.world.prelude) + rng.randint(4, 14)):
            wait = rng.choice(WAITS) if rng.random() < 0.3 else 0.0
            asked = [(self.question(rng.choice(known), types), rng.random() < 0.2)
                     for _ in range(rng.choice((1, 1, 2, 3)))]
            if number < len(self.world.prelude):
                asked = [(Question(*self.world.prelude[number]), False)]
            elif before and ways.random() < REPEATED:
                asked = [(ways.choice(before), ways.random() < 0.5)]
            elif self.world.baits and ways.random() < BAITED:
                asked = [(Question(*ways.choice(self.world.baits)), False)]
            if number >= len(self.world.prelude):
                asked = [(self.all_of(question, before) if self.everything.random() < EVERYTHING else question, cd)
                         for question, cd in asked]
            before += [question for question, _ in asked]
            self.net.sleep(self.turns, wait)
            if self.only is None or number in self.only:
                # A separate generator for each number, so that leaving one out does not change the others.
                packets = random.Random(f"packets {self.report.seed} {number}")
                early = packets.random() < 0.5
                if self.front is not None and early:
                    self.query_by_packets(number, self.front, before, packets)
                self.ask(number, asked)
                if self.front is not None and not early:
                    self.query_by_packets(number, self.front, before, packets)
            if self.report.wrong:
                break
        self.report.lies = self.lies.played
        return self.report

    def question(self, name: bytes, types: tuple[int, ...]) -> Question:
        """A question for `name`: for a type that it has, or for any type."""
        there = self.world.site_of(name).zone.nodes.get(name)
        return Question(name, self.rng.choice(list(there) if there and self.rng.random() < 0.6 else types))

    def all_of(self, question: Question, before: list[Question]) -> Question:
        """An ANY question for a name that exists, one that the cache has something of, or any name.

        Sometimes for the sibling of an alias, when the cache may have the alias.
        """
        rng = self.everything
        way = rng.random()
        if way < 0.4:
            nodes = self.world.site_of(question.qname).zone.nodes
            return Question(rng.choice([name for name, sets in nodes.items() if sets]), c.ANY)
        name = rng.choice(before).qname if before and way < 0.9 else question.qname
        return Question(name, c.NSEC if way < 0.6 and self.world.site_of(name).chain is None else c.ANY)

    def ask(self, number: int, asked: list[tuple[Question, bool]]) -> None:
        """Submit questions together, wait for all answers, and check them."""
        found: list[list[Outcome]] = [[] for _ in asked]
        notes: list[list[TraceStep]] = [[] for _ in asked]
        with self.charged(number, len(asked)):
            for (question, cd), outcomes, steps in zip(asked, found, notes, strict=True):
                self.mesh.submit(question, cd=cd, on_done=outcomes.append, trace=steps if self.trace else None)
            began, now = self.wait(lambda: all(found))
        for (question, cd), outcomes, steps in zip(asked, found, notes, strict=True):
            title = f"{number}: {question!r}{' CD' if cd else ''}"
            self.report.queries += 1
            self.report.steps.append(f"{title} at {now}: {outcomes[0] if outcomes else 'no answer'}")
            self.report.steps += [f"        {step.kind}: {step.text}" for step in steps]
            if len(outcomes) != 1:
                self.wrong(title, f"{len(outcomes)} answers")
                continue
            for text in self.oracle.check(question, cd, outcomes[0], began, now):
                self.wrong(title, text)

    def query_by_packets(self, number: int, front: Front, questions: list[Question], rng: random.Random) -> None:
        """Let clients send queries (the last question as likely as all others together) and check the replies."""
        queries = [ClientQuery.draw(rng.choice((questions[-1], rng.choice(questions))), rng)
                   for _ in range(rng.choice((1, 1, 2, 3)))]
        while queries:
            # Each may also start a prefetch of its answer.
            with self.charged(number, 2 * sum(2 if query.twice else 1 for query in queries)):
                asked = [Asked(front, query) for query in queries]
                began, now = self.wait(lambda asked=asked: all(one.over for one in asked))
            queries = []
            for one in asked:
                query, packets = one.query, one.sink.packets
                title = f"{number}: {query!r}"
                self.report.queries += 1
                self.report.steps.append(f"{title} at {now}: {len(packets)} replies")
                if len(packets) != one.expected:
                    self.wrong(title, f"{len(packets)} replies, {one.expected} expected")
                for packet in packets:
                    for text in query.faults(packet) or self.check_packet(query, packet, began, now):
                        self.wrong(title, text)
                # A client that gets TC repeats the query over TCP.
                if any(packet[2] & c.TC >> 8 for packet in packets) and not query.stream:
                    queries.append(replace(query, stream=True, twice=False))

    def check_packet(self, query: ClientQuery, packet: bytes, began: int, now: int) -> list[str]:
        """Return what is wrong with the content of a reply whose form is right."""
        outcome = query.outcome(packet, maybe_stale=self.serves_stale and self.oracle.outages)
        if outcome is None:
            return []
        self.report.steps.append(f"        {outcome!r}")
        return self.oracle.check(query.question, query.cd, outcome, began, now, verdict_known=query.wants_verdict)

    def wait(self, over: Callable[[], bool]) -> tuple[int, int]:
        """Advance time until `over()`; returns start and end in seconds since the epoch."""
        began = self.net.time()
        self.net.run(self.turns, seconds=ANSWER_SECONDS, until=over)
        return began, self.net.time()

    @contextmanager
    def charged(self, number: int, queries: int) -> Iterator[None]:
        """Compare the work done in this context with the permitted cost of so many queries.

        Earlier ones may still go on, with what is left of their budgets: their clients have got what the cache had.
        """
        queries += len({job.usage for job in self.mesh._unfinished})
        packets, checks, hashes = len(self.net.log), self.crypto.checked, self.hashes.made
        jobs = self.mesh.statistics()["jobs"]
        yield
        jobs = self.mesh.statistics()["jobs"] - jobs
        if jobs > (1 + SUB_QUERIES) * queries:
            self.wrong(str(number), f"{jobs} jobs started")
        if self.turns.longest > limits.STEPS_PER_TURN:
            self.wrong(str(number), f"{self.turns.longest} jobs started in one call of tick")
        for text in self.turns.broken:
            self.wrong(str(number), text)
        statistics = self.mesh.statistics()
        faults = statistics["internal_errors"]
        if faults:
            self.wrong(str(number), f"{faults} exceptions in the program, logged above")
        if not statistics["running"] and statistics["memory_jobs"]:
            self.wrong(str(number), f"{statistics['memory_jobs']} octets held by jobs that have ended")
        if len(self.net.log) - packets > self.packets * queries:
            self.wrong(str(number), f"{len(self.net.log) - packets} packets sent")
        if self.crypto.checked - checks > limits.BUDGET_VERIFICATIONS * queries:
            self.wrong(str(number), f"{self.crypto.checked - checks} signatures checked")
        if self.hashes.made - hashes > limits.BUDGET_HASHES * queries:
            self.wrong(str(number), f"{self.hashes.made - hashes} hashes made")

    def wrong(self, title: str, text: str) -> None:
        self.report.wrong.append(f"{title}: {text}")


def shrink(report: Report) -> tuple[frozenset[int], frozenset[str]]:
    """The smallest sets of queries and lies with which the world still fails, found one by one."""
    last = int(report.wrong[-1].split(":", 1)[0])
    only, without = frozenset(range(last + 1)), frozenset[str]()
    for number in sorted(only, reverse=True):
        if play(report.seed, only=only - {number}, without=without).wrong:
            only -= {number}
    for lie in list(play(report.seed, only=only).lies):
        if play(report.seed, only=only, without=without | {lie}).wrong:
            without |= {lie}
    return only, without


def explain(report: Report) -> str:
    """Shrink a failing world and describe it step by step."""
    only, without = shrink(report)
    small = play(report.seed, only=only, without=without, trace=True)
    world = World.make(report.seed, FakeNet().time())
    sites = [f"    {names.to_text(site.origin)} {site.fate.value}, {site.chain or 'NSEC'}, at "
             f"{' '.join(site.addresses)}{', ends ' + str(site.ends) if site.keys else ''}" for site in
             world.sites.values()]
    lies = [f"    {name}: {tricks}" for name, tricks in small.lies.items() if name not in without]
    steps = [f"    {step}" for step in small.steps]
    first, *others = small.wrong
    wrong = [f"world {report.seed} fails: {first}", *(f"    {text}" for text in others)]
    return "\n".join([*wrong, "  zones", *sites, "  lies", *lies, "  steps", *steps])


def _batch(seeds: range) -> tuple[int, list[Report]]:
    """Run some worlds; returns the number of queries and the failed runs.

    Raises:
        AssertionError: something of a resolution is still in memory when all worlds are gone.
    """
    queries, failed = 0, []
    for seed in seeds:
        report = play(seed)
        queries += report.queries
        if report.wrong:
            failed.append(report)
    kept = kept_objects()
    assert not kept, f"still in memory after worlds {seeds[0]} to {seeds[-1]}: {kept}"
    return queries, failed


def silence_logs() -> None:
    """Suppress the service's log lines about failed answers; exceptions are still logged."""
    logging.getLogger("resolver.net.service").setLevel(logging.ERROR)


def play_many(seeds: Iterable[int], *, processes: int) -> tuple[int, list[Report]]:
    """Run `seeds` in several processes."""
    seeds = list(seeds)
    parts = [range(seeds[at], seeds[min(at + 50, len(seeds)) - 1] + 1) for at in range(0, len(seeds), 50)]
    queries, failed = 0, []
    with ProcessPoolExecutor(processes, initializer=silence_logs) as pool:
        for asked, reports in pool.map(_batch, parts):
            queries += asked
            failed += reports
    return queries, failed


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the resolver in worlds made from seeds.")
    parser.add_argument("--worlds", type=int, default=1000, help="how many worlds (default 1000)")
    parser.add_argument("--start", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    parser.add_argument("--seed", type=int, help="run only this world")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every step, also of a good run")
    parser.add_argument("--show", type=int, default=3, help="failing worlds to shrink and print (default 3)")
    options = parser.parse_args()
    silence_logs()
    if options.seed is not None:
        report = play(options.seed, trace=options.trace)
        print(explain(report) if report.wrong else "\n".join([*report.steps, "nothing wrong"]))
        return bool(report.wrong)
    queries, failed = play_many(range(options.start, options.start + options.worlds), processes=options.jobs)
    for report in failed[: options.show]:
        print(explain(report))
    for report in failed[options.show :]:
        print(f"world {report.seed} fails: {report.wrong[0]}")
    print(f"{options.worlds} worlds, {queries} queries, {len(failed)} failed")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
