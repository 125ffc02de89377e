"""The library on real loops against the playground: answers are values, errors are exceptions on demand."""

import asyncio
import socket
from ipaddress import IPv4Address

import pytest
from support.loop_clock import stopped_clock
from support.waiting import spin

import corenet
from resolver import Bogus, NoData, NXDomain, Resolver, ResolveTimeout, ServerFailure, Settings, Verdict, playground
from resolver.api import Answer, ExtendedError, make_store, to_wire
from resolver.effects import Failure, FailureKind, Outcome, Question
from resolver.settings import CacheSettings, HostEntry, IterationSettings, RootServer, replace
from resolver.wire import consts as c
from resolver.wire import name as names

SMALL = CacheSettings(size=1 << 20)


@pytest.fixture(params=["corenet", "asyncio"])
def run(request):
    """Run a coroutine function in the playground, on both loops; it gets the settings that lead there."""
    factory = corenet.new_event_loop if request.param == "corenet" else asyncio.new_event_loop

    def runner(test, **changes):
        async def main():
            async with await playground.start(port=0) as world:
                settings = replace(world.settings(Settings(cache=SMALL)), **changes)
                await test(settings)

        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(main())

    return runner


def test_an_answer_is_a_value_that_iterates_as_text(run):
    async def test(settings):
        async with Resolver(settings) as resolver:
            answer = await resolver.resolve("www.example.playground")
            assert list(answer) == ["127.20.80.1"]
            assert (answer.rcode, answer.rcode_text, len(answer), answer.stale) == (c.NOERROR, "NOERROR", 1, False)
            assert answer.verdict is Verdict.INSECURE and not answer.secure
            assert answer.raise_for_failure() is answer
            assert answer.canonical_name == "www.example.playground."
            again = await resolver.resolve("WWW.example.playground.", c.A)
            assert again.outcome.from_cache and again.ttl <= answer.ttl
            text = await resolver.resolve("example.playground", "SOA")
            assert len(list(text)) == 1 and "playground" in next(iter(text))

    run(test)


def test_missing_names_and_missing_data_are_distinguished(run):
    async def test(settings):
        async with Resolver(settings) as resolver:
            missing = await resolver.resolve("no-such-name.example.playground")
            assert missing.rcode == c.NXDOMAIN and list(missing) == [] and missing.rrset is None
            with pytest.raises(NXDomain) as caught:
                missing.raise_for_failure()
            assert caught.value.is_missing and not caught.value.is_timeout
            with pytest.raises(NoData):
                (await resolver.resolve("www.example.playground", "MX")).raise_for_failure()

    run(test)


def test_addresses(run):
    async def test(settings):
        async with Resolver(settings) as resolver:
            assert await resolver.addresses("www.example.playground") == [IPv4Address("127.20.80.1")]
            assert await resolver.addresses("192.0.2.1") == [IPv4Address("192.0.2.1")]
            assert [str(one) for one in await resolver.addresses("localhost")] == ["::1", "127.0.0.1"]
            with pytest.raises(NXDomain):
                await resolver.addresses("no-such-name.example.playground")

    run(test)


def test_explain_has_every_step(run):
    async def test(settings):
        async with Resolver(settings) as resolver:
            trace = await resolver.explain("www.example.playground")
            assert list(trace.answer) == ["127.20.80.1"]
            kinds = [step.kind for step in trace]
            assert kinds.count("ask") >= 3, "root, top-level domain and zone were asked"
            assert all(step.text for step in trace)
            assert len(str(trace).splitlines()) >= len(kinds)
            assert trace.seconds > 0 and [one.address for one in trace.explanation.exchanges]
            assert trace.to_text().startswith("www.example.playground. A\n")
            assert trace.to_json().startswith('{"schema"') and trace.to_html().startswith("<!DOCTYPE html>")

    run(test)


def test_a_timeout_keeps_the_steps_before_it(run):
    async def test(settings):
        async with Resolver(settings) as resolver:
            def waits():
                counters = resolver.statistics().upstream
                return counters["udp_sent"] > counters["udp_replies"] == 3

            with stopped_clock():
                asked = asyncio.ensure_future(resolver.explain("www.slow.playground", timeout=0.05))
                await spin(waits, "the query to the slow server")
            with pytest.raises(ResolveTimeout) as caught:
                await asked
            trace = caught.value.trace
            assert trace.answer.rcode_text == "SERVFAIL" and trace.explanation.exchanges[-1].seconds is None

    run(test)


def test_flush_and_statistics(run):
    async def test(settings):
        async with Resolver(settings) as resolver:
            await resolver.resolve("www.example.playground")
            sent = resolver.statistics().upstream["udp_sent"]
            await resolver.resolve("www.example.playground")
            assert resolver.statistics().upstream["udp_sent"] == sent
            assert resolver.flush("www.example.playground") >= 1
            assert resolver.flush("www.example.playground") == 0
            await resolver.resolve("www.example.playground")
            assert resolver.statistics().upstream["udp_sent"] == sent + 1
            assert resolver.flush("playground", subtree=True) >= 3
            assert resolver.statistics().mesh["submitted"] == 3

    run(test)


def test_equal_questions_at_once_are_asked_once(run):
    async def test(settings):
        async with Resolver(settings) as resolver:
            answers = await asyncio.gather(*(resolver.resolve("www.example.playground") for _ in range(50)))
            assert {tuple(answer) for answer in answers} == {("127.20.80.1",)}
            assert resolver.statistics().mesh["joined"] == 49

    run(test)


