"""Lists of the daemon: loaded, fetched, replaced and kept, by a client that gives prepared responses."""

import asyncio
import errno
import fcntl
import os
import threading
from contextlib import asynccontextmanager

import pytest

from corenet.http.errors import ConnectError
from corenet.http.headers import Headers
from resolver.daemon import list_updates
from resolver.daemon.cache_file import replace_file
from resolver.daemon.file_identity import identity
from resolver.daemon.list_files import NewFile, load
from resolver.daemon.list_updates import ListUpdates
from resolver.effects import Outcome, Question, Server
from resolver.policy import PolicyPipeline
from resolver.policy.dns64 import Dns64
from resolver.policy.list_source import HEAD_SIZE
from resolver.query import ActionKind, Query
from resolver.settings import IterationSettings, PolicySettings, Settings, ViewSettings
from resolver.settings.lists import ListSettings, RpzSettings
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

URL = "https://lists.example/list"
KEY = bytes(16)


class Web:
    """A server that gives the prepared responses in turn: (status, fields, body) or an exception."""

    def __init__(self, *responses):
        self.responses = list(responses)
        self.requests = []

    def __call__(self):
        return self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *failure):
        pass

    @asynccontextmanager
    async def stream(self, method, url, *, headers, timeout):
        self.requests.append((method, url, dict(headers)))
        found = self.responses.pop(0)
        if isinstance(found, Exception):
            raise found
        yield Reply(*found)


class Reply:
    def __init__(self, status, fields, body):
        self.status = status
        self.headers = Headers.of(fields)
        self._body = body

    async def __aiter__(self):
        for at in range(0, len(self._body), 7):
            yield self._body[at:at + 7]


