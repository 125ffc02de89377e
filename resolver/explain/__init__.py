"""The whole story of a query, for people and programs: from the steps of a resolution to a tree, JSON and an HTML page.

`Recorder` collects the steps, `tell` makes a `Story` of them, and `to_text`, `to_json` and `to_page` are three ways to
show it. The rule kept here: no I/O and no clock, equal stories give equal output, and nothing that came from the
network reaches a terminal or a browser before `words.clean` has seen it.
"""

from resolver.explain.advice import Advice
from resolver.explain.data import SCHEMA, to_json
from resolver.explain.page import to_page
from resolver.explain.story import Recorder, ServerReply, Story, tell
from resolver.explain.text import to_text
from resolver.explain.words import clean

__all__ = ["SCHEMA", "Advice", "Recorder", "ServerReply", "Story", "clean", "tell", "to_json", "to_page", "to_text"]
