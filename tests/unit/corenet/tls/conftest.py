"""Every test in this directory runs on each TLS engine: libssl, and `ssl.MemoryBIO` of the standard library.

Where libssl is linked into Python, only the second engine exists.
"""

from support.tls_engines import each_tls_engine

__all__ = ["each_tls_engine"]
