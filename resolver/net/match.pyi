from typing import Literal

from resolver.net.clock_random import Entropy
from resolver.wire.edns import Edns

def make_packet(
    qname: bytes,
    qtype: int,
    identity: int,
    *,
    flags: int = 0,
    payload: int | None = None,
    do: bool = False,
    case_bits: Entropy | None = None,
    cookie: bytes | None = None,
) -> bytes: ...
def cookie_of(sent: bytes, edns: Edns | None) -> bytes | None: ...
def is_reply(sent: bytes, data: bytes, *, allow_no_question: bool = False) -> bool: ...
def explain_match(sent: bytes, data: bytes) -> Literal["reply", "short", "query", "id", "question", "case", "bare"]: ...
def truncated_stub(data: bytes) -> bytes | None: ...
