"""What the pages show as output is what the programs print, and no block escapes the tests.

A block in another language than those of `RUN` is on the list `SHOWN` with what checks it, or why there is nothing to
check. So is a ```console block, for its output; its commands run with those of ```sh blocks. Outputs are made here from
the numbers that the page shows.
"""

import ast
import re
import ssl
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.documents import DOCS, FENCE, PAGES, ROOT, SPAN, blocks, commands, without_blocks
from support.handbook import COMPLETE, ELSEWHERE, NOT_RUN, PROGRAMS

from resolver.cli.control import list_lines, zone_lines
from resolver.cli.top import view
from resolver.daemon import config, unit_file
from resolver.daemon.zone_files import read_zone_file
from resolver.net.tls_client import describe_tls_failure
from resolver.net.tls_upstream import TlsUpstream
from resolver.settings import QueryLogSettings
from resolver.zones.load import ZoneFileError

pytestmark = pytest.mark.checkout

HERE = "tests/unit/test_doc_outputs.py"
COMMANDS = "tests/integration/test_doc_commands.py"
#: The language of a block: the test that runs each block of it.
RUN = {
    "python": "tests/unit/test_doc_examples.py",
    "sh": COMMANDS,
    "toml": "tests/unit/test_doc_configurations.py",
}
#: Beginning of a block in another language, or with an output: the test of it, or why it has none.
SHOWN = {
    "architecture.md: corenet   core": "the order of the packages, whose test is tests/unit/test_layers.py",
    "client-subnet.md: $ dig": COMMANDS,
    "encrypted-dns.md: ExecReload=": HERE,
    "encrypted-upstream.md: upstream: 9.9.9.9": HERE,
    "fleet.md: user resolver on": HERE,
    "migrating-from-adguard-home.md: dns:": "a configuration of AdGuard Home; the page has ours beside it",
    "migrating-from-adguard-home.md: $TTL 300": "tests/unit/test_doc_configurations.py",
    "migrating-from-knot-resolver.md: net.listen": "a configuration of Knot Resolver 5; the page has ours beside it",
    "migrating-from-knot-resolver.md: network:": "a configuration of Knot Resolver 6; the page has ours beside it",
    "monitoring.md: last 2.0 s": HERE,
    "operating.md: #!/bin/sh\n# unshare": "it changes mounts, so it needs root and a machine of its own",
    "operating.md: [Socket]": COMMANDS,
    "policy.md: $ resolverctl lists": HERE,
    "policy.md: $TTL 300": "tests/unit/resolver/policy/test_rpz.py",
    "query-log.md: time=": HERE,
    "query-log.md: /var/log/resolverd/queries.log": COMMANDS,
    "rate-limits.md: rate limit: replies": HERE,
    "zones.md: $ resolverctl zones": HERE,
}
PAGE = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES]


def shown(page: str, beginning: str) -> str:
    """The block of a page that begins so."""
    text = (DOCS / page).read_text(encoding="utf-8")
    [source] = [match[2] for match in FENCE.finditer(text) if match[2].startswith(beginning)]
    return source


