"""Text forms of rdata, RRsets, zones and messages, by means of dnspython.

Only this module of the resolver's core uses dnspython. It imports it on the first call, because the import takes longer
than the rest of the start-up. Resolution does not use this module. Unknown types, and rdata that dnspython cannot read,
have the generic form of RFC 3597 section 5.
"""

import struct
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import rdata as rdatas
from resolver.wire.edns import Edns, parse_ede
from resolver.wire.errors import WireError
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

if TYPE_CHECKING:
    import dns.name
    import dns.rdata
    import dns.tokenizer

__all__ = [
    "hints_from_text",
    "line_tokenizer",
    "message_to_text",
    "rdata_from_text",
    "rdata_to_text",
    "rrset_to_text",
    "wire_of",
    "zone_from_text",
]

NO_WIRE_FORM = (struct.error, OverflowError, AssertionError)
"""What `to_wire` of dnspython raises for values that do not fit into their field."""

_FLAG_TEXTS = ((c.QR, "qr"), (c.AA, "aa"), (c.TC, "tc"), (c.RD, "rd"), (c.RA, "ra"), (c.AD, "ad"), (c.CD, "cd"))
_HINTS_TTL = 3_600_000  # seconds, what the published root hints file uses


# --- rdata and sets -----------------------------------------------------------------------------------------------


def generic_to_text(rdata: bytes) -> str:
    r"""Rdata as ``\# length hexadecimal`` (RFC 3597 section 5)."""
    return rf"\# {len(rdata)} {rdata.hex()}".rstrip()


def rdata_to_text(rtype: int, rdata: bytes, rclass: int = c.IN) -> str:
    """Master file form of uncompressed rdata; the generic form when dnspython cannot read it."""
    import dns.exception
    import dns.rdata
    import dns.rdataclass
    import dns.rdatatype

    try:
        kind, group = dns.rdatatype.RdataType.make(rtype), dns.rdataclass.RdataClass.make(rclass)
        # generic rdata without bytes comes with a final space
        return dns.rdata.from_wire(group, kind, rdata, 0, len(rdata)).to_text().rstrip()
    except (dns.exception.DNSException, ValueError):
        return generic_to_text(rdata)


def rdata_from_text(rtype: int, text: str, origin: bytes = names.ROOT, rclass: int = c.IN) -> bytes:
    """Uncompressed rdata from its master file form or its generic form; relative names are below `origin`.

    Raises:
        ValueError: the text is not rdata of this type.
    """
    import dns.exception
    import dns.name
    import dns.rdata
    import dns.rdataclass
    import dns.rdatatype

    try:
        kind, group = dns.rdatatype.RdataType.make(rtype), dns.rdataclass.RdataClass.make(rclass)
        parsed = dns.rdata.from_text(group, kind, text, dns.name.from_wire(origin, 0)[0], relativize=False)
        made = wire_of(parsed)
        rdatas.check(rtype, made, rclass)
    except (dns.exception.DNSException, ValueError) as error:
        raise ValueError(f"{c.type_to_text(rtype)} rdata {text!r}: {error}") from error
    return made


def rrset_to_text(rrset: RRset, *, sigs: bool = True) -> list[str]:
    """One master file line per record; signatures come last, unless `sigs` is False."""
    head = f"{names.to_text(rrset.name)} {rrset.ttl} {c.class_to_text(rrset.rclass)}"
    mnemonic = c.type_to_text(rrset.rtype)
    lines = [f"{head} {mnemonic} {rdata_to_text(rrset.rtype, rdata, rrset.rclass)}" for rdata in rrset.rdatas()]
    if sigs:
        lines += [f"{head} RRSIG {rdata_to_text(c.RRSIG, rdata, rrset.rclass)}" for rdata in rrset.sigs()]
    return lines


def wire_of(parsed: "dns.rdata.Rdata") -> bytes:
    """Uncompressed wire form of an rdata object of dnspython.

    Raises:
        ValueError: it has none. dnspython reads numbers that do not fit into their field, such as an altitude in LOC.
    """
    try:
        made = parsed.to_wire()
    except NO_WIRE_FORM as error:
        raise ValueError(f"a value does not fit into its field: {error}") from None
    assert made is not None  # None is only returned when a file to write to was given
    return made


