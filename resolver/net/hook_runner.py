"""Calls the hooks of a view: order, time, errors, and coroutines that wait while other queries are served.

The hooks of a point are asked in order until one has an answer. `ViewHooks.ask` reports by callback, before it returns
when no hook waits; else it returns a `WaitingHooks`, which the caller may cancel. A coroutine has until the earlier of
the timeout of hooks and the deadline of its query; then it is cancelled, and what it does afterwards has no effect. A
plain function cannot be interrupted: it holds up all queries of the worker. So it is measured, and named in the log
when it is slow.

An error of a hook costs at most the query. It is counted, and logged at a limited rate. Then the next hook is asked, or
the query ends with SERVFAIL, as the operator has configured.
"""

import asyncio
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from functools import partial
from ipaddress import ip_address
from typing import Any

from resolver import limits
from resolver.effects import Outcome, Question, Server
from resolver.hooks import Decision, Response, outcome_of, question_of
from resolver.hooks import Query as HookQuery
from resolver.log_limit import LimitedWarning
from resolver.policy import Action, PolicyModule
from resolver.policy.module import Decision as PolicyDecision
from resolver.query import ActionKind, Applied, Query
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names

__all__ = ["POINTS", "Hook", "HookTasks", "ViewHooks", "WaitingHooks"]

logger = logging.getLogger(__name__)

POINTS: dict[str, tuple[int, bool, frozenset[ActionKind]]] = {}
"""By name of the function: how many arguments it gets, whether it may be a coroutine, and what it may decide."""
_ALL = frozenset(ActionKind) - {ActionKind.LOG}
_SHARED = _ALL - {ActionKind.TRUNCATE}
_JOB = frozenset({ActionKind.ANSWER, ActionKind.DROP, ActionKind.REFUSE})
_SENT = frozenset({ActionKind.DROP, ActionKind.REFUSE, ActionKind.TRUNCATE, ActionKind.PASS})
POINTS.update(
    client=(2, True, _ALL), question=(2, True, _SHARED), alias=(2, False, _JOB), name_server=(3, False, _JOB),
    response=(2, True, _SHARED), send=(2, False, _SENT),
)
ENDINGS = {ActionKind.REFUSE: c.REFUSED, ActionKind.DROP: c.REFUSED, ActionKind.TRUNCATE: c.NOERROR}

# What `_steps` yields: a coroutine to wait for, and for how many seconds.
Waited = tuple[Awaitable[Any], float]
Steps = Generator[Waited, Any, Outcome | None]