# --- nothing escapes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGE)
def test_each_block_is_run_or_on_the_list(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        if match[1] not in RUN:
            entries = [entry for entry in SHOWN if f"{page.name}: {match[2]}".startswith(entry)]
            assert entries, f"a block in the language {match[1]!r} that nothing checks: {match[2]}"


def test_the_lists_have_no_more_than_the_pages() -> None:
    texts = [one.text for page in PAGES for one in commands(page, PROGRAMS)]
    assert [entry for entry in COMPLETE if entry not in texts] == []
    assert [entry for entry in (*NOT_RUN, *ELSEWHERE) if not any(re.match(entry, text) for text in texts)] == []
    found = [f"{page.name}: {match[2]}" for page in PAGES for match in FENCE.finditer(page.read_text(encoding="utf-8"))]
    assert [entry for entry in SHOWN if not any(block.startswith(entry) for block in found)] == []
    named = [path for why in SHOWN.values() for path in re.findall(r"tests/[\w/]+\.py", why)]
    tests = [*RUN.values(), *ELSEWHERE.values(), *named]
    assert [path for path in tests if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGE)
def test_blocks_have_no_other_form(page: Path) -> None:
    """Indented blocks, fences with tildes or options, and HTML would not be found."""
    text = page.read_text(encoding="utf-8")
    rest = without_blocks(text)
    assert not re.search(r"```|~~~|<pre|<code", rest), "write ``` and one word for the language"
    assert not re.search(r"(?m)^(?![ *\-\d]).*\n\n(?: {4}|\t)\S", f"\n{rest}"), "an indented block: write a fence"


@pytest.mark.parametrize("page", PAGE)
def test_no_command_hides_in_a_block_that_is_only_shown(page: Path) -> None:
    """logrotate runs the one that is left."""
    hidden = [
        line for match in FENCE.finditer(page.read_text(encoding="utf-8"))
        if match[1] not in (*RUN, "console") and "postrotate" not in match[2]
        for line in match[2].splitlines() if re.match(rf"(\$ )?({'|'.join(PROGRAMS)})( \S|$)", line)
    ]
    assert hidden == [], "write ```sh, or ```console with its output"


@pytest.mark.parametrize("page", PAGE)
def test_programs_inside_of_sentences_are_known(page: Path) -> None:
    """Code with an option is a command, whose program must be in PROGRAMS so that it is run. Variables before a command
    would hide it."""
    spans = [" ".join(match[1].split()) for match in SPAN.finditer(without_blocks(page.read_text(encoding="utf-8")))]
    assert [span for span in spans if re.match(r"[A-Z_]+=[^\s\"]+ [a-z]", span)] == [], "write ```sh"
    assert [span for span in spans if re.match(r"[a-z][\w./-]* (.* )?(-{1,2}[a-zA-Z]|\+[a-z])", span)
            and span.partition(" ")[0] not in PROGRAMS] == []


# --- outputs ------------------------------------------------------------------------------------------------------


def test_top() -> None:
    activity = {
        "seconds": 2.0,
        "workers": {"answered": 1, "all": 1},
        "queries": {"rate": 53627, "by_transport": {"udp": 53627}},
        "replies": {"rate": 53627, "by_rcode": {"NOERROR": 32156, "SERVFAIL": 10753, "NXDOMAIN": 10718}},
        "answers": {"by_result": {"hit": 42874, "miss": 10753}, "cache_hit_ratio": 42874 / 53627},
        "client_latency": {"p50": 51e-6, "p90": 92e-6, "p99": 545e-6},
        "upstream": {"rate": 126, "timeouts": 1.5, "latency": {"p50": 12.1e-3, "p90": 48.3e-3, "p99": 240e-3}},
        "outstanding": {"client_queries": 14, "resolutions": 17},
        "memory": {"cache": 31 << 20, "cache_limit": 55.9 * 2**20, "other": 4.1 * 2**20, "other_limit": 3795 << 20},
        "drops": {},
        "sampling": {"replies": 107849, "samples": 3582},
        "top": {"names": [
            {"name": "www.example.com.", "type": "A", "count": 23186, "error": 0},
            {"name": "mail.example.net.", "type": "MX", "count": 22589, "error": 484},
        ]},
    }
    assert shown("monitoring.md", "last ").splitlines() == [*(line for line, _ in view(activity, 10)), "..."]


def zone(name: str, **fields: object) -> dict[str, object]:
    known = {"zone": name, "role": "secondary", "state": "serving", "error": "", "age": None, "next_refresh": None,
             "expires": None}
    return known | fields


def test_lists_and_zones() -> None:
    feed_list = {"name": "feed.example", "entries": 400001, "left_out": 1, "unsupported": 0, "age": 182, "error": ""}
    lists = {"lists": [feed_list]}
    feed = zone("feed.example.", mode="policy", serial=2026112601, records=400004, age=182, next_refresh=56 * 60,
                expires=23 * 3600 + 56 * 60)
    assert shown("policy.md", "$ resolverctl lists").splitlines() == [
        "$ resolverctl lists", *list_lines(lists), "$ resolverctl zones", *zone_lines({"zones": [feed]}),
    ]


def test_a_zone_file_with_an_error(tmp_path: Path) -> None:
    """The file has the error in the line that the page names."""
    settings = next(
        one for _, source in blocks("toml") if 'name = "home.example."' in source for one in config.parse(source).zone
    )
    head = "$TTL 300\n@ SOA ns host 6 7200 3600 86400 300\n@ NS ns\nns A 127.0.0.1\na A 192.0.2.1\n"
    hosts = "".join(f"host{number} A 192.0.2.{number}\n" for number in range(19))
    file = tmp_path / "home.example.zone"
    file.write_text(f"{head}{hosts}a CNAME ns\n", encoding="utf-8")
    with pytest.raises(ZoneFileError) as failed:
        read_zone_file(replace(settings, file=str(file)), lambda begun: True)
    error = f"the zone file cannot be used: {failed.value}".replace(str(file), settings.file)
    home = zone("home.example.", role="primary", mode="authoritative", state="failed", serial=5, records=24, age=182,
                error=error)
    root = zone(".", mode="delegations", serial=2026112500, records=24893, age=117, next_refresh=28 * 60 + 3,
                expires=6 * 86400 + 23 * 3600)
    assert shown("zones.md", "$ resolverctl zones").splitlines() == [
        "$ resolverctl zones", *zone_lines({"zones": [home, root]}),
    ]


def messages(*paths: str) -> list[re.Pattern[str]]:
    """The texts of the string literals of source files, with their variable parts as groups."""
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "%s" for part in node.values]
                found.add("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return [re.compile(re.escape(text).replace("%s", "(.*)"), re.DOTALL) for text in found if "%s" in text]


def is_said(line: str, known: list[re.Pattern[str]]) -> bool:
    """Whether a literal has this text, or has it around the text of another one."""
    for pattern in known:
        match = pattern.fullmatch(line)
        if match and pattern.pattern.count("(.*)") * 4 < len(pattern.pattern) and all(
            len(group) < 25 or is_said(group, known) for group in match.groups()
        ):
            return True
    return False


def test_log_lines() -> None:
    known = messages("resolver/daemon/periodic_work.py", "resolver/iterate/fetch_quota.py")
    for line in shown("rate-limits.md", "rate limit").splitlines():
        assert is_said(line, known), line
        assert not is_said(line.replace("limit: ", "bound: ", 1), known)


def test_the_reason_why_a_server_is_refused() -> None:
    detail = "Hostname mismatch, certificate is not valid for 'dns.example'."
    error = ssl.SSLCertVerificationError(1, detail)
    error.verify_code, error.verify_message = 62, detail
    server: Any = SimpleNamespace(address="9.9.9.9", port=853, encryption=SimpleNamespace(name="dns.example"))
    upstream: Any = SimpleNamespace(transport_name=TlsUpstream.transport_name)
    said = TlsUpstream.text(upstream, str(describe_tls_failure(error)), server)
    assert shown("encrypted-upstream.md", "upstream") == f"upstream: {said.partition(' (Host')[0]} (...)\n"
    assert is_said("upstream: x", messages("resolver/net/tls_upstream.py"))


def test_the_unit_of_the_page_on_encrypted_dns() -> None:
    """`--print-unit` prints the lines that the page shows, for the first configuration of the page."""
    first = next(source for place, source in blocks("toml") if place.startswith("docs/encrypted-dns.md"))
    printed = unit_file.render(config.parse(first), "resolverd", "/etc/resolverd/resolverd.toml").splitlines()
    assert [line for line in shown("encrypted-dns.md", "ExecReload=").splitlines() if line not in printed] == []


def test_the_line_of_the_query_log() -> None:
    keys = re.findall(r"(?:^| )([a-z]+)=", shown("query-log.md", "time="))
    assert tuple(keys) == QueryLogSettings().fields


def test_the_user_of_the_second_level_is_the_one_of_the_test_with_redis() -> None:
    words = shown("fleet.md", "user resolver").replace("PASSWORD", "word").split()[1:]
    test = (ROOT / "tests/integration/test_redis_engine.py").read_text(encoding="utf-8")
    assert ", ".join(f'"{word}"' for word in words) in " ".join(test.split())
