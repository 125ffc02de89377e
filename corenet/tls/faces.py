"""The class that TLS transports show as their ``__class__``; programs look for "ssl" in its name.

asyncio's abstract transports have ``__slots__``, whose layout no Cython class can share, yet frameworks test with
``isinstance``; this class is never instantiated and stands in for the type in such tests and in messages.
"""

import asyncio

__all__ = ["SSLTransport"]


class SSLTransport(asyncio.transports._FlowControlMixin, asyncio.Transport):
    """An encrypted stream; the mixin is what asyncio's sendfile fallback tests for."""
