"""Lists in all formats: which names are blocked, what is reported, and that the result does not depend on pieces."""

import itertools
import random

import pytest

from resolver import limits
from resolver.policy.list_formats import ListReader, detect_format
from resolver.policy.rpz import Action
from resolver.policy.rpz_text import _QUOTED_OR_COMMENT, read_zone
from resolver.policy.rpz_zone import ZoneCompiler, compile_zone
from resolver.wire import name as names
from resolver.wire import present

KEY = bytes(range(16))


def read(form, text, pieces=None, **bounds):
    reader = ListReader(form, KEY, **bounds)
    data = text.encode() if isinstance(text, str) else text
    at = 0
    while at < len(data):
        size = len(data) if pieces is None else pieces.randint(1, 9)
        reader.feed(data[at:at + size])
        at += size
    return reader.close()


def blocks(made, *texts):
    return [text for text in texts if made.matches(names.from_text(text + "."))]


HOSTS = """\ufeff# a list
127.0.0.1 localhost ip6-localhost
::1 localhost
0.0.0.0 Ads.example.com tracker.example.com # two
:: third.example.com
0.0.0.0 ads.example.com
255.255.255.255 broadcasthost
""" + "".join(f"0.0.0.0 filler{n}.example.net\n" for n in range(40))
DOMAINS = """! a list
# another comment
example.com   # reason
*.wild.example.org
b\u00fccher.example
"""
ADBLOCK = """[Adblock Plus 2.0]
! Title: list
||ads.example.com^
||*.wild.example.org^
||important.example^$important
@@||good.ads.example.com^
||third.example^$third-party
/banner/*
example.com##.ad
"""


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_each_format(seed):
    pieces = None if seed is None else random.Random(seed)
    made = read("hosts", HOSTS.replace("\n", "\r\n") if seed == 1 else HOSTS, pieces)
    assert blocks(made, "ads.example.com", "www.ads.example.com", "tracker.example.com", "third.example.com",
                  "localhost", "broadcasthost") == ["ads.example.com", "tracker.example.com", "third.example.com"]
    report = made.report
    assert (report.lines, report.names, report.duplicates, report.error_count) == (47, 43, 1, 0)

    made = read("domains", DOMAINS, pieces)
    assert blocks(made, "example.com", "a.example.com", "wild.example.org", "x.wild.example.org",
                  "xn--bcher-kva.example", "com") == [
        "example.com", "a.example.com", "x.wild.example.org", "xn--bcher-kva.example"]

    made = read("adblock", ADBLOCK, pieces)
    assert blocks(made, "ads.example.com", "a.ads.example.com", "good.ads.example.com", "a.good.ads.example.com",
                  "wild.example.org", "a.wild.example.org", "important.example", "third.example", "example.com") == [
        "ads.example.com", "a.ads.example.com", "a.wild.example.org", "important.example"]
    assert (made.report.names, made.report.exceptions, made.report.unsupported) == (3, 1, 3)


def test_wrong_lines_are_reported_with_their_numbers_and_the_others_apply():
    good = "".join(f"0.0.0.0 good{n}.example\n" for n in range(100))
    wrong = ("x.example y.example\n192.0.2.1 real.example\n0.0.0.0 a..b\n0.0.0.0 a/b\n0.0.0.0 " + "x" * 64 + "\n"
             "0.0.0.0 " + "y" * 5000 + "\n")
    made = read("hosts", good.encode() + wrong.encode() + b"0.0.0.0 \xff\n0.0.0.0 last.example")
    assert made.report.names == 101 and made.report.error_count == 7
    assert [(number, why.split(" ")[-1]) for number, why in made.report.errors] == [
        (101, "address"), (102, "block"), (103, "bytes"), (104, "name"), (105, "bytes"), (106, "bytes"), (107, "UTF-8")]
    assert blocks(made, "good7.example", "last.example", "real.example") == ["good7.example", "last.example"]


def test_a_line_of_any_length_takes_no_memory_and_is_one_line():
    reader = ListReader("domains", KEY)
    for _ in range(100):
        reader.feed(b"a" * 3000)
    reader.feed(b"\n" + b"".join(b"b%d.example\n" % n for n in range(20)))
    made = reader.close()
    assert (made.report.lines, made.report.error_count, made.report.names) == (21, 1, 20)
    assert made.report.errors[0][0] == 1


def test_the_number_of_reports_is_bounded():
    reader = ListReader("domains", KEY)
    reader.feed(b"a b\n" * 100)
    with pytest.raises(ValueError, match="0 entries, 100 wrong lines; line 1: 'a b' is not a name"):
        reader.close()


@pytest.mark.parametrize("text", ["", "# nothing\n", "<!DOCTYPE html>\n<html><body>Not found</body>\n"])
@pytest.mark.parametrize("form", ["hosts", "domains", "adblock"])
def test_texts_that_are_not_lists_are_refused(form, text):
    with pytest.raises(ValueError, match="not a list of this format"):
        read(form, text)


def test_a_list_with_many_wrong_lines_is_refused():
    share = limits.LIST_ERRORS_PERCENT
    good = "".join(f"n{n}.example\n" for n in range(100 - share))
    read("domains", good + "a b\n" * share)
    with pytest.raises(ValueError, match="wrong lines"):
        read("domains", good + "a b\n" * (share + 1))


def test_the_size_and_the_names_are_bounded():
    with pytest.raises(ValueError, match="more bytes"):
        read("domains", "a.example\n" * 200, most_bytes=limits.LIST_BYTES.minimum)
    with pytest.raises(ValueError, match="more than 3 names"):
        read("domains", "a.x\nb.x\nc.x\nd.x\n", most_names=3)
    with pytest.raises(ValueError, match="list format"):
        ListReader("rpz", KEY)