class Hook:
    """One function of an operator. `name` is that of module and function; the counters are since the start."""

    __slots__ = ("calls", "errors", "function", "name", "point", "seconds", "slow", "timeouts")

    def __init__(self, name: str, point: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.point = point
        self.function = function
        self.calls = 0
        self.errors = 0
        self.timeouts = 0
        self.slow = 0
        self.seconds = 0.0

    def place(self, error: BaseException | None = None) -> str:
        """File and line of the last step in the function's file before `error`, or of the function itself."""
        code = getattr(self.function, "__code__", None)
        if code is None:
            return repr(self.function)
        frames = traceback.extract_tb(None if error is None else error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == code.co_filename]
        return f"{code.co_filename}:{lines[-1] if lines else code.co_firstlineno}"

    def statistics(self) -> dict[str, float]:
        """Counters, and the seconds for which the event loop was held up."""
        return {"calls": self.calls, "errors": self.errors, "timeouts": self.timeouts, "slow": self.slow,
                "seconds": round(self.seconds, 6)}


class HookTasks:
    """The coroutines of hooks that have not ended, in one worker. A coroutine may ignore that it is cancelled, so their
    number is limited."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, coroutine: Awaitable[Any]) -> asyncio.Task[Any]:
        """Run a coroutine.

        Raises:
            RuntimeError: too many run.
        """
        if len(self._running) >= limits.HOOK_TASKS:
            if isinstance(coroutine, Coroutine):
                coroutine.close()
            raise RuntimeError(f"{limits.HOOK_TASKS} coroutines of hooks have not ended")
        task = asyncio.get_running_loop().create_task(_guarded(coroutine))
        self._running.add(task)
        task.add_done_callback(partial(self._ended, coroutine))
        return task

    def _ended(self, coroutine: Awaitable[Any], task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if isinstance(coroutine, Coroutine):
            coroutine.close()  # it has not begun when its query was cancelled at once
        if not task.cancelled():
            task.exception()  # seen, so that asyncio does not log it again

    def __len__(self) -> int:
        return len(self._running)


async def _guarded(coroutine: Awaitable[Any]) -> Any:
    """The result; an exception that would end the event loop is an ordinary error."""
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        raise _ordinary(error) from error


def _ordinary(error: BaseException) -> Exception:
    """`error`, or an error in its place when it is of no class that callers catch. Libraries have some of their own,
    such as the panics of extensions in Rust, and a hook may raise CancelledError itself."""
    return error if isinstance(error, Exception) else RuntimeError(f"the hook raised {type(error).__name__}")


class WaitingHooks:
    """The hooks of one point for one query, while a coroutine is waited for. `done` is called once, unless `cancel` was
    called."""

    __slots__ = ("_done", "_steps", "_task", "_tasks", "_timer")

    def __init__(self, tasks: HookTasks, steps: Steps, done: Callable[[Outcome | None], None]) -> None:
        self._tasks = tasks
        self._steps = steps
        self._done = done
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def run(self, value: Any = None, error: BaseException | None = None) -> bool:
        """Continue with the result of a coroutine; False when all hooks were called."""
        steps = self._steps
        while True:
            try:
                coroutine, seconds = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as end:
                self._done(end.value)
                return False
            value, error = None, None
            try:
                self._task = self._tasks.start(coroutine)
            except RuntimeError as refused:
                error = refused
                continue
            self._task.add_done_callback(self._finished)
            self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)
            return True

    def _finished(self, task: asyncio.Task[Any]) -> None:
        if task is not self._task:
            return  # it ended after its time, or after `cancel`
        self._release()
        if task.cancelled():
            self.run(error=RuntimeError("the hook was cancelled"))
        elif (error := task.exception()) is not None:
            self.run(error=_ordinary(error))
        else:
            self.run(task.result())

    def _expire(self) -> None:
        self._release()
        self.run(error=TimeoutError())

    def _release(self) -> None:
        task, self._task = self._task, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if task is not None:
            task.cancel()  # of no effect when it has ended

    def cancel(self) -> None:
        """Stop waiting; `done` is not called."""
        self._release()
        self._steps.close()


class ViewHooks:
    """The hooks of one view, by point. `view` is its name."""

    def __init__(
        self, view: str, hooks: Sequence[Hook], tasks: HookTasks, *, timeout: float, fails: bool, interval: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`timeout` is for one coroutine, `fails` whether an error ends the query, `interval` that of the log, `now`
        the clock of deadlines; all times are in seconds."""
        self._now = now
        self._view = view
        self._tasks = tasks
        self._timeout = timeout
        self._fails = fails
        self._lines = LimitedWarning(logger, interval, limits.LOG_FAILURES)
        by_point = {point: tuple(hook for hook in hooks if hook.point == point) for point in POINTS}
        self._by_point: Mapping[str, tuple[Hook, ...]] = by_point
        self._shared = HookQuery(None, "", "", False, view)
        self.has_client = bool(by_point["client"])
        self.has_question = bool(by_point["question"])
        self.has_response = bool(by_point["response"])
        self.has_send = bool(by_point["send"])
        self.per_client = self.has_client or self.has_send
        self.modules: tuple[PolicyModule, ...] = (
            *((_AliasHooks(self),) if by_point["alias"] else ()),
            *((_NameServerHooks(self),) if by_point["name_server"] else ()),
        )
        """The points that have no coroutines, as policies."""

    def ask(
        self, point: str, client: Query, question: Question, outcome: Outcome | None,
        done: Callable[[Outcome | None], None],
    ) -> WaitingHooks | None:
        """Ask the hooks of `point` about `question`, or about `outcome`; `done` gets what to give instead, or None.

        Returns what waits, None when `done` was called.
        """
        waiting = WaitingHooks(self._tasks, self._steps(point, client, question, outcome), done)
        return waiting if waiting.run() else None

    def _steps(self, point: str, client: Query, question: Question, outcome: Outcome | None) -> Steps:
        seen = question_of(question.qname, question.qtype)
        who = self._client(client) if point in ("client", "send") else self._shared
        changed = None
        for hook in self._by_point[point]:
            about = seen if outcome is None else Response(seen, outcome)
            try:
                decision = self._call(hook, who, about)
                if decision is not None and not isinstance(decision, Decision) and isinstance(decision, Awaitable):
                    left = client.deadline - self._now() if client.deadline else self._timeout
                    decision = yield decision, max(min(self._timeout, left), 0.0)
                found = self._outcome(hook, decision, question)
            except Exception as error:  # noqa: BLE001 - a fault of a hook must cost this query at most; it is logged
                self._fault(hook, error)
                if self._fails:
                    return _failed(hook, question)
                continue
            if decision is not None and decision.kind is ActionKind.PASS:
                return changed
            if found is not None:
                if point != "response" or decision.kind is not ActionKind.ANSWER:
                    return found
                changed = outcome = found
        return changed

    def send(self, client: Query, outcome: Outcome) -> Outcome | None:
        """Ask the hooks of `send` about a reply that is made; the outcome says what they did, and is an answer after an
        error that ends the query."""
        found: list[Outcome | None] = []
        self.ask("send", client, outcome.question, outcome, found.append)
        return found[0]

    def decide(self, point: str, question: Question, *more: Any) -> PolicyDecision:
        """The same for a point without coroutines, as the decision of a policy."""
        seen = question_of(question.qname, question.qtype)
        for hook in self._by_point[point]:
            try:
                decision = self._call(hook, self._shared, seen, *more)
                found = self._outcome(hook, decision, question)
            except Exception as error:  # noqa: BLE001 - as in `_steps`
                self._fault(hook, error)
                if self._fails:
                    return Action(ActionKind.ANSWER, _failed(hook, question), reason=f"{hook.name} failed")
                continue
            if found is not None:
                kind = decision.kind
                return Action(kind, found if kind is ActionKind.ANSWER else None,
                              reason=f"{hook.name}{decision.reason and ': '}{decision.reason}", ede=decision.ede)
        return None

    def _client(self, client: Query) -> HookQuery:
        address = ip_address(client.address) if client.address else None
        return HookQuery(address, client.transport, client.listener, client.verified, self._view)

    def _call(self, hook: Hook, *arguments: Any) -> Any:
        hook.calls += 1
        began = time.perf_counter()
        try:
            return hook.function(*arguments)
        except Exception:
            raise
        except BaseException as error:
            raise _ordinary(error) from error
        finally:
            took = time.perf_counter() - began
            hook.seconds += took
            if took * 1000 > limits.HOOK_SLOW:
                hook.slow += 1
                self._lines.warn("hook %s is slow (%s): all queries of this worker waited for it, and it cannot be"
                                 " interrupted; let a coroutine do what waits", hook.name, hook.place())

    @staticmethod
    def _outcome(hook: Hook, decision: Any, question: Question) -> Outcome | None:
        """The outcome of a decision; None for None and PASS.

        Raises:
            TypeError, ValueError: the decision is none, may not be made here, or has data with an error.
        """
        if decision is None:
            return None
        if not isinstance(decision, Decision):
            raise TypeError(f"it returned {decision!r}, which is no Decision and not None")
        decision.check()
        kind = decision.kind
        if kind not in POINTS[hook.point][2]:
            raise TypeError(f"it returned {decision!r}, which has no meaning at point {hook.point}")
        if kind is ActionKind.PASS:
            return None
        if kind is ActionKind.ANSWER:
            made = outcome_of(decision, question)
        else:
            made = Outcome(question, ENDINGS[kind], [], [], Verdict.INDETERMINATE, 0)
        made.applied = Applied(hook.point, hook.name, kind, decision.reason)
        if decision.ede is not None:
            made.ede.append((decision.ede, decision.reason))
        return made

    def _fault(self, hook: Hook, error: BaseException) -> None:
        if isinstance(error, TimeoutError) and not error.args:
            hook.timeouts += 1
            self._lines.warn("hook %s: no result in time; it was cancelled", hook.name)
            return
        hook.errors += 1
        reason = "".join(traceback.format_exception_only(error)).strip()
        self._lines.warn("hook %s: %s (%s)", hook.name, reason, hook.place(error))


def _failed(hook: Hook, question: Question) -> Outcome:
    made = Outcome(question, c.SERVFAIL, [], [], Verdict.INDETERMINATE, 0)
    made.applied = Applied(hook.point, hook.name, ActionKind.ANSWER, "it failed")
    made.ede.append((c.EDE_OTHER, "a hook failed"))
    return made


class _AliasHooks(PolicyModule):
    """The hooks `alias` of a view."""

    name = "hooks"

    def __init__(self, hooks: ViewHooks) -> None:
        self._hooks = hooks

    def alias(self, query: Query, question: Question) -> PolicyDecision:
        return self._hooks.decide("alias", question)


class _NameServerHooks(PolicyModule):
    """The hooks `name_server` of a view."""

    name = "hooks"

    def __init__(self, hooks: ViewHooks) -> None:
        self._hooks = hooks

    def name_server(
        self, query: Query, question: Question, zone: bytes, servers: Sequence[bytes], addresses: Sequence[Server]
    ) -> PolicyDecision:
        return self._hooks.decide("name_server", question, names.to_text(zone))
