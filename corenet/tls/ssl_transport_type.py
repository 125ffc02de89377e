"""The class that TLS transports return as their ``__class__``; programs check for "ssl" in its name.

asyncio's abstract transports have ``__slots__``, so a Cython class cannot inherit from them, but frameworks test with
``isinstance``. This class is never instantiated.
"""

import asyncio

__all__ = ["SSLTransport"]


class SSLTransport(asyncio.transports._FlowControlMixin, asyncio.Transport):
    """An encrypted stream; asyncio's sendfile fallback tests for the mixin."""
