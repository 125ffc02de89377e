"""rdig in this process and the playground: its output and exit codes.

Values that change from run to run (times, ids, selected servers) are removed before comparing.
"""

import json
import re
import subprocess
import sys
import threading

import pytest

import corenet
from resolver import playground
from resolver.cli import dig
from resolver.limits import DIG_ATTEMPTS


def rdig(capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    code = dig.main(line.split())
    printed = capsys.readouterr()
    return code, re.sub(r"\d+\.\d+ ms", "_ ms", re.sub(r"id: \d+", "id: _", printed.out)), printed.err


@pytest.fixture(scope="module")
def port():
    """The playground on a thread of its own, so that the tool can be run as a whole in this one."""
    ready, ports, loops = threading.Event(), [], []

    async def body() -> None:
        import asyncio

        stop = asyncio.Event()
        async with await playground.start(port=0) as running:
            ports.append(running.port)
            loops.append((asyncio.get_running_loop(), stop))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=corenet.run, args=(body(),))
    thread.start()
    assert ready.wait(30)
    yield ports[0]
    loop, stop = loops[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)


def test_an_answer_by_iteration(capsys) -> None:
    code, out, err = rdig(capsys, "--playground ext.example.playground")
    assert (code, err) == (dig.EXIT_FOUND, "")
    assert (
        out
        == """\
;; status: NOERROR
;; records: answer 2, authority 0, additional 0
;; dnssec: insecure

;; QUESTION
;ext.example.playground. IN A

;; ANSWER
ext.example.playground.  3600  IN  CNAME  www.example.com.
www.example.com.         3600  IN  A      198.18.2.1

;; from iteration in the playground in _ ms
"""
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("www.example.playground", dig.EXIT_FOUND),
        ("a.example.playground TXT", dig.EXIT_FOUND),
        ("www.example.playground AAAA", dig.EXIT_EMPTY),
        ("void.example.playground", dig.EXIT_EMPTY),
        ("missing.example.playground", dig.EXIT_EMPTY),
        ("dangle.example.playground", dig.EXIT_EMPTY),
        ("www.servfail.playground", dig.EXIT_FAILURE),
        ("self.loop.playground", dig.EXIT_FAILURE),
        ("www.cycle-a.com", dig.EXIT_FAILURE),
    ],
)
def test_exit_codes(capsys, line: str, code: int) -> None:
    assert rdig(capsys, f"--playground {line}")[0] == code


def test_a_failure_is_explained_also_in_short_form(capsys) -> None:
    code, out, err = rdig(capsys, "--playground +short www.dead.playground")
    assert (code, out) == (dig.EXIT_FAILURE, "")
    assert err.startswith("rdig: No Reachable Authority (22): ")


def test_short_and_reverse(capsys) -> None:
    assert rdig(capsys, "--playground +short -x 198.18.0.1") == (0, "host1.example.com.\n", "")


def test_the_trace_shows_each_zone(capsys) -> None:
    _, out, _ = rdig(capsys, "--playground +trace www.four.three.two.one.deep.playground")
    trace, _, answer = out.partition("\n\n")
    lines = trace.splitlines()
    assert lines[0] == ";; TRACE" and answer.startswith(";; status: NOERROR")
    places = [
        next(i for i, line in enumerate(lines) if f"refers to {zone}" in line)
        for zone in (
            "playground.",
            "deep.playground.",
            "one.deep.playground.",
            "two.one.deep.playground.",
            "three.two.one.deep.playground.",
            "four.three.two.one.deep.playground.",
        )
    ]
    assert places == sorted(places)
    assert any("[NOERROR, _ ms]" in line for line in lines)
    assert any("known as ns.four.three.two.one.deep.playground." in line for line in lines)


def test_explain_names_the_responsible_party(capsys) -> None:
    code, out, err = rdig(capsys, "--playground +explain www.expired.dnssec.playground")
    assert (code, err) == (dig.EXIT_FAILURE, "")
    assert "who     the operator of expired.dnssec.playground.\n" in out and "Signature Expired (7)" in out
    assert "\x1b" not in out, "no terminal, no colour"
    code, out, _ = rdig(capsys, "--playground +explain www.nsec.dnssec.playground")
    assert code == dig.EXIT_FOUND and "validated from the trust anchor" in out


def test_explain_as_json_and_as_a_page(capsys, tmp_path) -> None:
    code, out, _ = rdig(capsys, "--playground +explain=json www.example.playground")
    assert code == dig.EXIT_FOUND and json.loads(out)["schema"] == "rdig-explain/1"
    page = tmp_path / "explanation.html"
    assert rdig(capsys, f"--playground +explain www.example.playground --output {page}") == (0, "", "")
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    code, _, err = rdig(capsys, f"--playground +explain www.example.playground --output {tmp_path}")
    assert code == dig.EXIT_USAGE and "cannot write" in err and "Is a directory" in err


def test_explain_shows_the_steps_before_a_timeout(capsys) -> None:
    code, out, err = rdig(capsys, "--playground +explain www.slow.playground +timeout=0.05")
    assert (code, err) == (dig.EXIT_NO_REPLY, "")
    assert "No answer in 0.05 seconds" in out and "no reply" in out and "slow.playground." in out


