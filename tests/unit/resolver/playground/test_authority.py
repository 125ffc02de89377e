"""Authority: sections, flags, EDNS, truncation and every fault, checked by the replies.

Replies are parsed with the project's own parser; tests/integration uses real resolvers and tools.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.playground import Authority, EdnsFault, ServerFaults, Zone
from resolver.wire import RRset
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView

PARENT = Zone.from_text(
    "test.",
    """
$TTL 3600
@       SOA ns hostmaster 1 7200 900 1209600 300
        NS  ns
ns      A   192.0.2.53
child   NS  ns.child
child   NS  ns.elsewhere.
ns.child A  192.0.2.54
unsigned NS ns.elsewhere.
wide    NS  a-rather-long-name-of-a-server-number-1.wide
wide    NS  a-rather-long-name-of-a-server-number-2.wide
"""
    + "\n".join(f"a-rather-long-name-of-a-server-number-{i}.wide A 192.0.2.{n}" for i in (1, 2) for n in range(1, 60)),
)
ZONE = Zone.from_text(
    "child.test.",
    """
$TTL 600
@       SOA ns hostmaster 1 7200 900 1209600 300
        NS  ns
        MX  5 mail
ns      A   192.0.2.54
mail    A   192.0.2.25
mail    AAAA 2001:db8::25
www     A   192.0.2.80
alias   CNAME www
out     CNAME host.other.test.
up      CNAME ns.test.
gone    CNAME missing
away    CNAME www.child.example.
loop    CNAME pool
pool    CNAME loop
old     DNAME new
x.new   A   192.0.2.81
*.wild  A   192.0.2.82
a.empty A   192.0.2.83
big     TXT """
    + " ".join('"' + "x" * 200 + '"' for _ in range(6))
    + "\n",
)
OTHER = Zone.from_text("other.test.", "@ 60 SOA ns h 1 1 1 1 1\n@ 60 NS ns\nns 60 A 192.0.2.9\nhost 60 A 192.0.2.10\n")
BOTH = Authority([PARENT, ZONE, OTHER], server_id=b"one")
LONG_LABEL = "l" * 60


def ask(qname: str, qtype: int = c.A, server: Authority = BOTH, *, tcp: bool = False, **options: object) -> MessageView:
    reply = server.answer(make_query(77, names.from_text(qname), qtype, **options), tcp=tcp)  # type: ignore[arg-type]
    assert reply is not None
    view = MessageView.parse(reply)
    assert view.qr and not view.ra and view.id == (77 if not server.quirks.wrong_id else 77 ^ 0xFFFF)
    return view


def types(rrsets: list[RRset]) -> list[str]:
    return [f"{names.to_text(rrset.name)} {c.type_to_text(rrset.rtype)} {len(rrset)}" for rrset in rrsets]


def test_an_answer_is_authoritative_and_keeps_the_spelling_of_the_question() -> None:
    view = ask("WWW.child.TEST.")
    assert view.aa and view.rd and view.rcode == c.NOERROR
    assert types(view.answer) == ["WWW.child.TEST. A 1"]
    assert view.qname == names.from_text("WWW.child.TEST.")


def test_hosts_in_the_answer_bring_their_addresses() -> None:
    assert types(ask("child.test.", c.MX).additional) == ["mail.child.test. A 1", "mail.child.test. AAAA 1"]


def test_nodata_and_nxdomain_carry_the_soa() -> None:
    for qname, qtype, rcode in (
        ("www.child.test.", c.AAAA, c.NOERROR),
        ("nothing.child.test.", c.A, c.NXDOMAIN),
        ("empty.child.test.", c.A, c.NOERROR),
    ):
        view = ask(qname, qtype)
        assert view.aa and view.rcode == rcode and not view.answer
        assert types(view.authority) == ["child.test. SOA 1"]
        assert view.authority[0].ttl == 300


def test_a_referral_has_the_glue_it_knows_and_is_not_authoritative() -> None:
    view = ask("www.child.test.", server=Authority([PARENT]))
    assert not view.aa and view.rcode == c.NOERROR and not view.answer
    assert types(view.authority) == ["child.test. NS 2"]
    assert types(view.additional) == ["ns.child.test. A 1"]


def test_a_referral_whose_glue_does_not_fit_is_truncated() -> None:
    server = Authority([PARENT])
    view = ask("wide.test.", server=server)
    assert view.tc and not view.authority
    assert len(ask("wide.test.", server=server, tcp=True).additional) == 2


def test_additional_records_that_do_not_fit_are_left_out_without_tc() -> None:
    lines = "".join(f"m{i}.{LONG_LABEL} 60 A 192.0.2.{i}\n@ 60 MX {i} m{i}.{LONG_LABEL}\n" for i in range(1, 15))
    server = Authority([Zone.from_text("m.", f"@ 60 SOA ns h 1 1 1 1 1\n@ 60 NS ns.x.\n{lines}")])
    small = ask("m.", c.MX, server, edns_payload=None)
    whole = ask("m.", c.MX, server)
    assert not small.tc and len(small.wire) <= 512 and len(small.answer[0]) == 14
    assert 0 < len(small.additional) < len(whole.additional) == 14


def test_aliases_are_followed_within_what_the_server_has() -> None:
    assert types(ask("alias.child.test.").answer) == ["alias.child.test. CNAME 1", "www.child.test. A 1"]
    assert types(ask("out.child.test.").answer) == ["out.child.test. CNAME 1", "host.other.test. A 1"]
    assert types(ask("up.child.test.").answer) == ["up.child.test. CNAME 1", "ns.test. A 1"]
    assert types(ask("away.child.test.").answer) == ["away.child.test. CNAME 1"]


def test_an_alias_to_a_missing_name_is_nxdomain_with_the_alias() -> None:
    view = ask("gone.child.test.")
    assert view.rcode == c.NXDOMAIN and types(view.answer) == ["gone.child.test. CNAME 1"]
    assert types(view.authority) == ["child.test. SOA 1"]


def test_a_loop_of_aliases_ends() -> None:
    assert types(ask("loop.child.test.").answer) == ["loop.child.test. CNAME 1", "pool.child.test. CNAME 1"]


def test_an_alias_across_a_zone_cut_ends_with_the_referral() -> None:
    server = Authority(
        [
            Zone.from_text(
                "p.",
                "@ 60 SOA a h 1 1 1 1 1\n@ 60 NS a\na 60 A 192.0.2.1\nx 60 CNAME w.c\n"
                "c 60 NS ns.c\nns.c 60 A 192.0.2.2\n",
            )
        ]
    )
    view = ask("x.p.", server=server)
    assert view.aa and types(view.answer) == ["x.p. CNAME 1"] and not view.authority


def test_dname_makes_an_alias() -> None:
    view = ask("x.old.child.test.")
    assert types(view.answer) == ["old.child.test. DNAME 1", "x.old.child.test. CNAME 1", "x.new.child.test. A 1"]
    assert view.answer[1].ttl == view.answer[0].ttl


def test_dname_to_a_name_too_long_is_yxdomain() -> None:
    target = ".".join([LONG_LABEL] * 3)
    server = Authority([Zone.from_text("t.", f"@ 60 SOA a h 1 1 1 1 1\n@ 60 NS a\no 60 DNAME {target}\n")])
    view = ask(f"{LONG_LABEL}.{LONG_LABEL}.o.t.", server=server)
    assert view.rcode == c.YXDOMAIN and types(view.answer) == ["o.t. DNAME 1"]


def test_wildcards_answer_with_the_name_asked_for() -> None:
    assert types(ask("any.wild.child.test.").answer) == ["any.wild.child.test. A 1"]


def test_the_nearest_zone_answers_but_ds_comes_from_the_parent() -> None:
    assert types(ask("child.test.", c.SOA).answer) == ["child.test. SOA 1"]
    assert types(ask("child.test.", c.DS).authority) == ["test. SOA 1"]
    assert types(ask("child.test.", c.DS, Authority([ZONE])).authority) == ["child.test. SOA 1"]


def test_foreign_names_classes_and_transfers_are_refused() -> None:
    for view in (ask("example.com."), ask("www.child.test.", qclass=c.CH), ask("child.test.", c.AXFR, tcp=True)):
        assert view.rcode == c.REFUSED and not view.aa and not view.authority


def test_edns_is_echoed_only_when_present() -> None:
    assert ask("www.child.test.", edns_payload=None).edns is None
    edns = ask("www.child.test.", do=True, options=[(c.OPTION_NSID, b"")]).edns
    assert edns is not None and edns.do and edns.version == 0 and edns.get(c.OPTION_NSID) == b"one"


def test_an_unknown_edns_version_is_badvers() -> None:
    packet = bytearray(make_query(77, names.from_text("www.child.test."), c.A))
    packet[-5] = 1  # the version octet of the OPT record
    view = MessageView.parse(BOTH.answer(bytes(packet)))
    assert view.rcode == c.BADVERS and not view.answer


@pytest.mark.parametrize(("payload", "truncated"), [(None, True), (600, True), (1232, True), (4096, True)])
def test_truncation_over_udp_and_none_over_tcp(payload: int | None, truncated: bool) -> None:
    view = ask("big.child.test.", c.TXT, edns_payload=payload)
    assert view.tc is truncated and not view.answer and len(view.wire) <= 512
    whole = ask("big.child.test.", c.TXT, edns_payload=payload, tcp=True)
    assert not whole.tc and len(whole.wire) > 1232


def test_packets_that_are_not_queries() -> None:
    query = make_query(77, names.from_text("www.child.test."), c.A)
    assert BOTH.answer(b"short") is None
    assert BOTH.answer(bytes([*query[:2], query[2] | 0x80, *query[3:]])) is None
    notify = MessageView.parse(BOTH.answer(bytes([*query[:2], 0x20, *query[3:]])))
    assert notify.rcode == c.NOTIMP and notify.opcode == c.NOTIFY
    cut = BOTH.answer(query[:20])
    assert cut is not None and cut[3] & 15 == c.FORMERR
    none = BOTH.answer(query[:4] + bytes(8))
    assert none is not None and none[3] & 15 == c.FORMERR


# --- quirks ---------------------------------------------------------------------------------------------------------


def quirky(**quirks: object) -> Authority:
    return Authority([ZONE], quirks=ServerFaults(**quirks))  # type: ignore[arg-type]


def test_servers_that_do_not_know_edns() -> None:
    with_opt = make_query(77, names.from_text("www.child.test."), c.A)
    assert quirky(edns=EdnsFault.DROP).answer(with_opt) is None
    assert ask("www.child.test.", server=quirky(edns=EdnsFault.FORMERR)).rcode == c.FORMERR
    assert ask("www.child.test.", server=quirky(edns=EdnsFault.NOTIMP)).rcode == c.NOTIMP
    ignoring = ask("www.child.test.", server=quirky(edns=EdnsFault.IGNORE))
    assert ignoring.edns is None and ignoring.answer
    for fault in EdnsFault:
        plain = ask("www.child.test.", server=quirky(edns=fault), edns_payload=None)
        assert plain.rcode == c.NOERROR and plain.answer


def test_servers_without_edns_send_no_more_than_512_octets() -> None:
    assert ask("big.child.test.", c.TXT, quirky(edns=EdnsFault.IGNORE)).tc


def test_lame_servers() -> None:
    assert ask("www.child.test.", server=quirky(rcode=c.SERVFAIL)).rcode == c.SERVFAIL
    root = Zone.from_text(".", ". 60 SOA a. h. 1 1 1 1 1\n. 60 NS a.\n")
    upward = ask("www.child.test.", server=Authority([root, ZONE], quirks=ServerFaults(upward=True)))
    assert types(upward.authority) == [". NS 1"] and not upward.aa
    assert not ask("www.child.test.", server=quirky(upward=True)).authority


def test_servers_that_truncate_or_drop() -> None:
    query = make_query(77, names.from_text("www.child.test."), c.A)
    assert ask("www.child.test.", server=quirky(truncate=True)).tc
    assert ask("www.child.test.", server=quirky(truncate=True), tcp=True).answer
    assert quirky(drop_udp=True).answer(query) is None and quirky(drop_udp=True).answer(query, tcp=True)
    assert quirky(drop_tcp=True).answer(query, tcp=True) is None and quirky(drop_tcp=True).answer(query)


def test_servers_that_deny_empty_non_terminals() -> None:
    assert ask("empty.child.test.", server=quirky(blind_to_empty=True)).rcode == c.NXDOMAIN
    assert ask("a.empty.child.test.", server=quirky(blind_to_empty=True)).answer
    assert ask("www.child.test.", c.AAAA, quirky(blind_to_empty=True)).rcode == c.NOERROR


def test_servers_that_change_question_or_id() -> None:
    assert ask("WWW.child.test.", server=quirky(lower_case=True)).qname == names.from_text("www.child.test.")
    assert ask("www.child.test.", server=quirky(wrong_id=True)).id == 77 ^ 0xFFFF


def test_servers_that_add_false_records() -> None:
    lie = RRset(names.from_text("victim.example."), c.A, 60, [b"\x7f\0\0\1"])
    server = quirky(extra=((c.ANSWER, lie), (c.AUTHORITY, lie), (c.ADDITIONAL, lie)))
    view = ask("www.child.test.", server=server)
    assert view.answer[-1] == view.authority[0] == view.additional[0] == lie
    assert not ask("nothing.child.test.", server=server).additional


def test_the_mirror_zone_returns_the_address_of_the_client() -> None:
    name = names.from_text("mirror.child.test.")
    reply = quirky(mirror=name).answer(make_query(1, name, c.TXT), source="192.0.2.7", tcp=True)
    rrset = MessageView.parse(reply).answer[0]
    assert rrset.rdata(0) == b"\x0d192.0.2.7 tcp" and rrset.ttl == 0


# --- anything -------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=80), st.booleans())
def test_any_octets_give_a_readable_reply_or_none(data: bytes, tcp: bool) -> None:
    reply = BOTH.answer(data, tcp=tcp)
    if reply is not None:
        assert MessageView.parse(reply).id == int.from_bytes(data[:2], "big")


@given(
    st.sampled_from(["www", "alias", "x.old", "empty", "a.b.wild", "nothing", "big", ""]),
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.booleans(),
)
def test_replies_never_exceed_what_was_offered(label: str, qtype: int, payload: int, do: bool) -> None:
    query = make_query(
        5, names.from_text(f"{label}.child.test." if label else "child.test."), qtype, edns_payload=payload, do=do
    )
    reply = BOTH.answer(query)
    assert reply is not None and len(reply) <= min(max(payload, 512), 1232)
