"""Every configuration that a page shows is one that the daemon accepts: each ```toml block, as it stands."""

import pytest
from support.documents import blocks

from resolver.daemon import config

pytestmark = pytest.mark.checkout

SHOWN = blocks("toml")


def test_there_are_configurations() -> None:
    assert SHOWN


@pytest.mark.parametrize(("place", "source"), SHOWN, ids=[place for place, _ in SHOWN])
def test_a_shown_configuration_is_accepted(place: str, source: str) -> None:
    config.parse(source, source=place)
