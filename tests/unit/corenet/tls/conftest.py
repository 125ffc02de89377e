"""Every test of this folder runs on both TLS engines: libssl itself, and the standard library's memory BIOs."""

from support.tls_engines import each_tls_engine

__all__ = ["each_tls_engine"]
