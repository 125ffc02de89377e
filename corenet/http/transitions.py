"""State machines as tables: for each event a table from state to next state.

A module documents its states and events as a table in its docstring and creates one `Transition` for each column. State
changes only by ``state = BEGIN[state]``; an event that is impossible in a state raises. A test compares docstring and
transitions. They are dictionaries, because a look-up is all that a request may cost for each step.
"""

__all__ = ["Transition"]


class Transition(dict[int, int]):
    """One event: the next state for each state in which it can happen. Constant.

    An impossible state raises RuntimeError, because that is a bug of this package, not of a caller or a peer.
    """

    __slots__ = ("event", "states")

    def __init__(self, event: str, states: tuple[str, ...], table: dict[int, int]) -> None:
        super().__init__(table)
        self.event = event
        self.states = states

    def __missing__(self, state: int) -> int:
        raise RuntimeError(f"{self.event} cannot happen in state {self.states[state]}")
