"""An arbitrary file of a zone, and arbitrary messages as a transfer: nothing but the documented errors.

The digests of the file are recomputed, so that the reader sees the content. The messages are also taken after a good
beginning, and with a signature that must match. What is accepted is a zone that can be written and read again, and
compiled as a response policy zone.
"""

import hashlib
import io

from resolver.daemon.list_files import compile_transferred
from resolver.settings import RpzSettings
from resolver.wire import name as names
from resolver.wire.errors import WireError
from resolver.zones.answer import Answerer
from resolver.zones.journal import HEAD, MAGIC, JournalError, content_block, read_journal
from resolver.zones.load import read_zone
from resolver.zones.table import message
from resolver.zones.transfer import Transfer, TransferError
from resolver.zones.tsig import Key, TsigError, Verifier, split
from resolver.zones.zone import Zone

ORIGIN = names.from_text("e.test.")
TEXT = "$TTL 300\n@ SOA ns host 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\nsub NS ns.sub\nns.sub A 192.0.2.2\n"
ZONE = read_zone(io.StringIO(TEXT), "zone", ORIGIN)
KEY = Key(names.from_text("k.test."), "hmac-sha256", b"0123456789abcdef")
CONTENT = content_block(ZONE, 1)
POLICY = RpzSettings(name="e.test.", primaries=("192.0.2.1",))


def run(data: bytes) -> None:
    """Take `data` as a file, as blocks of one, and as messages."""
    _file(data)
    _file(CONTENT + _block(data))
    _file(MAGIC + _block(data))
    for current, packets in ((None, [data]), (ZONE, [data]), (ZONE, [data[:40], data[40:]])):
        _transfer(current, packets, None)
    _transfer(ZONE, [data], Verifier(KEY, b"mac"))
    try:
        split(data)
        Verifier(KEY).check(data, 0)
    except (WireError, TsigError):
        pass


def _block(data: bytes) -> bytes:
    kind, payload = (data[0] % 4 if data else 1), data[1:]
    digest = hashlib.blake2b(bytes((kind,)) + payload, digest_size=16).digest()
    return HEAD.pack(kind, len(payload), digest) + payload


def _file(data: bytes) -> None:
    try:
        saved = read_journal(data, ORIGIN)
    except JournalError:
        return
    _use(saved.zone)


def _transfer(current: Zone | None, packets: list[bytes], verifier: Verifier | None) -> None:
    transfer = Transfer(ORIGIN, 0x4142, current, verifier)
    try:
        for packet in packets:
            if transfer.feed(packet, 0):
                transfer.finish()
                break
    except TransferError:
        return
    if transfer.zone is not None:
        _use(transfer.zone)


def _use(zone: Zone) -> None:
    answerer = Answerer(zone)
    for qname in (ORIGIN, names.from_text("w.sub.e.test."), names.from_text("none.e.test.")):
        for qtype in (1, 2, 43, 46, 47, 255):
            message(answerer.answer(qname, qtype), qname, qtype)
    if read_journal(content_block(zone, 1), ORIGIN).zone.records != zone.records:
        raise AssertionError("what was written is not what was read")
    compiled = compile_transferred(POLICY, zone, bytes(16))
    assert compiled.serial == zone.serial and compiled.entries + compiled.error_count <= zone.records