# --- zones --------------------------------------------------------------------------------------------------------


@cache
def line_tokenizer() -> "type[dns.tokenizer.Tokenizer]":
    """The class of tokenizers for zone files: that of dnspython, with the right line numbers.

    dnspython counts the end of a line when it reads it, and it reads it to end the last token of the line. So an error
    there would name the next line.
    """
    import dns.exception
    import dns.tokenizer

    class LineTokenizer(dns.tokenizer.Tokenizer):
        behind_line = False
        """Whether the end of a line was the last token, or stands in a string that was not closed."""

        def get(self, want_leading: bool = False, want_comment: bool = False) -> "dns.tokenizer.Token":
            try:
                token = super().get(want_leading, want_comment)
            except dns.exception.SyntaxError as error:
                self.behind_line = "newline" in str(error)  # the only sign of a string that is not closed
                raise
            self.behind_line = token.is_eol()
            return token

        def where(self) -> tuple[str, int]:
            file, line = super().where()
            return file, line - 1 if line > 1 and (self.behind_line or self.ungotten_char == "\n") else line

    return LineTokenizer


class _Collector:
    """Collects the records that dnspython's zone file reader finds, in place of a dnspython transaction.

    A transaction would copy a set for every added record and drop what does not fit into a zone. Here all records of
    the text are kept, in their order.
    """

    def __init__(self, origin: "dns.name.Name") -> None:
        self.origin = origin
        self.reader: Any = None
        self.records: list[tuple[bytes, int, int, bytes]] = []
        """Owner, TTL, type and rdata."""

    @property
    def manager(self) -> "_Collector":
        """What dnspython's reader asks for the origin. An attribute would be a reference cycle."""
        return self

    def origin_information(self) -> "tuple[dns.name.Name, bool, dns.name.Name]":
        """Origin, whether names become relative to it, effective origin."""
        return self.origin, False, self.origin

    def check_put_rdataset(self, check: Callable[..., None]) -> None:
        """Ignored: the reader would refuse other data beside a CNAME, but this module does not validate zones."""

    def add(self, owner: "dns.name.Name", ttl: int, parsed: "dns.rdata.Rdata") -> None:
        """Append one record.

        Raises:
            ValueError: it has no wire form.
        """
        wire = owner.to_wire()
        assert wire is not None
        try:
            rdata = wire_of(parsed)
        except ValueError as error:
            file, line = self.reader.tok.where()
            raise ValueError(f"{file}:{line}: {error}") from None
        self.records.append((wire, ttl, int(parsed.rdtype), rdata))

    def _set_origin(self, origin: "dns.name.Name") -> None:
        """Ignored: the reader reports each $ORIGIN here, and applies it itself."""


def _read(text: str, origin: bytes, default_ttl: int | None) -> list[tuple[bytes, int, int, bytes]]:
    """All records of a master file: owner, TTL, type and rdata."""
    import dns.exception
    import dns.name
    import dns.rdataclass
    import dns.zonefile

    collector: Any = _Collector(dns.name.from_wire(origin, 0)[0])
    try:
        reader = dns.zonefile.Reader(
            line_tokenizer()(text, "<text>"),
            dns.rdataclass.IN,
            collector,
            allow_include=False,
            allow_directives=("$ORIGIN", "$TTL"),
            default_ttl=default_ttl,
        )
        # the reader would silently skip names outside of the origin, as hints and glue have
        reader.zone_origin = dns.name.root
        collector.reader = reader
        reader.read()
    except (dns.exception.DNSException, ValueError) as error:
        # A frame of dnspython's reader holds the error, whose traceback holds that frame.
        traceback.clear_frames(error.__traceback__)
        raise ValueError(f"zone text: {error}") from error
    finally:
        collector.reader = None  # the reader refers to the collector
    records: list[tuple[bytes, int, int, bytes]] = collector.records
    return records