class Lists:
    """The lists of some settings with a fake server, and a clock that is moved."""

    def __init__(self, monkeypatch, settings, *responses, before=None):
        self.web = Web(*responses)
        self.settings = settings
        self.changes = []
        self.now = 1000.0
        monkeypatch.setattr(list_updates.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(list_updates.time, "time", lambda: self.now + 1e9)
        self.updates = ListUpdates(settings, before, client=self.web)

    def update(self, *, fetches=True, after=0.0):
        self.now += after
        asyncio.run(self.updates.update(fetches=fetches, changed=self.changes.append))
        return self.updates.describe()

    def answer(self, name, qtype=c.A):
        pipeline = PolicyPipeline(self.settings, modules=self.updates.modules)
        return pipeline.answer(Question(names.from_text(name), qtype))


def with_list(path, **options):
    return Settings(list=(ListSettings(name="ads", file=str(path), **options),))


def replace(path, text):
    """As an operator's program does: a new file by rename."""
    path.with_suffix(".tmp").write_text(text)
    os.replace(path.with_suffix(".tmp"), path)


def test_a_local_file_is_active_and_a_new_one_replaces_it(tmp_path, monkeypatch):
    path = tmp_path / "ads.txt"
    path.write_text("ads.example\n")
    lists = Lists(monkeypatch, with_list(path))
    assert lists.answer("x.ads.example.").rcode == c.NXDOMAIN and lists.answer("other.example.") is None
    lists.update()
    assert lists.changes == []
    replace(path, "other.example\nthird.example\n")
    state = lists.update(fetches=False)
    assert lists.changes == [False] and state == [
        {"name": "ads", "entries": 2, "left_out": 0, "unsupported": 0, "age": None, "error": ""}]
    assert lists.answer("ads.example.") is None and lists.answer("other.example.").rcode == c.NXDOMAIN


def test_adblock_rules_without_effect_are_counted(tmp_path, monkeypatch):
    path = tmp_path / "ads.txt"
    path.write_text("||ads.example^\n||x.example^$client=tv\n/banner[0-9]/\n")
    lists = Lists(monkeypatch, with_list(path))
    assert lists.update(fetches=False) == [
        {"name": "ads", "entries": 1, "left_out": 0, "unsupported": 2, "age": None, "error": ""}]


def test_an_unusable_file_keeps_the_active_list(tmp_path, monkeypatch, caplog):
    path = tmp_path / "ads.txt"
    path.write_text("ads.example\n")
    lists = Lists(monkeypatch, with_list(path))
    replace(path, "<html> no list </html>\n")
    for _ in range(3):
        state = lists.update()
    assert "not a list of this format" in state[0]["error"] and lists.changes == []
    assert len([one for one in caplog.records if one.levelname == "ERROR"]) == 1, "it is reported once"
    assert lists.answer("ads.example.").rcode == c.NXDOMAIN
    path.unlink()
    lists.update()
    assert lists.answer("ads.example.").rcode == c.NXDOMAIN


def test_a_fault_in_one_list_stops_no_other(tmp_path, monkeypatch, caplog):
    paths = [tmp_path / name for name in ("ads.txt", "more.txt")]
    for path in paths:
        path.write_text("ads.example\n")
    settings = Settings(list=tuple(ListSettings(name=path.stem, file=str(path)) for path in paths))
    lists = Lists(monkeypatch, settings)
    real = list_updates.load

    def load(given, *arguments):
        return 1 // 0 if given.name == "ads" else real(given, *arguments)

    monkeypatch.setattr(list_updates, "load", load)
    for path in paths:
        replace(path, "other.example\nthird.example\n")
    for _ in range(3):
        state = lists.update(fetches=False)
    assert [one["entries"] for one in state] == [1, 2]
    assert "unexpected ZeroDivisionError" in state[0]["error"] and "this is a bug" in lists.updates.problems()[0]
    assert len([record for record in caplog.records if record.exc_info]) == 1, "once for each version of the file"


def test_a_list_is_fetched_stored_and_not_fetched_again_before_its_time(tmp_path, monkeypatch):
    path = tmp_path / "ads"
    settings = with_list(path, url=URL, interval=3600)
    lists = Lists(monkeypatch, settings, (200, {"ETag": '"v1"'}, b"0.0.0.0 ads.example\n"), (304, {}, b""),
                  (200, {"ETag": '"v2"'}, b"0.0.0.0 new.example\n"))
    assert lists.answer("ads.example.") is None
    assert lists.update(fetches=False)[0]["entries"] == 0 and lists.web.requests == []
    assert lists.update() == [
        {"name": "ads", "entries": 1, "left_out": 0, "unsupported": 0, "age": 0, "error": ""}]
    assert lists.changes == [False] and lists.answer("ads.example.").rcode == c.NXDOMAIN
    assert os.listdir(tmp_path) == ["ads"]
    lists.update(after=3000)
    assert len(lists.web.requests) == 1
    assert lists.update(after=700)[0]["age"] == 0, "304 confirms the list"
    assert lists.web.requests[1] == ("GET", URL, {"If-None-Match": '"v1"'}) and lists.changes == [False]
    lists.update(after=3700)
    assert lists.changes == [False, False] and lists.answer("new.example.").rcode == c.NXDOMAIN
    # A restart uses the stored file.
    again = Lists(monkeypatch, settings)
    again.update()
    assert again.web.requests == [] and again.answer("new.example.").rcode == c.NXDOMAIN


@pytest.mark.parametrize("response", [
    ConnectError("no route"), OSError(28, "No space left on device"), (404, {}, b""), (500, {}, b"0.0.0.0 evil\n"),
    (200, {}, b"<html><p>captive portal</p></html>\n"), (200, {}, b""), (206, {}, b"0.0.0.0 evil\n"),
])
def test_a_failed_fetch_keeps_the_list_and_is_repeated_later(tmp_path, monkeypatch, caplog, response):
    path = tmp_path / "ads"
    lists = Lists(monkeypatch, with_list(path, url=URL, interval=3600), (200, {}, b"0.0.0.0 ads.example\n"), response,
                  response, (200, {}, b"0.0.0.0 new.example\n"))
    lists.update()
    stored = path.read_bytes()
    state = lists.update(after=3700)
    assert state[0]["error"] and state[0]["entries"] == 1 and path.read_bytes() == stored
    assert os.listdir(tmp_path) == ["ads"] and lists.answer("ads.example.").rcode == c.NXDOMAIN
    lists.update(after=10)
    assert len(lists.web.requests) == 2, "not before the retry time"
    lists.update(after=60)
    assert len([one for one in caplog.records if "stays in force" in one.getMessage()]) == 1
    assert lists.updates.statistics() == {
        "entries": {"ads": 1}, "fetched": {"ads": 1_000_001_000}, "failing": {"ads": 1}}
    assert lists.update(after=121)[0]["error"] == "" and lists.answer("new.example.").rcode == c.NXDOMAIN


def test_a_damaged_stored_list_is_fetched_again(tmp_path, monkeypatch):
    path = tmp_path / "ads"
    settings = with_list(path, url=URL)
    Lists(monkeypatch, settings, (200, {"ETag": '"v1"'}, b"0.0.0.0 ads.example\n")).update()
    data = bytearray(path.read_bytes())
    data[HEAD_SIZE + 9] ^= 1
    path.write_bytes(data)
    lists = Lists(monkeypatch, settings, (200, {}, b"0.0.0.0 ads.example\n"))
    assert "damaged" in lists.updates.describe()[0]["error"] and lists.answer("ads.example.") is None
    lists.update()
    assert lists.web.requests[0][2] == {} and lists.answer("ads.example.").rcode == c.NXDOMAIN


def test_a_reload_uses_the_active_lists_and_loads_changes_afterwards(tmp_path, monkeypatch):
    path = tmp_path / "ads"
    path.write_text("ads.example\n")
    first = Lists(monkeypatch, with_list(path))
    replace(path, "new.example\n")
    second = Lists(monkeypatch, with_list(path), before=first.updates)
    assert second.answer("ads.example.").rcode == c.NXDOMAIN
    second.update()
    assert second.changes == [False] and second.answer("new.example.").rcode == c.NXDOMAIN
    other = Lists(monkeypatch, with_list(path, action="refuse"), before=second.updates)
    assert other.answer("new.example.").rcode == c.REFUSED, "a list with other settings is a new one"


def test_a_fetched_list_is_written_to_disk_in_a_thread(tmp_path, monkeypatch):
    """Else all clients of the worker wait for the disk."""
    threads = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: threads.append(threading.current_thread()))
    lists = Lists(monkeypatch, with_list(tmp_path / "list", url=URL), (200, [], b"ads.example\n"))
    assert lists.update()[0]["error"] == "" and (tmp_path / "list").exists()
    assert len(threads) == 1 and threads[0] is not threading.main_thread()


