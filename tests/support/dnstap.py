"""Reads dnstap for tests: data frames, and their protocol buffers by field number. Written from dnstap.proto."""

from typing import Any, NamedTuple

__all__ = ["Tap", "frames", "read_frame"]

TYPES = {1: "AUTH_QUERY", 2: "AUTH_RESPONSE", 3: "RESOLVER_QUERY", 4: "RESOLVER_RESPONSE", 5: "CLIENT_QUERY",
         6: "CLIENT_RESPONSE", 7: "FORWARDER_QUERY", 8: "FORWARDER_RESPONSE"}
PROTOCOLS = {1: "UDP", 2: "TCP", 3: "DOT", 4: "DOH", 7: "DOQ"}
NAMES = {1: "type", 2: "family", 3: "protocol", 4: "query_address", 5: "response_address", 6: "query_port",
         7: "response_port", 8: "query_sec", 9: "query_nsec", 10: "query", 11: "zone", 12: "response_sec",
         13: "response_nsec", 14: "response"}


class Tap(NamedTuple):
    """One message; `fields` has those of `Message` by name."""

    identity: bytes
    version: bytes
    fields: dict[str, Any]

    @property
    def type(self) -> str:
        return TYPES[self.fields["type"]]

    @property
    def protocol(self) -> str:
        return PROTOCOLS[self.fields["protocol"]]


def frames(data: bytes) -> list[bytes]:
    """The payloads of the data frames in `data`; control frames are left out."""
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 0:
            at += 8 + int.from_bytes(data[at + 4 : at + 8], "big")
            continue
        payload = data[at + 4 : at + 4 + size]
        assert len(payload) == size, "a frame ends early"
        found.append(payload)
        at += 4 + size
    return found


def read_frame(payload: bytes) -> Tap:
    """The message in a data frame. Fields must come in the order of their numbers, once each."""
    outer = fields(payload)
    assert outer[15] == 1
    message = fields(outer[14])
    return Tap(outer.get(1, b""), outer.get(2, b""), {NAMES[number]: value for number, value in message.items()})


def fields(data: bytes) -> dict[int, Any]:
    found: dict[int, Any] = {}
    at, last = 0, 0
    while at < len(data):
        tag, at = varint(data, at)
        number, kind = tag >> 3, tag & 7
        assert number > last
        last = number
        if kind == 0:
            found[number], at = varint(data, at)
        elif kind == 5:
            found[number], at = int.from_bytes(data[at : at + 4], "little"), at + 4
        else:
            assert kind == 2
            size, at = varint(data, at)
            found[number], at = data[at : at + size], at + size
            assert len(found[number]) == size
    assert at == len(data)
    return found


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
