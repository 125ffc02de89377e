"""Every test in this directory runs on both TLS engines: libssl, and the standard library's memory BIOs."""

from support.tls_engines import each_tls_engine

__all__ = ["each_tls_engine"]
