"""Both TLS engines in turn, for test modules that import `each_tls_engine`; `ENGINES` are those of this Python."""

from collections.abc import Iterator

import pytest

from corenet.tls.engines import tls_engine, use_engine

__all__ = ["ENGINES", "each_tls_engine"]

# Where libssl is linked into Python there is one engine only, and running its tests twice would show nothing.
ENGINES = ("openssl", "stdlib") if tls_engine().name == "openssl" else ("stdlib",)


@pytest.fixture(autouse=True, scope="module", params=ENGINES)
def each_tls_engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Have the connections of a module's tests use one engine, then the other; the value is its name."""
    former = tls_engine().name
    use_engine(request.param)
    yield request.param
    use_engine(former)
