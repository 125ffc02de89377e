"""Checks of the types of arguments: a wrong one raises a TypeError that names the argument and what it takes.

A wrong type would otherwise raise far from the call, or pass: ``retries=3``, ``timeout=(3, 10)``, ``statuses="503"``.
Each is checked once, where it is taken or converted, so a request without options pays nothing.
"""

from corenet.limits import Limit

__all__ = ["expect", "expect_callable", "integer", "number"]


def expect(value: object, kinds: type | tuple[type, ...], where: str, what: str) -> None:
    """Check the type of an argument; `where` names it, `what` says in words what it takes.

    Raises:
        TypeError: it is of another type.
    """
    if not isinstance(value, kinds):
        raise TypeError(f"{where} is {what}, not {type(value).__name__}")


def expect_callable(value: object, where: str, what: str) -> None:
    """Check that an argument can be called; otherwise as `expect`."""
    if not callable(value):
        raise TypeError(f"{where} is a callable {what}, not {type(value).__name__}")


def number(limit: Limit, value: float, where: str) -> float:
    """Check the type and range of a number.

    Raises:
        TypeError: it is no number.
        ValueError: it is outside the range.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{where} is a number ({limit.unit}), not {type(value).__name__}")
    return limit.check(value, where)


def integer(limit: Limit, value: int, where: str) -> int:
    """Check the type and range of a whole number. Raises what `number` raises."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{where} is a whole number ({limit.unit}), not {type(value).__name__}")
    return limit.check(value, where)
