"""CPython's own tests of event loops, run on ours.

The mixins of ``test.test_asyncio`` take a loop factory; they come with the interpreter under test, so each version of
Python brings the tests that fit its asyncio. What does not hold here, or looks inside the standard selector loop,
stands in `KNOWN` with its reason; a name in that list that does not exist in this version is ignored.
"""

import asyncio
import importlib
import warnings
from typing import Any

import pytest

import corenet

pytest.importorskip("test.test_asyncio", reason="this interpreter was installed without the test package")

#: module, mixin: the classes below are made of these, where they exist.
MIXINS = [
    ("test_events", "EventLoopTestsMixin"),
    ("test_events", "SubprocessTestsMixin"),
    ("test_subprocess", "SubprocessMixin"),
    ("test_sock_lowlevel", "BaseSockTestsMixin"),
    ("test_server", "BaseStartServer"),
    ("test_buffered_proto", "BaseTestBufferedProtocol"),
    ("test_sendfile", "SendfileTestsBase"),
    ("test_sslproto", "BaseStartTLS"),
    ("test_ssl", "TestSSL"),
]

#: test: why it is not run.
KNOWN: dict[str, str] = {
    "test_internal_fds": "looks at the self-pipe of the selector loop",
    "test_timeout_rounding": "counts the calls of _run_once, which here runs until the loop is stopped",
    "test_create_server_multiple_hosts_ipv4": "replaces the socket module inside asyncio.base_events",
    "test_create_server_multiple_hosts_ipv6": "replaces the socket module inside asyncio.base_events",
    "test_unclosed_pipe_transport": "silences the destructor through a private attribute of the standard transport",
    "test_remote_shutdown_receives_trailing_data": "fills a private buffer of asyncio's; a twin test covers it",
    "test_prompt_cancellation": "ends with a private method of the selector loop; a twin test covers the matter",
}


class Policy(asyncio.DefaultEventLoopPolicy):
    """Gives our loop to tests that ask the policy for one."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return corenet.new_event_loop()


class OnCorenet:
    """What the mixins ask of the class that they are mixed into."""

    loop: Any

    def create_event_loop(self) -> asyncio.AbstractEventLoop:
        return corenet.new_event_loop()

    new_loop = create_event_loop

    def setUp(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            asyncio.set_event_loop_policy(Policy())
        self.prepare()
        super().setUp()  # type: ignore[misc]

    def prepare(self) -> None:
        """Hook for mixins that expect `loop` before their own set-up."""

    def doCleanups(self) -> None:
        super().doCleanups()  # type: ignore[misc]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            asyncio.set_event_loop_policy(None)


def make_case(module_name: str, mixin_name: str) -> type | None:
    """The test case of one mixin, with the known differences taken out."""
    module = importlib.import_module(f"test.test_asyncio.{module_name}")
    utils = importlib.import_module("test.test_asyncio.utils")
    mixin = getattr(module, mixin_name, None)
    if mixin is None:
        return None
    case = type(f"Test{mixin_name}", (OnCorenet, mixin, utils.TestCase), {"__module__": __name__})
    if mixin_name in ("SubprocessMixin", "SubprocessTestsMixin"):

        def prepare(self: Any) -> None:
            self.loop = corenet.new_event_loop()
            self.set_event_loop(self.loop)

        case.prepare = prepare  # type: ignore[attr-defined]
    for name in dir(case):
        if name in KNOWN:
            setattr(case, name, None)
    return case


for _module, _mixin in MIXINS:
    _case = make_case(_module, _mixin)
    if _case is not None:
        globals()[_case.__name__] = _case
del _case
