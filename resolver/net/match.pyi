from typing import Literal

from resolver.net.ambient import Entropy

def make_packet(
    qname: bytes,
    qtype: int,
    identity: int,
    *,
    flags: int = 0,
    payload: int | None = None,
    do: bool = False,
    case_bits: Entropy | None = None,
) -> bytes: ...
def is_reply(sent: bytes, data: bytes) -> bool: ...
def explain_match(sent: bytes, data: bytes) -> Literal["reply", "short", "query", "id", "question", "case"]: ...
def truncated_stub(data: bytes) -> bytes | None: ...
