"""Lines of the query log for any time, for tests: the observer reads the clock itself.

Built with the checkout, loaded by tests/support/native.py.
"""

from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset

from resolver.observe.event cimport Event
from resolver.observe.log_line cimport LINE_SPACE, LineForm, form_line, write_line


def time_of_line(int64_t nanoseconds) -> str:
    """The field `time` of a query that was answered at this time since 1970."""
    cdef LineForm form
    cdef Event event
    cdef uint8_t line[LINE_SPACE]
    cdef uint8_t query[12]
    form_line(&form, "text", ("time",), ())
    memset(&event, 0, sizeof(event))
    memset(query, 0, sizeof(query))
    event.query = query
    event.answered = nanoseconds
    return (<char *>line)[:write_line(&form, &event, line)].decode("ascii").strip().removeprefix("time=")
