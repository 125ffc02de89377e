"""What the tests of the importers share."""

import tomllib

import pytest

from resolver.cli.importers import convert
from resolver.daemon.config import load


@pytest.fixture
def made(tmp_path):
    """Converts a text; returns the configuration as a mapping, and what is left out."""

    def make(text, kind):
        result, draft = make.whole(text, kind)
        return result, [f"{one.place.line}: {one.text}: {one.why}" for one in draft.remarks if one.needed]

    def whole(text, kind):
        """The configuration as a mapping, and the draft."""
        file = tmp_path / "given.conf"
        file.write_text(text)
        toml, draft = convert(str(file), kind)
        result = tmp_path / "resolverd.toml"
        result.write_text(toml)
        load(str(result))
        return tomllib.loads(toml), draft

    make.whole = whole
    return make
