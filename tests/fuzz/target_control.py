"""Lines on the control socket: a request that the grammar knows, or `RequestError`; nothing else."""

from resolver.daemon.control import GRAMMAR, RequestError, parse_request


def run(data: bytes) -> None:
    """Read `data` as a request."""
    try:
        request = parse_request(data)
    except RequestError:
        return
    grammar = GRAMMAR[request["command"]]
    if not set(request) - {"command"} <= set(grammar):
        raise AssertionError(f"{request} has keys that nobody asked for")
