"""State machines that cannot be left by mistake: for each event a table from state to state.

A module writes its table into its head, for people, and makes one `Transition` of each column. `state = BEGIN[state]`
is then how a state changes, and the only way: an event that cannot happen in a state raises. A test compares the two.
Dictionaries because one look-up is all that a request pays for each of its steps.
"""

__all__ = ["Transition"]


class Transition(dict[int, int]):
    """One event: what it makes of each state in which it can happen. Not changed after it was made.

    Looking up another state raises RuntimeError: a fault of this package, not of a caller or a peer.
    """

    __slots__ = ("event", "states")

    def __init__(self, event: str, states: tuple[str, ...], table: dict[int, int]) -> None:
        super().__init__(table)
        self.event = event
        self.states = states

    def __missing__(self, state: int) -> int:
        raise RuntimeError(f"{self.event} cannot happen in state {self.states[state]}")
