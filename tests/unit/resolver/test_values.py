"""Frozen values: what `dataclasses` promises of a frozen class holds, without the source it would compile."""

import copy
import dataclasses
import inspect
import pickle

import pytest

from resolver.values import frozen


@frozen
class Point:
    """A place."""

    x: int
    y: int = 2
    tags: tuple[str, ...] = ()
    notes: dict[str, int] = dataclasses.field(default_factory=dict)


@frozen
class Even:
    number: int = 0

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError("odd")


def test_fields_are_given_by_place_by_name_or_by_default():
    made = Point(1, tags=("a",))
    assert (made.x, made.y, made.tags, made.notes) == (1, 2, ("a",), {})
    assert Point(1).notes is not Point(1).notes


@pytest.mark.parametrize(
    ("args", "given", "message"),
    [
        ((), {}, "needs a value for 'x'"),
        ((1, 2, (), {}, 5), {}, "takes 4 values, not 5"),
        ((1,), {"x": 1}, "got two values for 'x'"),
        ((1,), {"z": 1}, "has no field 'z'"),
    ],
)
def test_wrong_arguments_are_named(args, given, message):
    with pytest.raises(TypeError, match=message):
        Point(*args, **given)


def test_nothing_can_be_changed_or_added():
    made = Even(2)
    with pytest.raises(dataclasses.FrozenInstanceError, match="number"):
        made.number = 4
    with pytest.raises(dataclasses.FrozenInstanceError, match="number"):
        del made.number
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.other = 4
    assert not hasattr(made, "__dict__")


def test_values_with_equal_fields_are_equal_and_of_one_hash():
    assert Even(2) == Even(2) != Even(4)
    assert Even(2) != Point(2)
    assert len({Even(2), Even(2), Even(4)}) == 2


def test_a_check_of_the_class_itself_runs_at_the_end():
    with pytest.raises(ValueError, match="odd"):
        Even(3)
    with pytest.raises(ValueError, match="odd"):
        dataclasses.replace(Even(2), number=3)


def test_dataclasses_and_copying_know_it():
    made = Point(1, 5, ("a",), {"b": 1})
    assert dataclasses.is_dataclass(Point)
    assert [item.name for item in dataclasses.fields(made)] == ["x", "y", "tags", "notes"]
    assert dataclasses.replace(made, y=6) == Point(1, 6, ("a",), {"b": 1})
    assert dataclasses.asdict(made) == {"x": 1, "y": 5, "tags": ("a",), "notes": {"b": 1}}
    assert copy.deepcopy(made) == made
    assert pickle.loads(pickle.dumps(made)) == made


def test_it_shows_its_fields_and_its_parameters():
    assert repr(Even(2)) == "Even(number=2)"
    assert list(inspect.signature(Point).parameters) == ["x", "y", "tags", "notes"]
    assert inspect.signature(Even).parameters["number"].default == 0
