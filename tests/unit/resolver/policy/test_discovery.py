"""Designated resolvers (RFC 9462, RFC 9463): the records and options that follow from the listeners."""

import dns.rdata
import dns.rdataclass
import dns.rdatatype
import pytest

from resolver.effects import Question
from resolver.policy import PolicyPipeline, describe, designations
from resolver.settings import ListenerSettings, ServerSettings, Settings, TlsSettings, replace
from resolver.wire import consts as c
from resolver.wire import name as names

OWNER = names.from_text("_dns.resolver.arpa.")


def settings(*listeners: tuple[str, str], name: str = "dns.example.net") -> Settings:
    return Settings(
        server=ServerSettings(listen=("192.0.2.1:53",)),
        tls=TlsSettings(certificate=("c.pem",), key=("k.pem",), name=name),
        listener=tuple(ListenerSettings(address=address, protocol=protocol) for address, protocol in listeners),
    )


BOTH = settings(("192.0.2.1", "tls"), ("2001:db8::1", "tls"), ("192.0.2.1:8443", "https"), ("0.0.0.0", "tls"))


def records(given: Settings) -> list[str]:
    outcome = PolicyPipeline(given).answer(Question(OWNER, c.SVCB))
    assert outcome is not None and outcome.rcode == c.NOERROR
    found = []
    for rrset in outcome.answer:
        for rdata in rrset.rdatas():
            found.append(dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.SVCB, rdata, 0, len(rdata)).to_text())
    return found


def test_the_records_are_what_dnspython_reads() -> None:
    assert records(BOTH) == [
        '1 dns.example.net. alpn="dot" port="853" ipv4hint="192.0.2.1" ipv6hint="2001:db8::1"',
        '2 dns.example.net. alpn="h2,http/1.1" port="8443" ipv4hint="192.0.2.1" dohpath="/dns-query{?dns}"',
    ]


def test_without_a_name_or_listeners_there_is_no_data_but_the_name_exists() -> None:
    for given in (settings(("192.0.2.1", "tls"), name=""), Settings(), settings(("192.0.2.1:0", "tls"))):
        assert designations(given) == () and records(given) == []
        outcome = PolicyPipeline(given).answer(Question(names.from_text("resolver.arpa."), c.SVCB))
        assert outcome is not None and (outcome.rcode, outcome.answer) == (c.NOERROR, [])


def test_they_are_announced_without_the_other_special_names_too() -> None:
    given = replace(BOTH, policy=replace(BOTH.policy, special_use_domains=False))
    assert len(records(given)) == 2


@pytest.mark.parametrize("protocol", ["tls", "https"])
def test_a_listener_on_a_wildcard_has_no_addresses(protocol: str) -> None:
    [found] = designations(settings(("[::]", protocol)))
    assert (found.ipv4, found.ipv6) == ((), ())


def test_dhcp_options_have_the_layout_of_rfc_9463() -> None:
    first, second = designations(BOTH)
    target = names.from_text("dns.example.net.")
    params = b"\0\1\0\4\3dot\0\3\0\2\x03\x55"
    v4 = b"\0\1" + bytes([len(target)]) + target + b"\4\xc0\0\2\1" + params
    assert first.dhcpv4() == len(v4).to_bytes(2, "big") + v4
    v6 = b"\0\1" + len(target).to_bytes(2, "big") + target + b"\0\x10" + bytes.fromhex("20010db8" + "00" * 11 + "01")
    assert first.dhcpv6() == v6 + params
    head = b"\0\2" + len(target).to_bytes(2, "big") + target
    assert second.dhcpv6() == head + b"\0\0" + second.parameters(hints=False)
    text = describe((first, second))
    assert f"DHCPv4 option 162: {(first.dhcpv4() + second.dhcpv4()).hex()}" in text
    assert f"DHCPv6 option 144: {first.dhcpv6().hex()}" in text and text.count("option 144") == 1
    assert "_dns.resolver.arpa. SVCB 1 dns.example.net. alpn=dot port=853 ipv4hint=192.0.2.1" in text
