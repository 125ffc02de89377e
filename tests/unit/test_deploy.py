"""The files under docs/deploy: their configurations are valid, and their commands exist."""

import re
import shlex
from pathlib import Path

import pytest

from resolver.cli.control import parser as control_parser
from resolver.daemon.config import load
from resolver.daemon.main import parser as daemon_parser

pytestmark = pytest.mark.checkout

DEPLOY = Path(__file__).resolve().parents[2] / "docs" / "deploy"


def configuration_of_the_image() -> str:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", "")
    words = shlex.split(re.search(r"&& printf (.*) > /etc/resolverd/resolverd.toml", text)[1])
    assert words[0] == r"%s\n"
    return "\n".join(words[1:])


def configuration_of_the_cluster() -> str:
    lines = (DEPLOY / "kubernetes.yaml").read_text().split("  resolverd.toml: |\n")[1].split("---")[0]
    return re.sub(r"(?m)^    ", "", lines)


@pytest.mark.parametrize("make", [configuration_of_the_image, configuration_of_the_cluster])
def test_the_configuration_is_valid_and_serves_the_published_port(make, tmp_path):
    (tmp_path / "resolverd.toml").write_text(make())
    settings = load(str(tmp_path / "resolverd.toml"))
    assert {port for _, port, _ in (listener.key for listener in settings.listeners)} == {5353}
    assert settings.control.socket == "/run/resolverd/control"
    for name in ("Dockerfile", "kubernetes.yaml"):
        assert "5353" in (DEPLOY / name).read_text()


def test_the_commands_exist():
    image = (DEPLOY / "Dockerfile").read_text()
    for found in re.findall(r"(?:CMD|ENTRYPOINT) (\[.*\])", image):
        program, *words = shlex.split(found.strip("[]").replace(",", " "))
        {"resolverd": daemon_parser, "resolverctl": control_parser}[program]().parse_args(words)
    [path] = re.findall(r"docker build -f (\S+) -t resolverd \.$", image.splitlines()[0])
    assert (DEPLOY.parents[1] / path).samefile(DEPLOY / "Dockerfile")
    probes = re.findall(r"command: \[resolverctl, (.*)\]", (DEPLOY / "kubernetes.yaml").read_text())
    assert len(probes) == 2
    for words in probes:
        control_parser().parse_args(shlex.split(words.replace(",", " ")))
