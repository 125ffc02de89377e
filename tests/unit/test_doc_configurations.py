"""Every configuration that a page shows is one that the daemon accepts: each ```toml block, as it stands."""

import re

import pytest
from support.certs import Authority
from support.documents import DOCS, FENCE, blocks

from resolver.daemon import config
from resolver.daemon.exit_status import EXIT_OK
from resolver.daemon.main import main

pytestmark = pytest.mark.checkout

SHOWN = blocks("toml")


def test_there_are_configurations() -> None:
    assert SHOWN


@pytest.mark.parametrize(("place", "source"), SHOWN, ids=[place for place, _ in SHOWN])
def test_a_shown_configuration_is_accepted(place: str, source: str) -> None:
    config.parse(source, source=place)


def test_the_home_of_the_page_about_adguard_home_passes_the_check_of_a_start(tmp_path, capsys):
    """With the files that it names: lists of one name, the policy zone of the page, a certificate of its name."""
    page = (DOCS / "migrating-from-adguard-home.md").read_text(encoding="utf-8")
    shown = FENCE.findall(page)
    [source] = [text for language, text in shown if language == "toml"]
    [zone] = [text for language, text in shown if language == "text" and " SOA " in text]
    source = re.sub(r'"/(?:etc|var/lib|var/log|run)/resolverd/', f'"{tmp_path}/', source)
    for name in re.findall(rf'file = "{tmp_path}/(\w+\.txt)"', source):
        (tmp_path / name).write_text("blocked.example\n")
    (tmp_path / "safe-search.zone").write_text(zone)
    leaf = Authority(tmp_path).leaf("dns.home.example")
    leaf.certificate.rename(tmp_path / "cert.pem")
    leaf.key.rename(tmp_path / "key.pem")
    path = tmp_path / "resolverd.toml"
    path.write_text(source)
    assert main(["--check", "--config", str(path)]) == EXIT_OK
    assert capsys.readouterr().out == f"{path}: configuration is valid\n"