def test_two_configurations_do_not_fetch_a_list_at_once(tmp_path, monkeypatch):
    settings = with_list(tmp_path / "ads", url=URL)
    first = Lists(monkeypatch, settings)
    first.updates._states[0].source.begin()
    second = Lists(monkeypatch, settings, before=first.updates)
    second.update()
    assert second.web.requests == []


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("a b\n")])
def test_a_file_without_url_must_be_usable_at_start(tmp_path, make):
    make(tmp_path / "ads")
    with pytest.raises(ValueError, match=r"^list: ads: .*ads"):
        ListUpdates(with_list(tmp_path / "ads"))
    (tmp_path / "zone").write_text("x FOO y\n")
    with pytest.raises(ValueError, match=r"^rpz: rpz\.example: .*zone"):
        ListUpdates(Settings(rpz=(RpzSettings(name="rpz.example", file=str(tmp_path / "zone")),)))


def test_new_files_are_loaded_in_a_thread_and_only_once(tmp_path, monkeypatch):
    """Those in force are not loaded again. The result is as without a thread, also for files that cannot be used."""
    for name in ("ads", "more", "rpz"):
        (tmp_path / name).write_text("@ SOA . . 1 2 3 4 5\nx CNAME .\n" if name == "rpz" else f"{name}.example\n")
    (tmp_path / "torn").write_text("not a head")
    before = ListUpdates(with_list(tmp_path / "ads"))
    torn = ListSettings(name="torn", file=str(tmp_path / "torn"), url="https://lists.example/torn")
    absent = ListSettings(name="absent", file=str(tmp_path / "absent"), url="https://lists.example/absent")
    more = ListSettings(name="more", file=str(tmp_path / "more"))
    settings = Settings(
        list=(*with_list(tmp_path / "ads").list, more, torn, absent),
        rpz=(RpzSettings(name="rpz.example", file=str(tmp_path / "rpz")),),
    )
    threads, real = [], list_updates.load

    def load(one, *given):
        threads.append((one.name, threading.current_thread() is threading.main_thread()))
        return real(one, *given)

    monkeypatch.setattr(list_updates, "load", load)
    new = asyncio.run(list_updates.compile_new(settings, before))
    assert threads == [("more", False), ("torn", False), ("rpz.example", False)]
    updates = ListUpdates(settings, before, new=new)
    assert len(threads) == 3
    assert updates.describe() == ListUpdates(settings, before).describe() and len(threads) == 6
    assert [one["error"] != "" for one in updates.describe()] == [False, False, True, False, False]
    assert PolicyPipeline(settings, modules=updates.modules).answer(Question(names.from_text("more.example."), c.A))


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused_and_leaves_no_descriptor_open(tmp_path, make):
    make(tmp_path / "ads")
    [settings] = with_list(tmp_path / "ads").list
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError, match=r"ads': (Is a directory|it is not a file)"):
        list_updates.load(settings, bytes(16))
    assert len(os.listdir("/proc/self/fd")) == before