def test_cancelling_one_waiter_leaves_the_others(run):
    async def test(settings):
        async with Resolver(settings) as resolver:
            first = asyncio.ensure_future(resolver.resolve("www.example.playground"))
            second = asyncio.ensure_future(resolver.resolve("www.example.playground"))
            await asyncio.sleep(0)
            first.cancel()
            assert list(await second) == ["127.20.80.1"]
            with pytest.raises(asyncio.CancelledError):
                await first

    run(test)


def test_timeout_is_an_exception_and_a_deadline_is_an_answer():
    async def main():
        # The socket at 127.20.255.1 exists and never replies, so the query is neither answered nor refused.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.20.255.1", 0))
            iteration = IterationSettings(
                upstream_port=silent.getsockname()[1], do_not_query_localhost=False, priming=False, query_timeout=0.5
            )
            settings = Settings(cache=SMALL, iteration=iteration, root_hints=(RootServer("k.", ("127.20.255.1",)),))
            settings = replace(settings, dnssec=replace(settings.dnssec, trust_anchors=()))
            async with Resolver(settings) as resolver:
                with pytest.raises(ResolveTimeout, match=r"example\. A: no answer in 0.05 seconds") as caught:
                    await resolver.resolve("example", timeout=0.05)
                assert isinstance(caught.value, TimeoutError)
                assert resolver.statistics().mesh["running"] == 0, "no client waits, so no job runs"
                answer = await resolver.resolve("example")
                assert answer.rcode == c.SERVFAIL
                with pytest.raises((ResolveTimeout, ServerFailure)) as late:
                    answer.raise_for_failure()
                assert late.value.is_transient

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(main())


def test_wrong_arguments_raise_before_any_query(run):
    async def test(settings):
        async with Resolver(settings) as resolver:
            with pytest.raises(ValueError):
                await resolver.resolve("a..b")
            with pytest.raises(ValueError):
                await resolver.resolve("a", "NOSUCHTYPE")
            with pytest.raises(RuntimeError, match="open already"):
                resolver.open(asyncio.get_running_loop())
            assert resolver.statistics().mesh["submitted"] == 0
        with pytest.raises(RuntimeError, match="not open"):
            await resolver.resolve("a")
        resolver.close()

    run(test)


def test_closing_answers_waiting_clients(run):
    async def test(settings):
        resolver = Resolver(settings)
        resolver.open(asyncio.get_running_loop())
        waiting = asyncio.ensure_future(resolver.resolve("www.example.playground"))
        await asyncio.sleep(0)
        resolver.close()
        answer = await waiting
        assert answer.rcode == c.SERVFAIL
        with pytest.raises(ServerFailure, match="closing"):
            answer.raise_for_failure()

    run(test)


def test_an_exception_after_submission_leaves_no_query(run):
    async def test(settings):
        async with Resolver(settings) as resolver:
            driver = resolver._open.driver
            real, driver._mesh = driver._mesh, None  # so that its next call raises
            with pytest.raises(AttributeError):
                await resolver.resolve("www.example.playground")
            assert resolver.mesh.statistics()["running"] == 0
            driver._mesh = real

    run(test)


def test_a_store_may_be_shared(run):
    async def test(settings):
        store = make_store(settings)
        async with Resolver(settings, store=store) as first:
            await first.resolve("www.example.playground")
        async with Resolver(settings, store=store) as second:
            answer = await second.resolve("www.example.playground")
            assert answer.outcome.from_cache
            assert second.store is store

    run(test)


def test_hosts_given_in_place(run):
    async def test(settings):
        async with Resolver(settings, hosts=[HostEntry("box.lan", ("192.0.2.7",))]) as resolver:
            assert list(await resolver.resolve("box.lan")) == ["192.0.2.7"]
            assert resolver.statistics().upstream["udp_sent"] == 0

    run(test)


def test_hosts_files_are_read(run, tmp_path):
    path = tmp_path / "hosts"
    path.write_text("192.0.2.8 filed.lan\n")

    async def test(settings):
        policy = replace(settings.policy, hosts_files=(str(path),))
        async with Resolver(replace(settings, policy=policy)) as resolver:
            assert list(await resolver.resolve("filed.lan")) == ["192.0.2.8"]
        path.unlink()
        with pytest.raises(ValueError, match="hosts_files: cannot read"):
            Resolver(replace(settings, policy=policy))

    run(test)


def test_names():
    assert to_wire("a.b") == to_wire("a.b.") == names.from_text("a.b.")
    assert to_wire(".") == names.ROOT
    assert to_wire("Bücher.example") == names.from_text("xn--bcher-kva.example.")
    with pytest.raises(ValueError):
        to_wire("")


def test_extended_errors_as_text():
    assert str(ExtendedError(c.EDE_DNSSEC_BOGUS, "no proof")).endswith(": no proof")
    assert ":" not in str(ExtendedError(c.EDE_DNSSEC_BOGUS, ""))


def test_bogus_is_an_exception_of_its_own():
    question = Question(names.from_text("a."), c.A)
    failure = Failure(FailureKind.BOGUS, c.EDE_DNSSEC_BOGUS, "signature expired")
    outcome = Outcome(question, c.SERVFAIL, [], [], Verdict.BOGUS, 0, failure=failure)
    answer = Answer(question, c.SERVFAIL, Verdict.BOGUS, (), 0, (), False, outcome)
    with pytest.raises(Bogus, match="signature expired") as caught:
        answer.raise_for_failure()
    assert caught.value.is_bogus