@pytest.mark.parametrize(("text", "form"), [
    (HOSTS, "hosts"), (DOMAINS, "domains"), (ADBLOCK, "adblock"), ("", "domains"), ("# x\n\n", "domains"),
    ("$TTL 60\n@ SOA a. b. 1 2 3 4 5\n", "rpz"), ("bad.example.com CNAME .\n", "rpz"), ("||a.example^\n", "adblock"),
    ("0.0.0.0 a.example", "hosts"), ("a.example", "domains"),
])
def test_the_format_is_detected(text, form):
    assert detect_format(text.encode()) == form


# --- zone files ---------------------------------------------------------------------------------------------------

ZONE = """$TTL 300
@ SOA ns.example. admin.example. ( 1 2
   bad.example.com CNAME .
   3 4 5 )
  NS ns.example.
bad.example.com CNAME .
*.bad.example.com 60 IN CNAME .   ; comment
www.example.com A 192.0.2.1
  AAAA 2001:db8::1
quiet.example.com. CNAME rpz-drop.
$ORIGIN sub.rpz.test.
deep.example cname rpz-passthru.
  ; comment
data.example 5 CNAME garden
text.example TXT "( ; not open"
32.1.2.0.192.rpz-ip.rpz.test. CNAME *.
$TTL 10
late.example CNAME garden.test.
"""


def test_a_zone_file_is_read_as_by_the_reader_of_zone_files():
    text = ZONE.replace("   bad.example.com CNAME .\n   3", "   3")
    origin = names.from_text("rpz.test.")
    compiler = ZoneCompiler(origin, KEY)
    read_zone(text.split("\n"), compiler)
    fast = compiler.finish()
    slow, errors = compile_zone(origin, present.zone_from_text(text, origin), KEY)
    assert compiler.errors == errors == []
    assert fast.soa == slow.soa
    for name in ("bad.example.com", "x.bad.example.com", "www.example.com", "deep.example.sub", "data.example.sub",
                 "text.example.sub", "late.example.sub", "quiet.example.com", "other"):
        quick, sure = (zone.match_name(names.from_text(name + ".")) for zone in (fast, slow))
        assert (quick and quick[1:]) == (sure and sure[1:]), name
    assert fast.match_name(names.from_text("late.example.sub.")).rule.records[0][1] == 10
    assert len(fast.match_name(names.from_text("www.example.com.")).rule.records) == 2
    assert fast.match_address([bytes([192, 0, 2, 1])]).rule.action is Action.NODATA


def test_data_below_an_alias_has_the_owner_of_the_line_before():
    compiler = ZoneCompiler(names.from_text("rpz.test."), KEY)
    read_zone("a CNAME .\n  A 192.0.2.1\nb A 192.0.2.2\nc CNAME .\n".split("\n"), compiler)
    compiler.finish()
    assert compiler.errors == ["a.rpz.test.: the trigger has a rule already; the first is kept"]


@pytest.mark.parametrize(("text", "why"), [
    ("ok CNAME .\na..b CNAME .\n", "line 2: 'a..b' is not a name"),
    ("ok CNAME .\n\nx FOO y\n", ":3: "),
    ("ok CNAME a..b\n", "line 1: 'a..b' is not a name"),
    ("$INCLUDE /etc/passwd\n", "INCLUDE"),
    ("$ORIGIN ..\n", "line 1"),
])
def test_an_error_in_a_zone_file_names_the_line(text, why):
    with pytest.raises(ValueError, match=why):
        read_zone(text.split("\n"), ZoneCompiler(names.from_text("rpz.test."), KEY))


def test_only_few_lines_of_a_policy_zone_may_need_the_reader_of_zone_files(monkeypatch):
    monkeypatch.setattr(limits, "RPZ_OTHER_LINES", 3)
    compiler = ZoneCompiler(names.from_text("rpz.test."), KEY)
    aliases = [f"a{n} CNAME ." for n in range(20)]
    read_zone([*aliases, "", "; comment", "b A 192.0.2.1", *aliases, "c A 192.0.2.2", "", "d A 192.0.2.3"], compiler)
    compiler.finish()
    with pytest.raises(ValueError, match="line 24: more than 3 lines are no CNAME records"):
        read_zone([*aliases, *(f"b{n} A 192.0.2.1" for n in range(10))], compiler)


def test_an_error_after_many_aliases_names_its_line():
    with pytest.raises(ValueError, match=":23: "):
        read_zone([*(f"a{n} CNAME ." for n in range(20)), "", "ok A 192.0.2.1", "x FOO y"],
                  ZoneCompiler(names.from_text("rpz.test."), KEY))


def test_each_quote_of_a_line_begins_a_match_so_a_line_is_scanned_once():
    for text in map("".join, itertools.product('"\\;a', repeat=7)):
        at, pieces = 0, []
        while at < len(text):
            found = _QUOTED_OR_COMMENT.match(text, at)
            assert found is not None or text[at] not in '";', (text, at)
            pieces.append(text[at] if found is None else "")
            at = at + 1 if found is None else found.end()
        assert _QUOTED_OR_COMMENT.sub("", text) == "".join(pieces)
    assert _QUOTED_OR_COMMENT.sub("", 'a "b \\" ; c" d ; "e') == "a  d "
    assert _QUOTED_OR_COMMENT.sub("", 'a "' + '\\"' * (limits.RPZ_LINE // 2)) == "a "
