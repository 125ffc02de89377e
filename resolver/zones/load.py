"""Reads a zone file (RFC 1035 section 5) into a `Zone`, by means of dnspython; an error has its file and line.

The file is one of the operator: $INCLUDE and $GENERATE are supported. What they produce is limited as the zone is. The
place of the last record of each name and type is remembered, for errors of the zone as a whole. Reading takes some 30
us for each record, so the caller does it in a thread.
"""

import traceback
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

from resolver import limits
from resolver.regular_file import irregular_path
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.present import line_tokenizer, wire_of
from resolver.zones.zone import Record, Zone, ZoneError

if TYPE_CHECKING:
    import dns.name
    import dns.rdata
    import dns.tokenizer
    import dns.zonefile

__all__ = ["ZoneFileError", "missing_glue", "read_zone"]


class ZoneFileError(ValueError):
    """A zone file that cannot be used; the text begins with the file and, where it is known, the line."""


class _Collector:
    """Takes the records that dnspython's reader finds, in place of a dnspython transaction."""

    def __init__(self, origin: "dns.name.Name", is_wanted: Callable[[], bool]) -> None:
        self.origin = origin
        self.is_wanted = is_wanted
        self.reader: Any = None
        self.records: list[Record] = []
        self.places: dict[tuple[bytes, int], tuple[str, int]] = {}
        """The last record of each name and type: its file and line."""

    @property
    def manager(self) -> "_Collector":
        """What dnspython's reader asks for the origin. An attribute would be a reference cycle."""
        return self

    def origin_information(self) -> "tuple[dns.name.Name, bool, dns.name.Name]":
        """Origin, whether names become relative to it, effective origin."""
        return self.origin, False, self.origin

    def check_put_rdataset(self, check: object) -> None:
        """Ignored: `Zone` checks which records may coexist, and reports their place."""

    def add(self, owner: "dns.name.Name", ttl: int, parsed: "dns.rdata.Rdata") -> None:
        """Keep one record.

        Raises:
            ZoneError: there are more than `limits.ZONE_RECORDS`, the zone is not wanted any more, or the record has no
            wire form.
        """
        if not self.is_wanted():
            raise ZoneError("the zone is not wanted any more")
        if len(self.records) >= limits.ZONE_RECORDS:
            raise ZoneError(f"the zone has more than {limits.ZONE_RECORDS} records")
        wire = owner.to_wire()
        assert wire is not None
        try:
            rdata = wire_of(parsed)
        except ValueError as error:
            raise ZoneError(str(error)) from None
        key = names.lower(wire)
        rtype = int(parsed.rdtype)
        self.records.append((key, rtype, min(ttl, limits.ZONE_TTL), rdata))
        self.places[key, rtype] = self.place()

    def place(self) -> tuple[str, int]:
        """File and line of the record that was just read."""
        file, line = self.reader.tok.where()
        return file, line

    def _set_origin(self, origin: "dns.name.Name") -> None:
        """Ignored: the reader applies each $ORIGIN itself."""


class _Includes(list[Any]):
    """The states of the files that include the one being read, as dnspython's reader keeps them."""

    def append(self, state: Any) -> None:
        """Keep the state of one more file.

        Raises:
            ZoneError: there are more than `limits.ZONE_INCLUDES`.
        """
        if len(self) >= limits.ZONE_INCLUDES:
            raise ZoneError(f"$INCLUDE is nested more than {limits.ZONE_INCLUDES} times")
        super().append(state)

    def close(self) -> None:
        """Close their files, those of the caller excepted."""
        for _, _, _, file, *_ in self:
            if file is not None:
                file.close()


