"""Frozen values: classes of named fields that are made once and never changed, like the settings.

They are dataclasses to everybody who asks (`dataclasses.fields`, `replace` and `is_dataclass` work), but the methods
that `dataclasses` writes and compiles as source, half a dozen for each class, are functions here that all of them
share: compiling those took a tenth of the time to the first answer. The price is a slower constructor, so what is made
for every query is not made this way.
"""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field
from typing import Any, TypeVar, dataclass_transform

__all__ = ["frozen"]

T = TypeVar("T")

_put = object.__setattr__


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """Make a frozen dataclass with slots of the annotated class `cls`, comparable and hashable by its fields."""
    made: Any = dataclass(init=False, repr=False, eq=False, slots=True)(cls)
    made.__init__ = _init
    made.__repr__ = _repr
    made.__eq__ = _eq
    made.__hash__ = _hash
    made.__setattr__ = _refuse_set
    made.__delattr__ = _refuse_delete
    made.__getstate__ = _getstate
    made.__setstate__ = _setstate
    made.__signature__ = _Signature()
    result: type[T] = made
    return result


def _fields(value: Any) -> dict[str, "Field[Any]"]:
    found: dict[str, Field[Any]] = value.__dataclass_fields__
    return found


def _init(self: Any, /, *args: Any, **given: Any) -> None:
    items = _fields(self)
    if args:
        if len(args) > len(items):
            raise TypeError(f"{type(self).__name__}() takes {len(items)} values, not {len(args)}")
        for name, value in zip(items, args, strict=False):
            if name in given:
                raise TypeError(f"{type(self).__name__}() got two values for {name!r}")
            given[name] = value
    for name, item in items.items():
        if name in given:
            value = given.pop(name)
        elif item.default is not MISSING:
            value = item.default
        elif item.default_factory is not MISSING:
            value = item.default_factory()
        else:
            raise TypeError(f"{type(self).__name__}() needs a value for {name!r}")
        _put(self, name, value)
    if given:
        raise TypeError(f"{type(self).__name__}() has no field {next(iter(given))!r}")
    check: Callable[[], None] | None = getattr(self, "__post_init__", None)
    if check is not None:
        check()


def _values(value: Any) -> tuple[Any, ...]:
    return tuple(getattr(value, name) for name in _fields(value))


def _repr(self: Any) -> str:
    inside = ", ".join(f"{name}={getattr(self, name)!r}" for name in _fields(self))
    return f"{type(self).__qualname__}({inside})"


def _eq(self: Any, other: Any) -> Any:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _refuse_set(self: Any, name: str, value: Any) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_delete(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _getstate(self: Any) -> list[Any]:
    return list(_values(self))


def _setstate(self: Any, state: list[Any]) -> None:
    for name, value in zip(_fields(self), state, strict=True):
        _put(self, name, value)


class _Signature:
    """The constructor's parameters, for `inspect.signature` and `help`; worked out when somebody asks."""

    def __get__(self, instance: Any, owner: Any) -> inspect.Signature:
        parameters = []
        for name, item in _fields(owner).items():
            default = item.default
            if default is MISSING:
                default = inspect.Parameter.empty if item.default_factory is MISSING else item.default_factory
            parameters.append(
                inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=item.type)
            )
        return inspect.Signature(parameters, return_annotation=None)
