"""A pytest plugin that gives another project's suite the loop named by CORENET_SUITE_LOOP: `corenet` or `stdlib`.

The suites ask asyncio for a loop in every way there is (policy, Runner, `new_event_loop`, IsolatedAsyncioTestCase), so
the policy's factory is what is changed, and nothing of the suite. With `stdlib` the plugin changes nothing.
At the end each process adds the number of loops it made to the file CORENET_SUITE_COUNT, so that a run that used
another loop cannot pass for one of ours.
"""

import asyncio
import os
import warnings

import pytest

made = 0


def give_ours() -> None:
    """Make asyncio's policy take, and count, loops of ours."""
    import corenet

    class Policy(asyncio.DefaultEventLoopPolicy):
        """asyncio's policy with `corenet.new_event_loop` as its factory."""

        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            """Count and return a loop of ours."""
            global made
            made += 1
            return corenet.new_event_loop()

    asyncio.set_event_loop_policy(Policy())


if os.environ.get("CORENET_SUITE_LOOP") == "corenet":
    with warnings.catch_warnings():
        # Policies warn from Python 3.14 on, and the suites take warnings for errors.
        warnings.simplefilter("ignore", DeprecationWarning)
        give_ours()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Leave the number of loops where the runner finds it; a short append is one write, whoever else writes."""
    with open(os.environ["CORENET_SUITE_COUNT"], "a", encoding="ascii") as file:
        file.write(f"{made}\n")
