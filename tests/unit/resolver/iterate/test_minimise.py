"""How many labels a server gets: one more in each of the first steps, more in later ones, ten steps at most."""

import pytest

from resolver import limits
from resolver.iterate.minimise import labels_to_show


def steps_for(known, total):
    shown, steps = [], 0
    while known < total:
        known = labels_to_show(known, total, steps)
        steps += 1
        shown.append(known)
    return shown


def test_short_names_are_queried_label_by_label():
    assert steps_for(0, 3) == [1, 2, 3]
    assert steps_for(2, 3) == [3]


def test_the_last_step_is_the_question_itself():
    assert labels_to_show(2, 3, 0) == 3
    assert labels_to_show(3, 3, 0) == 3


def test_after_the_first_probes_strides_are_larger_and_after_the_last_there_are_none():
    one, most = limits.MINIMISE_ONE_LABEL, limits.MINIMISE_STEPS
    assert labels_to_show(7, 100, one - 1) == 8
    assert labels_to_show(7, 100, one) > 8
    assert labels_to_show(7, 100, most) == labels_to_show(7, 100, most + 5) == 100


@pytest.mark.parametrize("total", range(1, 128))
def test_no_name_takes_more_steps_than_permitted(total):
    shown = steps_for(0, total)
    assert shown[-1] == total
    assert len(shown) <= limits.MINIMISE_STEPS + 1
    assert shown == sorted(set(shown))
    assert shown[:4] == list(range(1, min(4, total) + 1))
