"""Reports about a query: from the steps of a resolution to text, JSON and an HTML page.

`Recorder` collects the steps, `build_story` turns them into a `Story`, and `to_text`, `to_json` and `to_page` render
it. There is no I/O and no clock, and equal stories give equal output. All text from the network passes through
`words.clean` before it is output.
"""

from resolver.explain.advice import Advice
from resolver.explain.data import SCHEMA, to_json
from resolver.explain.page import to_page
from resolver.explain.story import Recorder, ServerReply, Story, build_story
from resolver.explain.text import to_text
from resolver.explain.words import clean

__all__ = [
    "SCHEMA",
    "Advice",
    "Recorder",
    "ServerReply",
    "Story",
    "build_story",
    "clean",
    "to_json",
    "to_page",
    "to_text",
]
