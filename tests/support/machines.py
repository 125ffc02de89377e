"""State machines: compares the table in a module's docstring with the table that the code uses.

A module makes a `Transition` of each event; its docstring shows the same as rows of cells between bars.
"""

from types import ModuleType

from corenet.http.transitions import Transition

__all__ = ["read_table", "steps_of", "table_of"]

Table = dict[tuple[str, str], str]


def read_table(text: str) -> Table:
    """What the one table in `text` says: (state, event) to state."""
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.count("|") > 1]
    events = rows[0][1:]
    return {(row[0], event): cell for row in rows[1:] for event, cell in zip(events, row[1:], strict=True) if cell}


def steps_of(module: ModuleType) -> list[Transition]:
    """The events of a module."""
    return [step for step in vars(module).values() if isinstance(step, Transition)]


def table_of(module: ModuleType) -> Table:
    """What the module does."""
    return {
        (step.states[state], step.event): step.states[following]
        for step in steps_of(module)
        for state, following in step.items()
    }
