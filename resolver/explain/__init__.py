"""Reports about a query: from the steps of a resolution to text, JSON and an HTML page.

`Recorder` collects the steps, `build_explanation` turns them into an `Explanation`, and `to_text`, `to_json` and
`to_page` render it. There is no I/O and no clock, and equal explanations give equal output. All text from the network
passes through `formats.escape_controls` before it is output.
"""

from resolver.explain.advice import Advice
from resolver.explain.data import SCHEMA, to_json
from resolver.explain.explanation import Explanation, Recorder, ServerReply, build_explanation
from resolver.explain.formats import escape_controls
from resolver.explain.page import to_page
from resolver.explain.text import to_text

__all__ = [
    "SCHEMA",
    "Advice",
    "Explanation",
    "Recorder",
    "ServerReply",
    "build_explanation",
    "escape_controls",
    "to_json",
    "to_page",
    "to_text",
]
