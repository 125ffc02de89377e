import ssl
from dataclasses import dataclass

from corenet.tls.engine import TlsEngine

@dataclass(frozen=True, slots=True)
class TlsEngineChoice:
    name: str
    reason: str

def use_engine(name: str) -> None: ...
def tls_engine() -> TlsEngineChoice: ...
def make_tls_engine(
    context: ssl.SSLContext, server_side: bool, server_hostname: str | None = None
) -> TlsEngine: ...