def test_new_lists_have_one_key(tmp_path):
    """Compiled names can be looked up only with the key with which they were made."""
    (tmp_path / "ads").write_text("ads.example\n")
    settings = with_list(tmp_path / "ads")
    updates = ListUpdates(settings, new=asyncio.run(list_updates.compile_new(settings, None)))
    assert PolicyPipeline(settings, modules=updates.modules).answer(Question(names.from_text("ads.example."), c.A))


@pytest.mark.parametrize(("action", "rcode", "answer", "kind"), [
    ("nxdomain", c.NXDOMAIN, [], ActionKind.ANSWER), ("nodata", c.NOERROR, [], ActionKind.ANSWER),
    ("null", c.NOERROR, [bytes(4)], ActionKind.ANSWER), ("refuse", c.REFUSED, [], ActionKind.REFUSE),
    ("drop", c.REFUSED, [], ActionKind.DROP),
])
def test_the_actions_of_lists(tmp_path, monkeypatch, action, rcode, answer, kind):
    (tmp_path / "ads").write_text("ads.example\n")
    lists = Lists(monkeypatch, with_list(tmp_path / "ads", action=action, ede=17))
    outcome = lists.answer("ads.example.")
    assert (outcome.rcode, [rdata for one in outcome.answer for rdata in one.rdatas()], outcome.applied.kind) == (
        rcode, answer, kind)
    assert outcome.ede == ([] if action == "drop" else [(c.EDE_FILTERED, "list ads")])


def test_an_allow_list_and_a_log_list(tmp_path, monkeypatch):
    (tmp_path / "ads").write_text("example\n")
    (tmp_path / "good").write_text("good.example\n")
    (tmp_path / "log").write_text("example\nother\n")
    settings = Settings(list=(
        ListSettings(name="log", file=str(tmp_path / "log"), action="log"),
        ListSettings(name="ads", file=str(tmp_path / "ads")),
        ListSettings(name="good", file=str(tmp_path / "good"), action="allow"),
    ))
    lists = Lists(monkeypatch, settings)
    assert lists.answer("good.example.") is None and lists.answer("x.other.") is None
    assert lists.answer("bad.example.").rcode == c.NXDOMAIN, "a list that logs does not hide the next one"


# --- response policy zones at the points of the pipeline ------------------------------------------------------------

ZONE = """@ SOA ns. admin. 1 2 3 4 5
bad.example CNAME .
drop.example CNAME rpz-drop.
tcp.example CNAME rpz-tcp-only.
good.bad.example CNAME rpz-passthru.
walled.example CNAME garden.test.
32.9.2.0.192.rpz-ip CNAME *.
32.1.0.0.10.rpz-client-ip CNAME .
ns.evil.rpz-nsdname CNAME .
"""


def policies(tmp_path, monkeypatch, text=ZONE, **options):
    (tmp_path / "zone").write_text(text)
    settings = Settings(rpz=(RpzSettings(name="rpz.test", file=str(tmp_path / "zone"), **options),))
    lists = Lists(monkeypatch, settings)
    return PolicyPipeline(settings, modules=lists.updates.modules).views[0]


