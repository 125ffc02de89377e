"""`corenet.install` and the policy: on versions that have policies, that deprecate them, and that have none.

Other versions are simulated by changing `compat.POLICIES`, because the behaviour (one warning, at the caller's line) is
ours and not the interpreter's.
"""

import asyncio
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest

import corenet
from corenet.loop import compat, policy

pytestmark = pytest.mark.skipif(compat.POLICIES == "removed", reason="this Python has no event loop policies")


@pytest.fixture
def _policy_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(policy, "policy_class", None)
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(None)


@pytest.mark.parametrize(
    ("version", "status"),
    [((3, 11), "supported"), ((3, 13), "supported"), ((3, 14), "deprecated"), ((3, 16), "removed")],
)
def test_status_of_policies_by_version(version: tuple[int, int], status: str) -> None:
    assert compat.policy_support(version) == status


@pytest.mark.usefixtures("_policy_restored")
def test_asyncio_creates_our_loop_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "POLICIES", "supported")
    with warnings.catch_warnings():
        # asyncio's own warning, where this Python has one.
        warnings.simplefilter("ignore", DeprecationWarning)
        corenet.install()

    async def main() -> None:
        assert type(asyncio.get_running_loop()) is corenet.Loop

    asyncio.run(main())
    with asyncio.Runner() as runner:
        runner.run(main())
    loop = asyncio.new_event_loop()
    assert type(loop) is corenet.Loop
    loop.close()


@pytest.mark.usefixtures("_policy_restored")
def test_the_policy_set_by_the_program() -> None:
    made = corenet.EventLoopPolicy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert isinstance(made, asyncio.DefaultEventLoopPolicy)
        asyncio.set_event_loop_policy(made)
    assert corenet.EventLoopPolicy is corenet.EventLoopPolicy
    loop = asyncio.new_event_loop()
    assert type(loop) is corenet.Loop
    loop.close()


@pytest.mark.usefixtures("_policy_restored")
def test_one_warning_at_the_callers_line_where_policies_are_deprecated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "POLICIES", "deprecated")
    with pytest.warns(DeprecationWarning, match="will be removed") as caught:
        corenet.install()
    assert [warning.filename for warning in caught] == [__file__]
    assert "loop factory" in str(caught[0].message)


@pytest.mark.usefixtures("_policy_restored")
def test_install_is_refused_with_an_alternative_where_policies_were_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "POLICIES", "removed")
    with pytest.raises(RuntimeError, match=r"corenet\.run\(main\(\)\)"):
        corenet.install()


@pytest.mark.skipif(compat.POLICIES != "supported", reason="this Python warns of policies")
def test_no_warning_where_asyncio_gives_none() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import corenet; corenet.install()"],
        capture_output=True, check=False, timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_run_accepts_another_factory_and_refuses_to_nest() -> None:
    async def name() -> str:
        return type(asyncio.get_running_loop()).__name__

    async def nested() -> None:
        coroutine = name()
        try:
            with pytest.raises(RuntimeError, match=r"corenet\.run\(\) cannot be called"):
                corenet.run(coroutine)
        finally:
            coroutine.close()

    class Other(corenet.Loop):
        """The caller's loop."""

    assert corenet.run(name()) == "Loop"
    assert corenet.run(name(), loop_factory=Other) == "Other"
    corenet.run(nested())
