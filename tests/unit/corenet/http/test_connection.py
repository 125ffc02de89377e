"""The states of a connection: the table of its module, and what holds in each state."""

import asyncio

import pytest
from support.machines import read_table, table_of

from corenet.http import connection
from corenet.http.connection import Connection
from corenet.http.url import Origin


def test_the_table_in_the_text_is_the_table() -> None:
    assert connection.__doc__ is not None
    assert read_table(connection.__doc__) == table_of(connection)


def test_each_transition_that_the_table_leaves_out_raises() -> None:
    async def main() -> None:
        for state in range(len(connection._STATES)):
            for event in range(len(connection._EVENTS)):
                one = Connection(asyncio.get_running_loop(), Origin("http", "a.example", 80))
                one.state = state
                if connection._NEXT[state][event] == connection._NO:
                    told = f"^{connection._EVENTS[event]} in state {connection._STATES[state]} "
                    with pytest.raises(RuntimeError, match=told):
                        one._move(event)
                    assert one.state == state
                else:
                    one._move(event)
                    assert one.state == connection._NEXT[state][event]

    asyncio.run(main())
