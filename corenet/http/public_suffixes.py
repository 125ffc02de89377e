"""The public suffix list: the names below which unrelated parties register. Only this module imports the package.

`publicsuffixlist` is small, has no dependencies, brings the list with it and is released whenever the list changes. It
is imported when it is first asked, because reading the list takes some 50 ms.
"""

from functools import lru_cache
from typing import Any

__all__ = ["is_public_suffix", "registrable_domain", "require_list"]


@lru_cache(maxsize=1)
def require_list() -> Any:
    """Load the list.

    Raises:
        ImportError: the package is not installed.
    """
    try:
        from publicsuffixlist import PublicSuffixList
    except ImportError as error:
        raise ImportError(
            "cookies need the public suffix list: install corenet-resolver[cookies], or the package publicsuffixlist"
        ) from error
    return PublicSuffixList()


def is_public_suffix(domain: str) -> bool:
    """Whether a name in lower-case ASCII is a public suffix, such as ``co.uk``; an unknown top-level domain is one."""
    return bool(require_list().is_public(domain))


def registrable_domain(host: str) -> str:
    """The part of `host` that one party has registered: the public suffix and one label; `host` itself without one."""
    return str(require_list().privatesuffix(host.rstrip(".")) or host)