def ask(view, name, client="10.0.0.9", transport="udp", qtype=c.A):
    return view.own_question(Query(client, transport=transport), Question(names.from_text(name), qtype))


def finished(name, *addresses, alias=None):
    question = Question(names.from_text(name), c.A)
    answer = [] if alias is None else [RRset(question.qname, c.CNAME, 60, [names.from_text(alias)])]
    answer.append(RRset(names.from_text(alias or name), c.A, 60, [bytes(one) for one in addresses]))
    return Outcome(question, c.NOERROR, answer, [], Verdict.INSECURE, 60)


def test_a_zone_decides_at_the_point_question(tmp_path, monkeypatch):
    view = policies(tmp_path, monkeypatch)
    blocked = ask(view, "bad.example.")
    assert blocked.rcode == c.NXDOMAIN and blocked.ede == [(c.EDE_FILTERED, "")]
    assert [one.rtype for one in blocked.additional] == [c.SOA]
    assert ask(view, "drop.example.").applied.kind is ActionKind.DROP
    assert ask(view, "tcp.example.").applied.kind is ActionKind.TRUNCATE
    assert ask(view, "tcp.example.", transport="tcp") is None
    assert ask(view, "good.bad.example.") is None and ask(view, "other.example.") is None
    assert ask(view, "other.example.", client="10.0.0.1").rcode == c.NXDOMAIN
    walled = ask(view, "walled.example.")
    assert walled.applied.follow and walled.answer[0].rtype == c.CNAME
    assert view.answer(Question(names.from_text("walled.example."), c.A)) is None, "other clients may be exempt"
    target, query = finished("garden.test.", (192, 0, 2, 9)), Query("10.0.0.9")
    query.alias = walled
    assert view.response(query, target) is target
    asked = ask(view, "walled.example.", qtype=c.CNAME)
    assert asked.answer[0].rtype == c.CNAME and not asked.applied.follow


def test_without_rules_for_clients_an_alias_is_the_same_for_all(tmp_path, monkeypatch):
    view = policies(tmp_path, monkeypatch, "walled.example CNAME garden.test.\n32.9.2.0.192.rpz-ip CNAME *.\n")
    assert ask(view, "walled.example.") is None
    assert view.answer(Question(names.from_text("walled.example."), c.A)).answer[0].rtype == c.CNAME
    followed = finished("walled.example.", (192, 0, 2, 9), alias="garden.test.")
    assert view.response(Query("10.0.0.9"), followed) is followed


def test_a_zone_decides_at_the_point_response(tmp_path, monkeypatch):
    view = policies(tmp_path, monkeypatch)
    query = Query("10.0.0.9", transport="udp")
    outcome = finished("other.example.", (192, 0, 2, 8), (192, 0, 2, 9))
    changed = view.response(query, outcome)
    assert changed is not outcome and (changed.rcode, changed.answer) == (c.NOERROR, [])
    untouched = finished("other.example.", (192, 0, 2, 8))
    assert view.response(query, untouched) is untouched
    passed = finished("good.bad.example.", (192, 0, 2, 9))
    assert view.response(query, passed) is passed, "PASSTHRU by qname precedes the address"
    aliased = finished("other.example.", (192, 0, 2, 8), alias="bad.example.")
    assert view.response(query, aliased).rcode == c.NXDOMAIN


def test_a_zone_decides_at_the_point_name_server(tmp_path, monkeypatch):
    view = policies(tmp_path, monkeypatch)
    question = Question(names.from_text("www.x.test."), c.A)
    assert view.name_server(question, names.from_text("x.test."), [names.from_text("ns.evil.")], []).rcode == c.NXDOMAIN
    assert view.name_server(question, names.from_text("x.test."), [names.from_text("ns.fine.")], []) is None
    passed = Question(names.from_text("good.bad.example."), c.A)
    assert view.name_server(passed, names.from_text("x.test."), [names.from_text("ns.evil.")], []) is None