@cache
def _reader_class() -> "type[dns.zonefile.Reader]":
    """dnspython's reader, with the tokenizer that has the right line numbers in included files, too. What is no regular
    file is refused before the reader opens it: opening a FIFO would wait, and a device may have no end."""
    import dns.zonefile

    class Tokens(line_tokenizer()):  # type: ignore[misc]
        is_path = False
        """The next token is the file of $INCLUDE."""

        def get(self, want_leading: bool = False, want_comment: bool = False) -> "dns.tokenizer.Token":
            token: dns.tokenizer.Token = super().get(want_leading, want_comment)
            if self.is_path and (kind := irregular_path(token.value)):
                raise ZoneError(f"$INCLUDE {token.value}: it is {kind}, not a regular file")
            # Only the first token of a line is read with `want_leading`.
            self.is_path = want_leading and token.is_identifier() and token.value.upper() == "$INCLUDE"
            return token

    class Reader(dns.zonefile.Reader):
        @property
        def tok(self) -> Any:
            return self._tokens

        @tok.setter
        def tok(self, tokens: Any) -> None:
            self._tokens = tokens if isinstance(tokens, Tokens) else Tokens(tokens.file, tokens.filename)

    return Reader


def read_zone(file: TextIO, source: str, origin: bytes, is_wanted: Callable[[], bool] = lambda: True) -> Zone:
    """Read the zone `origin` from an open file; `source` is its name for errors and for $INCLUDE. Reading ends when
    `is_wanted`, which is called for each record, returns False.

    Raises:
        ZoneFileError: the text, or the zone that it describes, is invalid; or it is not wanted any more.
        OSError: the file cannot be read.
    """
    import dns.exception
    import dns.name
    import dns.rdataclass

    apex = dns.name.from_wire(origin, 0)[0]
    collector: Any = _Collector(apex, is_wanted)
    tokens = line_tokenizer()(file, source)
    reader = collector.reader = _reader_class()(tokens, dns.rdataclass.IN, collector, allow_include=True)
    # The reader would silently skip names outside of the origin, which are an error here.
    reader.zone_origin = dns.name.root
    reader.current_origin = apex
    includes = reader.saved_state = _Includes()
    try:
        reader.read()
    except ZoneError as error:
        file_name, line = collector.place()
        raise ZoneFileError(_at(file_name, line, str(error))) from None
    except UnicodeDecodeError:
        raise ZoneFileError(f"{collector.place()[0]}: it is not UTF-8 text") from None
    except (dns.exception.DNSException, ValueError, RecursionError) as error:
        text = _reason(source, reader, error)
        # A frame of dnspython's reader holds the error, whose traceback holds that frame.
        traceback.clear_frames(error.__traceback__)
        raise ZoneFileError(text) from None
    finally:
        includes.close()
        if reader.current_file is not None:
            reader.current_file.close()
        # The reader refers to the collector. As a cycle, both would live until a collection of all objects.
        collector.reader = None
    try:
        return Zone.from_records(origin, collector.records)
    except ZoneError as error:
        place = collector.places.get((error.owner, error.rtype)) if error.owner is not None else None
        name, line = place or (source, 0)
        raise ZoneFileError(_at(name, line, str(error))) from None


def missing_glue(zone: Zone) -> list[bytes]:
    """Name servers of delegated zones that cannot be reached: they are in the delegated zone and have no address here
    (RFC 1034 section 4.2.1). A zone with such a delegation is served, and a warning is logged."""
    found = []
    for cut in zone.owners(c.NS):
        if cut == zone.origin:
            continue
        ns = zone.rrset(cut, c.NS)
        assert ns is not None
        found += [target for target in ns.targets() if names.is_subdomain(target, cut) and not zone.addresses([target])]
    return found


def _at(source: str, line: int, text: str) -> str:
    return f"{source}:{line}: {text}" if line else f"{source}: {text}"


def _reason(source: str, reader: Any, error: BaseException) -> str:
    """The text of an error of dnspython, which has the file and the line except when it is no syntax error."""
    text = str(error) or type(error).__name__
    file, line = reader.tok.where()
    return text if text.startswith((f"{source}:", f"{file}:")) else _at(file, line, text)
