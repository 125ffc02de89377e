"""Loads the operator's modules with hooks, and makes the hooks of each view.

A module is a name that Python can import, or the path of a file. It is run anew for each configuration, so a reload
takes changed code, and the code before stays in use until the new one is checked. A module that cannot be loaded, or
defines a hook in a wrong form, is an error with file, line and reason.
"""

import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from resolver.net.hook_runner import POINTS, Hook, HookTasks, ViewHooks
from resolver.regular_file import open_regular
from resolver.settings import Settings

__all__ = ["HookModules"]


class HookModules:
    """The hooks of one configuration. `views` are those of each view that has any, by the number of the view."""

    def __init__(self, settings: Settings) -> None:
        """Load all modules.

        Raises:
            ValueError: a module cannot be loaded, or a hook has a wrong form; the text says where and why.
        """
        self._loaded: dict[str, list[Hook]] = {}
        self.sources: dict[str, bytes] = {}
        """The content of the files, by module; answers of other code may be cached when it differs."""
        self.tasks = HookTasks()
        policy = settings.policy
        wanted = [("", policy.modules), *((view.name, view.applied_to(policy).modules) for view in settings.view)]
        self.views: Mapping[int, ViewHooks] = {
            number: ViewHooks(
                name, [hook for text in modules for hook in self._load(text)], self.tasks, timeout=policy.hook_timeout,
                fails=policy.on_hook_error == "servfail", interval=settings.log.rate_limit_interval,
            )
            for number, (name, modules) in enumerate(wanted) if modules
        }

    def statistics(self) -> dict[str, Any]:
        """Counters by function, and the coroutines that have not ended."""
        counters: dict[str, Any] = {}
        for found in self._loaded.values():
            for hook in found:
                for key, value in hook.statistics().items():
                    counters.setdefault(key, {})[hook.name] = value
        return {**counters, "running": len(self.tasks)}

    def _load(self, text: str) -> list[Hook]:
        if text not in self._loaded:
            module, file, source = load(text)
            self.sources[text] = source
            self._loaded[text] = hooks_of(module, text, file)
        return self._loaded[text]


def load(text: str) -> tuple[ModuleType, str, bytes]:
    """Run a module anew; returns it, its file, and the content of the file.

    Raises:
        ValueError: it is not found, or raises an exception.
    """
    if text.endswith(".py") or os.sep in text:
        name = Path(text).stem
        file = os.path.abspath(text)
        if not os.path.isfile(file):
            raise ValueError(f"policy.modules: {text!r}: there is no such file")
        spec = importlib.util.spec_from_file_location(name, file)
    else:
        name = text
        importlib.invalidate_caches()
        try:
            spec = importlib.util.find_spec(text)
        except (ImportError, ValueError) as error:
            raise ValueError(f"policy.modules: {text!r}: {error}") from None
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise ValueError(f"policy.modules: {text!r}: Python finds no such module; it was looked for in"
                             f" {', '.join(path or '.' for path in sys.path)}")
        file = spec.origin
    assert spec is not None
    module = ModuleType(name)
    module.__file__, module.__spec__ = file, spec
    try:
        # Compiled here, not by the loader: that takes compiled code of a file that changed within the same second.
        with open_regular(file) as opened:
            source = opened.read()
        code = compile(source, file, "exec")
        before = sys.modules.get(name)
        sys.modules[name] = module  # dataclasses and others look it up while it runs
        try:
            exec(code, module.__dict__)
        finally:
            if before is not None:
                sys.modules[name] = before
            else:
                del sys.modules[name]
    except SyntaxError as error:
        raise ValueError(f"policy.modules: {error.filename}:{error.lineno}: {error.msg}") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the code of the operator raises
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        reason = "".join(traceback.format_exception_only(error)).strip()
        raise ValueError(f"policy.modules: {file}{f':{lines[-1]}' if lines else ''}: {reason}") from None
    return module, file, source


def hooks_of(module: ModuleType, text: str, file: str) -> list[Hook]:
    """The hooks that a module defines.

    Raises:
        ValueError: it defines none, or one of a wrong form.
    """
    found: list[Hook] = []
    for point, (count, may_wait, _) in POINTS.items():
        function: Any = getattr(module, point, None)
        if function is None:
            continue
        code = getattr(function, "__code__", None)
        place = f"{file}:{code.co_firstlineno}" if code is not None else file
        if not callable(function):
            raise ValueError(f"policy.modules: {place}: {point} is no function")
        if inspect.iscoroutinefunction(function) and not may_wait:
            raise ValueError(f"policy.modules: {place}: {point} must be a plain function, because nothing waits"
                             " at this point")
        try:
            inspect.signature(function).bind(*range(count))
        except TypeError:
            raise ValueError(f"policy.modules: {place}: {point} is called with {count} arguments, which it does not"
                             " take") from None
        except ValueError:
            pass  # a function without a signature, such as one in C
        found.append(Hook(f"{module.__name__}.{point}", point, function))
    if not found:
        raise ValueError(f"policy.modules: {file}: the module {text!r} defines none of the functions"
                         f" {', '.join(POINTS)}")
    return found
