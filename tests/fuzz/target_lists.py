"""Block lists and policy zones of any content: readers refuse with ValueError, the pieces change nothing, and what is
blocked is what was listed."""

from contextlib import suppress

from resolver.policy.list_formats import FORMATS, ListReader, ListReport, detect_format
from resolver.policy.list_source import HEAD_SIZE, read_head
from resolver.policy.rpz_text import read_zone
from resolver.policy.rpz_zone import ZoneCompiler, parse_prefix
from resolver.wire import name as names

KEY = bytes(16)
ORIGIN = names.from_text("rpz.example.")


def compiled(form: str, pieces: list[bytes]) -> ListReport | None:
    """The report of a list that is fed in pieces; None when it is refused."""
    reader = ListReader(form, KEY)
    for piece in pieces:
        reader.feed(piece)
    try:
        made = reader.close()
    except ValueError:
        return None
    assert len(made.blocked) == made.report.names and len(made.allowed) == made.report.exceptions
    return made.report


def run(data: bytes) -> None:
    """One list, or one zone file."""
    assert detect_format(data) in FORMATS
    for form in FORMATS[:3]:
        half = len(data) // 2
        assert compiled(form, [data]) == compiled(form, [data[:half], data[half:]])
    with suppress(ValueError):
        assert len(read_head(data.ljust(HEAD_SIZE))) == 5
    compiler = ZoneCompiler(ORIGIN, KEY)
    with suppress(ValueError):
        read_zone(data.decode("utf-8", "replace").split("\n"), compiler)
    zone = compiler.finish()
    assert len(zone.rules) <= compiler.count + compiler.error_count
    with suppress(ValueError):
        packed, length = parse_prefix(data.split(b"."))
        assert 1 <= length <= 8 * len(packed)


# Each input is played in many ways, in Python.
run.cost = 10  # type: ignore[attr-defined]
