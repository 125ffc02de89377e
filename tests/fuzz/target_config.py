"""A configuration file of any content is read, or refused with a `ConfigError` whose problems lie inside the file."""

from resolver.daemon.config import ConfigError, parse


def run(data: bytes) -> None:
    """Parse `data` as TOML; a line number must be one of the file's lines."""
    text = data.decode("utf-8", "replace")
    try:
        parse(text)
    except ConfigError as error:
        problems = error.problems
    else:
        return
    assert problems
    last = text.count("\n") + 1
    assert all(0 <= problem.line <= last for problem in problems), problems
