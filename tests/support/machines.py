"""State machines as their modules tell them: the table in the text against the table that is used.

A module keeps the names of its states in `_STATES`, of its events in `_EVENTS`, the next in `_NEXT[state][event]`
with `_NO` for what cannot happen; its docstring shows the same as rows of cells between bars.
"""

from types import ModuleType

__all__ = ["read_table", "table_of"]

Table = dict[tuple[str, str], str]


def read_table(text: str) -> Table:
    """What the one table in `text` says: (state, event) to state."""
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.count("|") > 1]
    events = rows[0][1:]
    return {(row[0], event): cell for row in rows[1:] for event, cell in zip(events, row[1:], strict=True) if cell}


def table_of(module: ModuleType) -> Table:
    """What the module does."""
    states, events = module._STATES, module._EVENTS
    return {
        (state, event): states[module._NEXT[number][place]]
        for number, state in enumerate(states)
        for place, event in enumerate(events)
        if module._NEXT[number][place] != module._NO
    }
