"""Modules with hooks: how they are found, what is wrong with them, reloads, views, and the examples of the handbook."""

import asyncio
import importlib
import json
import sys
from datetime import time as time_of_day
from ipaddress import ip_address
from pathlib import Path

import pytest
from support.http_peer import run_on

from resolver import limits
from resolver.daemon import config
from resolver.daemon.config_reload import make_plan
from resolver.daemon.hook_modules import HookModules, load
from resolver.hooks import Query, Question, Response, answer, question_of
from resolver.policy import PolicyPipeline
from resolver.settings import PolicySettings, Settings, ViewSettings
from resolver.wire import consts as c

EXAMPLES = Path(__file__).resolve().parents[4] / "docs" / "examples" / "hooks"
QUESTION = Question("portal.corp.example.", "A")


def _settings(*modules, **more):
    return Settings(policy=PolicySettings(modules=tuple(map(str, modules)), **more))


def _file(tmp_path, text, name="mypolicy.py"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_module_is_a_file_or_a_name_and_is_run_anew(tmp_path, monkeypatch):
    path = _file(tmp_path, "def client(query, question):\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    for text in (str(path), "mypolicy"):
        made = HookModules(_settings(text))
        assert [hook.name for hook in made._loaded[text]] == ["mypolicy.client"]
        assert made._loaded[text][0].function(None, None) == 1
        _file(tmp_path, "def client(query, question):\n    return 2\n")  # within the same second
        changed = HookModules(_settings(text))
        assert changed._loaded[text][0].function(None, None) == 2
        assert made._loaded[text][0].function(None, None) == 1, "the code before stays in use"
        assert made.sources != changed.sources
        assert "mypolicy" not in sys.modules
        _file(tmp_path, "def client(query, question):\n    return 1\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = (\n", ":1: '(' was never closed"),
        ("\nimport nothing_of_this_name\n", ":2: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def f():\n    1 / 0\nf()\n", ":2: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit('no')\n", ":2: SystemExit: no"),
        ("x = 1\n", "defines none of the functions client, question, alias, name_server, response, send"),
        ("client = 5\n", "client is no function"),
        ("\ndef client(query): pass\n", ":2: client is called with 2 arguments, which it does not take"),
        ("async def alias(a, b): pass\n", ":1: alias must be a plain function"),
        ("async def send(a, b): pass\n", ":1: send must be a plain function"),
        ("def name_server(a, b): pass\n", ":1: name_server is called with 3 arguments"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path, text, words):
    path = _file(tmp_path, text)
    with pytest.raises(ValueError, match=r"^policy\.modules: ") as caught:
        make_plan(_settings(path))
    assert str(path) in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/none/of/this.py", "there is no such file"), ("no_such_module", "Python finds no such module"),
        ("no.such.module", "No module named 'no'"), ("math", "Python finds no such module"),
    ],
)
def test_a_module_that_is_not_found(text, words):
    with pytest.raises(ValueError, match=words):
        load(text)


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"policy\.on_hook_error: 'stop' is not one of continue, servfail"):
        PolicySettings(on_hook_error="stop")
    with pytest.raises(ValueError, match=r"policy\.hook_timeout: 0 is outside 0\.01\.\.30 seconds"):
        PolicySettings(hook_timeout=0.0)
    with pytest.raises(ValueError, match="more than 64 modules"):
        PolicySettings(modules=("a",) * (limits.HOOK_MODULES + 1))
    with pytest.raises(ValueError, match="'' is no name"):
        PolicySettings(modules=("",))
    text = '[policy]\nmodules = ["a"]\nhook-timeout = "200 ms"\non-hook-error = "servfail"\n'
    assert config.parse(text).policy.hook_timeout == 0.2


