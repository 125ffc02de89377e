"""The parsers of response fields spend linear work on fields that were made to be slow."""

import subprocess
import sys

import pytest

# Quadratic work on this many bytes takes many minutes, linear work a fraction of a second.
SIZE = 1 << 19
PARSERS = {
    "hsts": "from corenet.http.hsts import parse_policy as parse",
    "cache": "from corenet.http.cache_rules import cache_control; parse = lambda text: cache_control([text])",
    "auth": "from corenet.http.auth import parse_challenges; parse = lambda text: parse_challenges([text])",
    "links": "from corenet.http.links import parse_links; parse = lambda text: parse_links([text])",
}
FIELDS = [
    '"a" + " " * n + "@"',
    '"a;" + " " * n + "@"',
    '"a," + " " * n + "@"',
    '"," * n + "@"',
    '"a=b" + "\\t" * n + "@"',
]
FIELDS += [
    '"a" * n + "@"',
    "'a=\"' + 'b,' * n",
    "'a=\"b' + ',' * n",
    '"a , " * n + "@"',
    '"@," * n',
    '"<" * n',
    '"<a>;" * n + "@"',
]


@pytest.mark.parametrize("parser", sorted(PARSERS))
def test_a_field_takes_linear_work(parser: str) -> None:
    fields = ", ".join(FIELDS)
    script = f"{PARSERS[parser]}\nn = {SIZE}\nfor text in ({fields}):\n    parse(text)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