def test_an_alias_target_is_matched_like_a_qname(tmp_path, monkeypatch):
    view = policies(tmp_path, monkeypatch, "bad.example CNAME .\ntcp.example CNAME rpz-tcp-only.\n")
    assert view.answer_alias(Question(names.from_text("bad.example."), c.A)).rcode == c.NXDOMAIN
    assert view.answer_alias(Question(names.from_text("tcp.example."), c.A)) is None


def test_which_answers_may_be_cached_for_all_clients(tmp_path, monkeypatch):
    question = Question(names.from_text("other.example."), c.A)
    assert not policies(tmp_path, monkeypatch).is_cacheable(question), "the zone has client triggers"
    view = policies(tmp_path, monkeypatch, "bad.example CNAME .\ntcp.example CNAME rpz-tcp-only.\n")
    assert view.is_cacheable(question) and view.is_cacheable(Question(names.from_text("bad.example."), c.A))
    assert not view.is_cacheable(Question(names.from_text("tcp.example."), c.A))


def test_matches_are_logged_with_their_client(tmp_path, monkeypatch, caplog):
    view = policies(tmp_path, monkeypatch, "bad.example CNAME .\n", override="log")
    assert ask(view, "bad.example.") is None
    assert [one.getMessage() for one in caplog.records if one.levelname == "WARNING"] == [
        "policy: response policy zone rpz.test. QNAME bad.example. nxdomain: bad.example. A, client 10.0.0.9"]
    assert not view.is_cacheable(Question(names.from_text("bad.example."), c.A))


def test_a_new_file_is_complete_or_absent(tmp_path):
    new = NewFile(str(tmp_path / "a"))
    new.write(b"a.example\n")
    new.discard()
    assert os.listdir(tmp_path) == [] and identity(str(tmp_path / "a")) == ()
    new = NewFile(str(tmp_path / "a"))
    new.write(b"a.example\n")
    head = new.complete(5, '"x"', URL)
    new.keep()
    new.discard()
    loaded = load(ListSettings(name="a", file=str(tmp_path / "a"), url=URL), KEY)
    assert loaded.head == head and loaded.entries == 1 and loaded.identity == identity(str(tmp_path / "a"))


@pytest.mark.parametrize(("line", "why"), [
    (b"b TXT \"" + b"x" * 70_000 + b"\"", "line 3 is longer"),
    (b"b TXT \"\xff\"", "line 3 is not UTF-8"),
])
def test_a_policy_zone_is_read_line_by_line(tmp_path, line, why):
    path = tmp_path / "zone"
    path.write_bytes(b"$TTL 60\na CNAME .\n" + line + b"\nc CNAME .\n" * 20_000)
    with pytest.raises(ValueError, match=why):
        load(RpzSettings(name="rpz.test", file=str(path)), KEY)
    path.write_bytes(b"$TTL 60\na CNAME .\n" + "".join(f"n{n} CNAME .\n" for n in range(20_000)).encode())
    assert load(RpzSettings(name="rpz.test", file=str(path)), KEY).entries == 20_001