def zone_from_text(text: str, origin: bytes, *, default_ttl: int | None = None) -> list[RRset]:
    """RRsets of a master file (RFC 1035 section 5), with signatures attached to the sets they cover.

    $ORIGIN and $TTL are supported; $INCLUDE and $GENERATE are refused. `default_ttl` (seconds) is for records before
    the first TTL. Signatures that cover no set form a set of type RRSIG. Sets are in the order of their first record.

    Raises:
        ValueError: the text is invalid; the message has the line number.
    """
    sets: dict[tuple[bytes, int], tuple[bytes, list[int], list[bytes]]] = {}
    sigs: list[tuple[bytes, int, int, bytes]] = []
    attached: dict[tuple[bytes, int], list[bytes]] = {}
    for owner, ttl, rtype, wire in _read(text, origin, default_ttl):
        if rtype == c.RRSIG:
            sigs.append((owner, ttl, int.from_bytes(wire[:2], "big"), wire))
        else:
            _, ttls, members = sets.setdefault((names.lower(owner), rtype), (owner, [], []))
            ttls.append(ttl)
            members.append(wire)
    for owner, ttl, covered, wire in sigs:
        key = (names.lower(owner), covered)
        if key in sets:
            sets[key][1].append(ttl)
            attached.setdefault(key, []).append(wire)
        else:
            _, ttls, members = sets.setdefault((key[0], c.RRSIG), (owner, [], []))
            ttls.append(ttl)
            members.append(wire)
    return [
        RRset(owner, key[1], min(min(ttls), 0x7FFFFFFF), members, sigs=attached.get(key, ()))
        for key, (owner, ttls, members) in sets.items()
    ]


def hints_from_text(text: str) -> list[RRset]:
    """The root's NS set and the addresses of its servers, from a root hints file.

    Raises:
        ValueError: the text is invalid, or has no servers or no address of one.
    """
    sets = zone_from_text(text, names.ROOT, default_ttl=_HINTS_TTL)
    servers = [rrset for rrset in sets if rrset.rtype == c.NS and rrset.name == names.ROOT]
    known = {names.lower(target) for rrset in servers for target in rrset.targets()}
    addresses = [rrset for rrset in sets if rrset.rtype in (c.A, c.AAAA) and rrset.key[0] in known]
    if not servers or not addresses:
        raise ValueError("root hints: no name server of the root has an address")
    return servers + addresses


# --- messages -----------------------------------------------------------------------------------------------------


def message_to_text(view: MessageView) -> str:
    """The whole message in the layout of dig."""
    counts = [int.from_bytes(view.wire[at : at + 2], "big") for at in (4, 6, 8, 10)]
    flags = "".join(f" {text}" for mask, text in _FLAG_TEXTS if view.flags & mask)
    lines = [
        f";; ->>HEADER<<- opcode: {c.opcode_to_text(view.opcode)}, status: {c.rcode_to_text(view.rcode)}, "
        f"id: {view.id}",
        f";; flags:{flags}; QUERY: {counts[0]}, ANSWER: {counts[1]}, AUTHORITY: {counts[2]}, ADDITIONAL: {counts[3]}",
    ]
    if view.edns is not None:
        lines += ["", ";; OPT PSEUDOSECTION:", *_edns_lines(view.edns)]
    if view.qname is not None:
        question = f";{names.to_text(view.qname)} {c.class_to_text(view.qclass)} {c.type_to_text(view.qtype)}"
        lines += ["", ";; QUESTION SECTION:", question]
    for title, section in (("ANSWER", view.answer), ("AUTHORITY", view.authority), ("ADDITIONAL", view.additional)):
        if section:
            lines += ["", f";; {title} SECTION:", *_section_lines(section)]
    return "\n".join(lines) + "\n"


def _section_lines(section: Iterable[RRset]) -> Iterator[str]:
    """The lines of all sets of a section."""
    for rrset in section:
        yield from rrset_to_text(rrset)


def _edns_lines(edns: Edns) -> Iterator[str]:
    """The lines of the OPT record."""
    yield f"; EDNS: version: {edns.version}, flags:{' do' if edns.do else ''}; udp: {edns.payload}"
    for code, content in edns.options:
        if code == c.OPTION_EDE:
            try:
                error, text = parse_ede(content)
            except WireError:
                yield f"; EDE: malformed {content.hex()}"
            else:
                yield f"; EDE: {error} ({c.ede_to_text(error)})" + (f": ({text})" if text else "")
        elif code == c.OPTION_PADDING:
            yield f"; PADDING: {len(content)} bytes"
        else:
            yield f"; {c.option_to_text(code)}: {content.hex()}".rstrip()
