"""What a response gives beyond its body: links, challenges, lines and events, on which it may only spend linear work.

Whatever the bytes are, the parsers return; lines and events do not depend on how the body is split.
"""

from corenet.http.auth import parse_challenges
from corenet.http.digest import DigestAuth
from corenet.http.errors import ResponseTooLarge
from corenet.http.event_stream import EventStream, LineSplitter
from corenet.http.links import parse_links
from corenet.http.retries import Retries
from corenet.http.url import parse_url

URL = parse_url("http://example.com/path")


def run(data: bytes) -> None:
    """One input: a field value, and the same bytes as a body."""
    text = data.decode("latin-1")
    for link in parse_links([text]):
        assert link.url in text and all(name == name.lower() for name in link.params)
    challenges = parse_challenges([text])
    auth = DigestAuth("user", "password", random=lambda: "cnonce")
    if auth.answer(URL, challenges, 0):
        assert auth.authorize("GET", URL) is not None
    delay = Retries().delay(0, text, now=0.0, draw=0.5)
    assert delay is None or 0 <= delay <= 10
    try:
        lines = [*LineSplitter().feed(data, last=True)]
        events = [(event.data, event.event, event.id) for event in EventStream().feed(data)]
        splitter, stream = LineSplitter(), EventStream()
        cut = [data[at : at + 2] for at in range(0, len(data), 2)]
        parts = [line for piece in cut for line in splitter.feed(piece)] + [*splitter.feed(b"", last=True)]
        assert parts == lines
        split = [event for piece in cut for event in stream.feed(piece)]
        assert [(event.data, event.event, event.id) for event in split] == events
    except ResponseTooLarge:
        pass