def test_what_a_killed_process_left_is_removed_and_what_is_written_is_kept(tmp_path):
    target = tmp_path / "a"
    left, other, used = (tmp_path / name for name in (".a.1234567.new", ".ab.1234567.new", ".a.7654321.new"))
    for path in (left, other, used):
        path.write_bytes(b"x")
    with open(used, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        replace_file(target, [b"content"])
        assert not left.exists() and other.exists() and used.exists()
        left.write_bytes(b"x")
        NewFile(str(target)).discard()
    assert sorted(path.name for path in tmp_path.iterdir()) == [used.name, other.name, "a"]
    assert target.read_bytes() == b"content"


def test_a_new_file_is_removed_although_the_disk_is_full(tmp_path):
    new = NewFile(str(tmp_path / "a"))
    new._file.close()
    new._file = open("/dev/full", "wb")
    new.write(b"a.example\n")
    new.discard()
    assert os.listdir(tmp_path) == []


def test_a_slow_server_of_one_list_delays_no_other_list(tmp_path, monkeypatch):
    lists = [ListSettings(name=name, file=str(tmp_path / name), url=f"https://{name}.example/list")
             for name in ("slow", "quick")]
    local = ListSettings(name="local", file=str(tmp_path / "local"))
    (tmp_path / "local").write_text("local.example\n")
    updates = Lists(monkeypatch, Settings(list=(*lists, local))).updates
    end = asyncio.Event()

    class SlowWeb(Web):
        @asynccontextmanager
        async def stream(self, method, url, *, headers, timeout):
            if "slow" in url:
                await end.wait()
            yield Reply(200, [], f"{url[8:12]}.example\n".encode())

    updates._client = SlowWeb()

    async def main():
        changes = asyncio.Queue()
        first = asyncio.create_task(updates.update(fetches=True, changed=changes.put_nowait))
        await asyncio.wait_for(changes.get(), 30)  # the quick list
        replace(tmp_path / "local", "other.example\nthird.example\n")
        second = asyncio.create_task(updates.update(fetches=True, changed=changes.put_nowait))
        await asyncio.wait_for(changes.get(), 30)
        assert [one["entries"] for one in updates.describe()] == [0, 1, 2]
        end.set()
        await asyncio.wait_for(asyncio.gather(first, second), 30)

    asyncio.run(main())
    assert [one["entries"] for one in updates.describe()] == [1, 1, 2]


def test_local_data_precedes_policy_zones_for_the_qname_too(tmp_path, monkeypatch):
    (tmp_path / "zone").write_text(ZONE)
    settings = Settings(rpz=(RpzSettings(name="rpz.test", file=str(tmp_path / "zone")),),
                        policy=PolicySettings(local_data=("bad.example. A 192.0.2.7",),
                                              local_zones=("drop.example static", "tcp.example always_transparent")))
    view = PolicyPipeline(settings, modules=Lists(monkeypatch, settings).updates.modules).views[0]
    assert ask(view, "bad.example.") is None
    assert view.answer(Question(names.from_text("bad.example."), c.A)).answer[0].rdatas() == [bytes([192, 0, 2, 7])]
    assert ask(view, "drop.example.") is None and ask(view, "x.drop.example.") is None
    assert ask(view, "tcp.example.").applied.kind is ActionKind.TRUNCATE
    assert ask(view, "other.example.", client="10.0.0.1").rcode == c.NXDOMAIN


def test_an_address_that_dns64_translates_is_judged(tmp_path, monkeypatch):
    view = policies(tmp_path, monkeypatch)
    question = Question(names.from_text("other.example."), c.AAAA)
    none = Outcome(question, c.NOERROR, [], [], Verdict.INSECURE, 60)
    for octet, changed in ((8, False), (9, True)):
        found = Dns64(("2001:db8:64::/96",)).synthesise(question, none, finished("other.example.", (192, 0, 2, octet)))
        assert found.answer[0].rtype == c.AAAA
        judged = view.response(Query("10.0.0.9", transport="udp"), found)
        assert (judged is not found) is changed
    assert (judged.rcode, judged.answer) == (c.NOERROR, [])


def test_a_reload_while_a_list_is_compiled_does_not_lose_its_new_content(tmp_path, monkeypatch):
    path = tmp_path / "ads"
    path.write_text("ads.example\n")
    first = Lists(monkeypatch, with_list(path))
    replace(path, "new.example\n")
    later = []
    real = list_updates.load

    def load_during_a_reload(*given):
        monkeypatch.setattr(list_updates, "load", real)
        later.append(Lists(monkeypatch, with_list(path), before=first.updates))
        return real(*given)

    monkeypatch.setattr(list_updates, "load", load_during_a_reload)
    first.update(fetches=False)
    [second] = later
    assert second.answer("ads.example.").rcode == c.NXDOMAIN, "the content so far stays in force"
    second.update(fetches=False)
    assert second.answer("new.example.").rcode == c.NXDOMAIN and second.answer("ads.example.") is None
    assert second.changes == [False]


def test_without_a_thread_the_old_list_stays_and_is_read_later(tmp_path, monkeypatch):
    async def none_left(*_):
        raise OSError(errno.EAGAIN, "the system gives no thread")

    path = tmp_path / "list"
    path.write_text("old.example\n")
    lists = Lists(monkeypatch, with_list(path))
    replace_file(path, [b"new.example\n"])
    with monkeypatch.context() as patched:
        patched.setattr(list_updates, "in_thread", none_left)
        [told] = lists.update()
    assert told["error"] == "cannot be loaded now: the system gives no thread"
    assert lists.answer("old.example") is not None and lists.answer("new.example") is None
    [told] = lists.update()
    assert not told["error"] and lists.answer("new.example") is not None and lists.answer("old.example") is None


def test_what_an_operator_must_act_on(tmp_path, monkeypatch):
    path = tmp_path / "list"
    lists = Lists(monkeypatch, with_list(path, url=URL), ConnectError("refused"), (200, [], b"a.example\n"),
                  ConnectError("refused"))
    assert lists.updates.problems() == [], "the first fetch has not ended"
    lists.update()
    assert lists.updates.problems() == ["list ads: refused; none of its entries are in force"]
    lists.update(after=1e6)
    assert lists.updates.problems() == []
    [told] = lists.update(after=1e6)
    assert told["error"] == "refused" and lists.updates.problems() == [], "the list in force serves"


def test_a_file_that_cannot_be_used_is_a_problem(tmp_path, monkeypatch):
    path = tmp_path / "list"
    path.write_text("old.example\n")
    lists = Lists(monkeypatch, with_list(path))
    path.write_bytes(b"\xff\xfe\x00" * 9)
    lists.update()
    [problem] = lists.updates.problems()
    assert problem.startswith(f"list ads: {str(path)!r}: ")
    assert problem.endswith("; the previous version stays in force")


# --- lists of views -----------------------------------------------------------------------------------------------


def test_views_have_their_own_lists_and_share_what_is_compiled(tmp_path, monkeypatch):
    for name in ("ads", "kids"):
        (tmp_path / name).write_text(f"{name}.example\n")
    (tmp_path / "zone").write_text("@ 60 SOA a. b. 1 2 3 4 60\nrpz.example CNAME .\n")
    settings = Settings(
        list=tuple(ListSettings(name=name, file=str(tmp_path / name)) for name in ("ads", "kids")),
        rpz=(RpzSettings(name="zone.example", file=str(tmp_path / "zone")),),
        policy=PolicySettings(lists=("ads",)),
        view=(ViewSettings(name="kids", clients=("10.0.0.0/24",), lists=("*", "kids", "zone.example")),
              ViewSettings(name="same", clients=("10.0.1.0/24",)),
              ViewSettings(name="none", clients=("10.0.2.0/24",), lists=())),
    )
    lists = Lists(monkeypatch, settings)
    assert lists.updates.memory().octets == sum(
        one.loaded.octets for one in lists.updates._states), "each is there once"

    def blocked():
        views = PolicyPipeline(settings, modules=lists.updates.modules).views
        return [[name for name in ("ads", "kids", "rpz", "new")
                 if (found := view.own_question(Query("10.0.0.1"), Question(names.from_text(f"{name}.example."), c.A))
                     or view.answer(Question(names.from_text(f"{name}.example."), c.A)))
                 and found.rcode == c.NXDOMAIN] for view in views]

    assert blocked() == [["ads"], ["ads", "kids", "rpz"], ["ads"], []]
    replace(tmp_path / "kids", "new.example\n")
    lists.update()
    assert blocked() == [["ads"], ["ads", "rpz", "new"], ["ads"], []]


def test_policy_zones_know_the_nat64_of_name_servers(tmp_path, monkeypatch):
    path = tmp_path / "rpz.zone"
    path.write_text("$TTL 60\n@ SOA ns. admin. 1 3600 600 86400 60\n32.1.2.0.192.rpz-nsip CNAME .\n")
    settings = Settings(rpz=(RpzSettings(name="rpz.test", file=str(path)),),
                        iteration=IterationSettings(nat64_prefix="64:ff9b::/96"))
    pipeline = PolicyPipeline(settings, modules=Lists(monkeypatch, settings).updates.modules).views[0]
    question = Question(names.from_text("www.test."), c.A)
    for address, refused in (("64:ff9b::c000:201", True), ("64:ff9b::c000:202", False)):
        found = pipeline.name_server(question, names.ROOT, (), [Server(address, 53)])
        assert (found is not None) is refused
