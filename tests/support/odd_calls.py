"""Calls that no program makes on purpose, on each extension type; run in a process that may crash.

``python odd_calls.py foreign`` calls each method, taken from its type, on objects of other types.
``python odd_calls.py blank`` calls each method of objects that were made by ``__new__`` only, without ``__init__``.
Each name is printed before its calls, so after a crash the last one is the cause.
"""

import contextlib
import functools
import importlib
import signal
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any

import corenet
import resolver

HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: classes written in Python
METHOD = type(str.join)
#: They block until something happens, and nothing will.
BLOCKING = {"run", "wait"}
TIMEOUT = 30

ARGUMENTS: list[tuple[Any, ...]] = [
    (),
    (None,),
    (5,),
    (-1,),
    (1 << 70,),
    (b"x",),
    ("x",),
    (object(),),
    (None, None),
    (5, 5),
    (-1, -1),
    (0, 1, 2),
    (None,) * 3,
    (None,) * 4,
    (5,) * 4,
    (None,) * 5,
]


def extension_types(package: ModuleType) -> Iterator[type]:
    """Every extension type of the package, each once."""
    seen = set()
    for path in package.__path__:
        for library in sorted(Path(path).rglob(f"*{EXTENSION_SUFFIXES[0]}")):
            source = library.with_name(library.name.partition(".")[0])
            name = ".".join([package.__name__, *source.relative_to(path).parts])
            for value in list(vars(importlib.import_module(name)).values()):
                if isinstance(value, type) and not value.__flags__ & HEAP_TYPE and value not in seen:
                    if value.__module__ == name:
                        seen.add(value)
                        yield value


def refusal(call: Callable[..., object], *arguments: Any) -> str:
    """The text of the TypeError that a call ends with, nothing when it ends well."""
    try:
        call(*arguments)
    except TypeError as error:
        return str(error)
    return ""


def call_on_foreign(kind: type) -> int:
    """Call the methods of `kind` on what is none of it; how many there were."""
    wrong_types: list[Any] = [5, None, object(), kind]
    if not issubclass(corenet.LengthFramer, kind):
        wrong_types.append(corenet.LengthFramer())
    calls = 0
    for name, method in list(vars(kind).items()):
        if type(method).__name__ == "cython_function_or_method":
            raise AssertionError(f"{kind.__name__}.{name} does not look what it is called on (binding=True)")
        if not isinstance(method, METHOD):
            continue
        print(f"{kind.__module__}.{kind.__name__}.{name}", flush=True)
        calls += 1
        for wrong in wrong_types:
            for arguments in ((), (None,), (1, 2)):
                for call in (method, functools.partial(vars(type(method))["__call__"], method)):
                    refused = refusal(call, wrong, *arguments)
                    if "doesn't apply to" not in refused:
                        raise AssertionError(f"{name} took {wrong!r} for a {kind.__name__}: {refused}")
        refused = refusal(method)
        if "needs an argument" not in refused:
            raise AssertionError(f"{name} took nothing for a {kind.__name__}: {refused}")
    return calls


def call_on_blank(kind: type) -> int:
    """Call whatever a bare object of `kind` has; how many names that were."""
    calls = 0
    for name in dir(kind):
        if name in BLOCKING or name == "__class__":
            continue
        try:
            blank: Any = kind.__new__(kind)
        except TypeError:
            return 0
        print(f"{kind.__module__}.{kind.__name__}.{name}", flush=True)
        calls += 1
        for arguments in ARGUMENTS:
            # Any exception is an answer.
            with contextlib.suppress(BaseException):
                result = getattr(blank, name)(*arguments)
                if hasattr(result, "send") and hasattr(result, "close"):
                    with contextlib.suppress(BaseException):
                        result.send(None)
                    result.close()
        for value in (None, 5):
            with contextlib.suppress(AttributeError, TypeError):
                setattr(blank, name, value)
        del blank
    return calls


def main() -> None:
    """See the head of the file."""
    sys.unraisablehook = lambda _unraisable: None
    call, packages = {
        "foreign": (call_on_foreign, [corenet, resolver]),
        "blank": (call_on_blank, [corenet]),
    }[sys.argv[1]]
    total = 0
    for package in packages:
        for kind in extension_types(package):
            signal.alarm(TIMEOUT)
            total += call(kind)
    print(f"{total} names")


if __name__ == "__main__":
    main()
