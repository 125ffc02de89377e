"""The policies of one configuration: the pipeline of each view, and the tables that give a client its access and view.

View 0 is for clients in no view. A `PolicyPipeline` is immutable; a new one is made when settings are loaded.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from resolver.effects import Outcome, Question
from resolver.policy.access import AccessTable
from resolver.policy.discovery import Designation, designations
from resolver.policy.dns64 import Dns64
from resolver.policy.dns64_reverse import Dns64Reverse
from resolver.policy.inform import InformZones
from resolver.policy.local import LocalZones
from resolver.policy.meta import MetaQueries
from resolver.policy.minimal_any import MinimalAny
from resolver.policy.module import Hooks, PolicyModule
from resolver.policy.pipeline import Pipeline
from resolver.policy.ranges import ViewAccess
from resolver.policy.rewrite import Rewriter
from resolver.policy.truncation import TruncationZones
from resolver.settings import HostEntry, ListenerSettings, PolicySettings, Settings
from resolver.wire import name as names

__all__ = ["PolicyPipeline"]


class PolicyPipeline:
    """The pipelines of all views, by number, and the access list. `local` are the local zones of view 0."""

    def __init__(
        self, settings: Settings, hosts: Iterable[HostEntry] = (), modules: Iterable[PolicyModule] = (),
        hooks: Mapping[int, Hooks] | None = None,
    ) -> None:
        """Compile `settings`; `hosts` is the content of the hosts files it names; `modules` are further modules, each
        for the views in its attribute `views`; `hooks` are those of operators, by the number of the view.

        Raises:
            ValueError: naming the setting that is wrong.
        """
        self.hosts = tuple(hosts)
        self.designations = designations(settings)
        self.counts: dict[tuple[str, str, str], int] = {}
        """Actions since the start, by point, module and kind."""
        self._settings = settings
        further = tuple(modules)
        self._hooks = {} if hooks is None else hooks
        made = [self._pipeline(0, "", settings.policy, further)]
        for number, view in enumerate(settings.view, 1):
            own = tuple(zone.zone for zone in view.upstream_zones)
            try:
                made.append(self._pipeline(number, view.name, view.applied_to(settings.policy), further, own))
            except ValueError as error:
                raise ValueError(f"view: {str(error).removeprefix('policy.')} (view {view.name!r})") from None
        self.views: tuple[Pipeline, ...] = tuple(made)
        self.local: LocalZones = next(one for one in self.views[0].modules if isinstance(one, LocalZones))
        self.access = self._tables(None, None)
        """The table for listeners that have no list of their own and that no view names."""

    def answer(self, question: Question) -> Outcome | None:
        """The local answer to `question` for clients in no view; None when it must be resolved."""
        return self.views[0].answer(question)

    def table(self, listener: ListenerSettings, transport: str) -> AccessTable:
        """The table of access and views for the clients of `listener` over `transport`; `access` when it is the
        same."""
        if not listener.has_access_list and not any(view.listeners or view.transports for view in self._settings.view):
            return self.access
        return self._tables(listener, transport)

    def statistics(self) -> dict[str, int]:
        """How often each action was taken, as ``point.module.kind``. Cached answers that repeat one are not counted."""
        return {".".join(key): count for key, count in self.counts.items()}

    def _tables(self, listener: ListenerSettings | None, transport: str | None) -> AccessTable:
        """The table for unsigned queries; its attribute `keyed` has one for each key that views name."""
        keys = {name for view in self._settings.view for name in view.key_names}
        keyed = {names.lower(names.from_text(name)): self._table(listener, transport, name) for name in keys}
        return self._table(listener, transport, keyed=keyed)

    def _table(
        self, listener: ListenerSettings | None, transport: str | None, key: str | None = None,
        keyed: Mapping[bytes, AccessTable] = MappingProxyType({}),
    ) -> AccessTable:
        """The table of the views without keys, or of those that name `key`. Few views name a key, so making a table for
        each key costs little."""
        own = listener if listener is not None and listener.has_access_list else self._settings.policy
        views = [
            ViewAccess(number, view.clients, (view.allow, view.refuse, view.drop) if view.has_access_list else None,
                       not self.views[number].caches)
            for number, view in enumerate(self._settings.view, 1) if view.serves(listener, transport, key)
        ]
        return AccessTable(own.allow, own.refuse, own.drop, views=views, uncached=not self.views[0].caches,
                           keyed=keyed)

    def _pipeline(
        self, number: int, name: str, policy: PolicySettings, further: tuple[PolicyModule, ...],
        resolved: tuple[str, ...] = (),
    ) -> Pipeline:
        """`resolved` are the forward and stub zones that only this view has."""
        dns64 = Dns64.create(policy)
        rewriter = Rewriter.create(policy)
        local = _local_zones(self._settings, policy, resolved, self.hosts, self.designations)
        modules: list[PolicyModule] = [MetaQueries(self._settings.server)]
        if local.has_truncate_zone:
            modules.append(TruncationZones(local))
        if local.has_inform_zone:
            modules.append(InformZones(local))
        if dns64 is not None:
            modules.append(Dns64Reverse(dns64))
        hooks = self._hooks.get(number)
        modules += [local, *(one for one in further if one.views is None or number in one.views)]
        modules += () if hooks is None else hooks.modules
        if self._settings.server.minimal_any:
            modules.append(MinimalAny())
        if rewriter is not None:
            modules.append(rewriter)
        return Pipeline(number, name, modules, dns64=dns64, counts=self.counts, hooks=hooks)


def _local_zones(
    settings: Settings, policy: PolicySettings, own: Iterable[str], hosts: Iterable[HostEntry],
    announced: Iterable[Designation],
) -> LocalZones:
    # Forward, stub and own zones, and zones with a trust anchor, are resolved even when their names are special-use.
    resolved = [*settings.configured_zones, *own]
    resolved += [zone.name for zone in settings.zone if zone.mode == "authoritative"]
    resolved += [anchor.split(None, 1)[0] for anchor in settings.dnssec.trust_anchors]
    return LocalZones(policy, resolved, hosts, announced)
