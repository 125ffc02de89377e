"""The configuration that is made of a scenario says all that the scenario says, or there is none."""

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from resolver.daemon.config import parse
from resolver.settings import Settings

jinja2 = pytest.importorskip("jinja2", reason="the scenarios' runner needs Jinja2, and nothing else here")

HERE = Path(__file__).resolve().parent
TEMPLATE = HERE / "scenarios" / "daemon.toml.j2"


def written(*options: tuple[str, str], **changes: Any) -> str:
    """The configuration for a scenario with these options. `changes`: other variables of the runner."""
    variables: dict[str, Any] = {
        "listen": ["127.127.0.2", "fd00:dec::2"], "port": 53, "source_v4": "127.127.0.2", "source_v6": "fd00:dec::2",
        "root_hints": [], "trust_anchors": [], "negative_trust_anchors": [], "forward": [], "stub": [], "auth": [],
        "qname_minimisation": True, "do_ip4": True, "do_ip6": True, "do_not_query_localhost": True, "priming": False,
        "harden_glue": True, "minimal_responses": True, "edns_bufsize": 4096, "cache_min_ttl": None,
        "cache_max_ttl": None, "dns64_prefix": None, "hosts": {}, "allow": ["0.0.0.0/0"], "features": [],
        "options": [list(option) for option in options],
    }
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return str(environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(variables | changes))


def render(*options: tuple[str, str], **changes: Any) -> dict[str, Any]:
    """The same, read back."""
    return tomllib.loads(written(*options, **changes))


@pytest.mark.parametrize("option", [
    ("unheard-of", "yes"), ("serve-original-ttl", "yes"), ("harden-referral-path", "yes"), ("val-max-restart", "0"),
    ("harden-dnssec-stripped", "no"), ("trust-anchor-signaling", "yes"), ("module-config", "subnetcache iterator"),
    ("edns-tcp-keepalive-timeout", "12000"), ("val-nsec3-keysize-iterations", "1024 100"), ("ede", "no"),
    ("local-zone", "a. inform"), ("access-control", "10.0.0.0/8 deny_non_local"), ("cache-min-negative-ttl", "5"),
    ("policy", "policy:add(policy.pattern(policy.DENY, '[0-8]'))"), ("response-ip", "192.0.2.0/24 deny"),
    ("define-tag", "a"), ("nat64-prefix", "64:ff9b::/96"), ("forward-no-cache", "yes"), ("prefetch", "sometimes"),
])
def test_an_option_that_is_not_translated_ends_the_rendering(option: tuple[str, str]) -> None:
    with pytest.raises(jinja2.UndefinedError, match="not translated"):
        render(option)


@pytest.mark.parametrize("changes", [
    {"auth": [{"kind": "auth-zone", "options": []}]},
    {"auth": [{"kind": "rpz", "options": []}]},
    {"stub": [{"zone": "a.", "addresses": ["10.0.0.1"], "prime": "yes"}]},
    {"features": ["forward-options"], "forward": [{"zone": "a.", "addresses": ["10.0.0.1"], "first": False}]},
])
def test_a_zone_that_is_not_translated_ends_the_rendering(changes: dict[str, Any]) -> None:
    with pytest.raises(jinja2.UndefinedError, match="not translated"):
        render(**changes)


def test_what_is_translated_is_there() -> None:
    made = render(("aggressive-nsec", "no"), ("tcp-upstream", "yes"), ("local-zone", "a. static"), ("version", "v"),
                  ("private-address", "10.0.0.0/8"), ("harden-algo-downgrade", "yes"), ("verbosity", "4"))
    assert made["cache"]["aggressive-nsec"] is False
    assert made["iteration"]["tcp-only"] is True
    assert made["policy"]["local-zones"] == ["a. static"]
    assert made["policy"]["private-addresses"] == ["10.0.0.0/8"]
    assert made["server"]["version"] == "v"
    assert made["dnssec"]["harden-algorithm-downgrade"] is True


def test_limits_are_the_products_own() -> None:
    """A scenario is run with the limits of normal operation, not with limits that would let it pass (RFC 9276)."""
    made, own = parse(written()), Settings()
    assert made.cache.aggressive_nsec
    assert made.dnssec.nsec3_max_iterations == own.dnssec.nsec3_max_iterations == 50


def test_the_readme_has_the_figures_that_are_checked() -> None:
    """Those of test_scenarios.py, which needs the scenarios."""
    source = (HERE / "test_scenarios.py").read_text(encoding="utf-8")
    floors = ast.literal_eval(re.search(r"^FLOORS = (.*)$", source, re.MULTILINE)[1])  # type: ignore[index]
    readme = (HERE.parents[1] / "README.md").read_text(encoding="utf-8")
    told = re.search(r"\(`make scenarios`, [\d-]+\): (\d+) of Deckard's 128 pass, and (\d+) of Unbound's 212", readme)
    assert told is not None and told.groups() == (str(floors["deckard"]), str(floors["unbound"]))
