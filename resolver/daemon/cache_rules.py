"""What cached data depend on besides the question: the settings, and the files that they name.

Finished answers and the snapshot of the cache are used only under the same rules as they were made. A setting that
changes answers belongs into `rules_of`, and so counts for both.
"""

import hashlib
from collections.abc import Iterable, Mapping

from resolver.policy import designations
from resolver.settings import HostEntry, Settings, replace

__all__ = ["digest_rules", "rules_of"]


def digest_rules(settings: Settings, hosts: Iterable[HostEntry], sources: Mapping[str, bytes]) -> bytes:
    """A digest of all that cached answers depend on besides the question, the same in every process.

    Answers that were cached under another one may differ from those of `settings`. `hosts` is the content of the hosts
    files, `sources` that of the modules with hooks, so both count by content. Key states of trust anchors are carried
    over by a reload and do not count.
    """
    digest = hashlib.sha256(repr((*rules_of(settings), sorted(sources.items()))).encode())
    for host in hosts:  # one by one: there may be hundreds of thousands
        digest.update(repr(host).encode())
    return digest.digest()


def rules_of(settings: Settings) -> tuple[object, ...]:
    """All settings that cached data depend on besides the question. Files that they name may count by content, too."""
    # Rates do not change answers.
    views = [replace(view, queries_per_second=-1, responses_per_second=-1) for view in settings.view]
    return (
        settings.dnssec, settings.policy, views, settings.balance, settings.list, settings.rpz, settings.forward,
        settings.stub, settings.root_hints, settings.iteration, settings.own_zones, settings.server.minimal_responses,
        settings.server.minimal_any, settings.client_subnet, designations(settings),
    )