@pytest.mark.parametrize(
    ("environment", "terminal", "coloured"),
    [({}, True, True), ({}, False, False), ({"NO_COLOR": "1"}, True, False), ({"TERM": "dumb"}, True, False),
     ({"NO_COLOR": ""}, True, True)],
)
def test_colour_is_used_on_terminals_unless_switched_off(
    monkeypatch, environment, terminal: bool, coloured: bool
) -> None:
    from resolver.cli import explain

    for key in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(key, raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr("sys.stdout", type("Out", (), {"isatty": lambda self: terminal})())
    assert explain.coloured() is coloured


def test_json_has_answer_and_trace(capsys) -> None:
    code, out, _ = rdig(capsys, "--playground +json +trace many.example.playground")
    value = json.loads(re.sub(r"_ ms", "0", out))
    assert code == 0 and sorted(r["data"] for r in value["answer"]) == [f"198.18.1.{n}" for n in (1, 2, 3, 4)]
    servers = {step["server"] for step in value["trace"] if step["kind"] == "ask"}
    assert servers & {"127.20.0.1", "127.20.0.2", "127.20.0.3"} and servers & {"127.20.11.1", "127.20.11.2"}
    assert "trace" not in json.loads(rdig(capsys, "--playground +json many.example.playground")[1])


def test_a_given_server_is_queried(capsys, port: int) -> None:
    code, out, err = rdig(capsys, f"@127.20.11.1:{port} six.example.playground AAAA +nsid +norec")
    assert (code, err) == (0, "")
    assert (
        out
        == f"""\
;; status: NOERROR, id: _
;; flags: qr aa; records: answer 1, authority 0, additional 0
;; edns: version 0, payload 1232, NSID ns1.example.playground

;; QUESTION
;six.example.playground. IN AAAA

;; ANSWER
six.example.playground.  3600  IN  AAAA  2001:2::6

;; from 127.20.11.1 port {port} over udp in _ ms, 105 octets
"""
    )


def test_options_reach_the_server(capsys, port: int) -> None:
    assert "over tcp" in rdig(capsys, f"@127.20.11.1:{port} +tcp www.example.playground")[1]
    assert "edns" not in rdig(capsys, f"@127.20.11.1:{port} +noedns www.example.playground")[1]
    assert ", do" in rdig(capsys, f"@127.20.11.1:{port} +dnssec www.example.playground")[1]
    assert "flags: qr aa rd cd;" in rdig(capsys, f"@127.20.11.1:{port} +cd www.example.playground")[1]
    assert "truncated" in rdig(capsys, f"@127.20.10.1:{port} +bufsize=512 edge.big.playground TXT")[1]
    assert rdig(capsys, f"@127.20.11.1 -p {port} version.bind CH TXT")[0] == dig.EXIT_FAILURE
    assert rdig(capsys, f"@127.20.11.1:{port} example.playground ANY")[0] == dig.EXIT_FOUND


def test_no_server_answers(capsys, port: int) -> None:
    code, out, err = rdig(capsys, f"@127.20.15.1:{port} example.com")
    assert (code, out) == (dig.EXIT_NO_REPLY, "") and "refused" in err
    code, _, err = rdig(capsys, f"@127.20.18.3:{port} www.wrong-id.playground +timeout=0.02")
    assert code == dig.EXIT_NO_REPLY and "ignored a reply with id" in err and DIG_ATTEMPTS > 1


def test_iteration_ends_at_the_timeout(capsys) -> None:
    code, out, err = rdig(capsys, "--playground www.slow.playground +timeout=0.05")
    assert (code, out) == (dig.EXIT_NO_REPLY, "") and "no answer in 0.05 seconds" in err
    assert rdig(capsys, "--playground www.slow.playground +timeout=3")[0] == dig.EXIT_FOUND


def test_usage_errors(capsys, tmp_path) -> None:
    code, out, err = rdig(capsys, "www.example +wrong")
    assert (code, out) == (dig.EXIT_USAGE, "")
    assert err == "rdig: unknown option +wrong\nsee rdig --help\n"
    assert rdig(capsys, "--help")[1].startswith("usage: rdig NAME")
    assert rdig(capsys, "--version") == (0, f"rdig {corenet.__version__}\n", "")
    (tmp_path / "wrong.toml").write_text("[server]\nnonsense = 1\n")
    code, _, err = rdig(capsys, f"www.example --config {tmp_path}/wrong.toml")
    assert code == dig.EXIT_USAGE and "wrong.toml:2" in err and "nonsense" in err
    assert rdig(capsys, f"www.example --config {tmp_path}/missing.toml")[0] == dig.EXIT_USAGE


def test_an_internal_error_has_its_own_exit_code(capsys, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(dig.grammar, "parse", broken)
    code, out, err = rdig(capsys, "x")
    assert (code, out) == (dig.EXIT_INTERNAL, "") and "ZeroDivisionError: a fault" in err


@pytest.mark.parametrize("line", [
    "--help", "--playground +short www.example.playground", "--playground +explain www.example.playground",
])
def test_output_that_cannot_be_written(line: str) -> None:
    command = [sys.executable, "-m", "resolver.cli.dig", *line.split()]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (10, "rdig: the output: No space left on device\n")
    closed = subprocess.run(f"{sys.executable} -m resolver.cli.dig {line} >&-", shell=True, stderr=subprocess.PIPE,
                            text=True, check=False, timeout=60)
    assert (closed.returncode, closed.stderr) == (0, "")


def test_the_help_names_every_option() -> None:
    for option in (*dig.grammar.SWITCHES, *dig.grammar.NUMBERS):
        assert f"+{option}" in dig.grammar.HELP or f"+no{option}" in dig.grammar.HELP, option