def test_hooks_belong_to_views(tmp_path):
    everywhere = _file(tmp_path, "def client(query, question): pass\n", "one.py")
    home = _file(tmp_path, "def question(query, question): pass\n", "two.py")
    views = (
        ViewSettings(name="home", clients=("192.168.0.0/16",), modules=(str(home),)),
        ViewSettings(name="guests", clients=("10.0.0.0/8",), inherit=False, modules=(str(home),)),
        ViewSettings(name="plain", clients=("172.16.0.0/12",), inherit=False),
    )
    settings = Settings(policy=PolicySettings(modules=(str(everywhere),)), view=views)
    made = HookModules(settings)
    pipelines = PolicyPipeline(settings, hooks=made.views).views
    seen = [None if one.hooks is None else (one.hooks.has_client, one.hooks.has_question, one.caches)
            for one in pipelines]
    assert seen == [(True, False, False), (True, True, False), (False, True, True), None]
    assert pipelines[3].caches, "a view without hooks has cached answers"
    assert made.statistics()["calls"] == {"one.client": 0, "two.question": 0} and made.statistics()["running"] == 0


# --- examples -----------------------------------------------------------------------------------------------------


def _asker(address="192.0.2.1"):
    return Query(ip_address(address), "udp", "127.0.0.1:53", False, "")


@pytest.mark.checkout
def test_all_examples_are_good_modules():
    names = sorted(str(path) for path in EXAMPLES.glob("*.py"))
    assert len(names) == 4
    HookModules(_settings(*names))


@pytest.mark.checkout
def test_the_example_of_a_split_answer():
    module, _, _ = load(str(EXAMPLES / "split_by_network.py"))
    assert module.client(_asker("10.9.9.9"), QUESTION).data == ("10.1.2.3",)
    assert module.client(_asker(), QUESTION).data == ("198.51.100.7",)
    assert module.client(_asker(), Question("portal.corp.example.", "AAAA")).data == ()
    assert module.client(_asker(), Question("other.example.", "A")) is None


@pytest.mark.checkout
def test_the_example_of_an_hour(monkeypatch):
    module, _, _ = load(str(EXAMPLES / "block_by_hour.py"))
    child, game = _asker("192.168.7.20"), Question("www.games.example.", "A")
    for hour, blocked in ((6, True), (7, False), (19, False), (20, True), (23, True)):
        monkeypatch.setattr(module, "now", lambda hour=hour: time_of_day(hour, 30 if hour == 6 else 0))
        assert (module.client(child, game) is not None) is blocked, hour
    assert module.client(_asker(), game) is None
    assert module.client(child, Question("notgames.example.", "A")) is None


@pytest.mark.checkout
def test_the_example_of_a_log(caplog):
    from resolver.hooks import outcome_of

    caplog.set_level("INFO")
    module, _, _ = load(str(EXAMPLES / "log_clients.py"))
    from resolver.effects import Question as Asked

    asked = Asked(b"\3www\4test\0", c.A)
    outcome = outcome_of(answer("192.0.2.7"), asked)
    module.send(_asker(), Response(question_of(asked.qname, c.A), outcome))
    assert json.loads(caplog.messages[-1]) == {
        "client": "192.0.2.1", "transport": "udp", "name": "www.test.", "type": "A", "rcode": "NOERROR",
        "addresses": ["192.0.2.7"],
    }


@pytest.mark.checkout
def test_the_example_of_a_service(monkeypatch):
    asked = []

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        name = head.split(b"name=")[1].split(b" ")[0].decode()
        asked.append(name)
        body = json.dumps({"bad": name.startswith("bad")}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
                     b"Connection: close\r\n\r\n" % len(body) + body)
        writer.close()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("REPUTATION_SERVICE", f"http://127.0.0.1:{port}/")
        module, _, _ = load(str(EXAMPLES / "ask_a_service.py"))
        for _ in range(2):
            decision = await module.question(_asker(), Question("bad.example.", "A"))
            assert (decision.rcode, decision.ede, decision.reason) == ("NXDOMAIN", 15, "bad reputation")
            assert await module.question(_asker(), Question("good.example.", "A")) is None
        assert asked == ["bad.example.", "good.example."], "its answers are kept"
        server.close()
        await server.wait_closed()

    run_on("corenet", main())


def test_a_module_of_the_same_name_is_left_alone(tmp_path):
    before = importlib.import_module("json")
    _file(tmp_path, "import sys\nclient = lambda query, question: sys.modules[__name__]\n", "json.py")
    load(str(tmp_path / "json.py"))
    assert sys.modules["json"] is before
