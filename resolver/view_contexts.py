"""The contexts of the views: the policies, caches and validator with which the queries of each view are resolved.

A view with servers or negative trust anchors of its own has a cache and delegations of its own (`separate`); all others
share those of view 0. All contexts have the same time. They are made with the mesh and live as long as it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from resolver.cache.bounded import TableGroup
from resolver.effects import Context, RandomSource, SecondLevel
from resolver.iterate import DelegationCache
from resolver.iterate.client_subnet import ClientSubnets
from resolver.iterate.forward import configured_cuts
from resolver.nat64 import ServerNat64
from resolver.policy import Pipeline, PolicyPipeline
from resolver.resolve import load_validator
from resolver.wire import name as names

if TYPE_CHECKING:
    from resolver.cache import Store
    from resolver.cache.bounded import MemoryTable
    from resolver.settings import Settings, ViewSettings
    from resolver.zones import ZoneTable

__all__ = ["ViewContexts"]


class ViewContexts:
    """The contexts of all views, by their number. View 0 has the policies of the settings."""

    __slots__ = ("contexts", "delegations", "homes", "separate", "subnets", "validation")

    def __init__(
        self, store: Store, settings: Settings, rng: RandomSource, policy: PolicyPipeline | None,
        zones: ZoneTable | None, own_addresses: Sequence[str],
    ) -> None:
        self.delegations = DelegationCache(store, settings, own=own_addresses, configured=configured_cuts(settings),
                                           zones=zones)
        self.validation = load_validator(settings)
        """The validator of view 0 and of all views without negative trust anchors; None without validation."""
        nat64 = ServerNat64.create(settings.iteration.nat64_prefix)
        self.subnets = ClientSubnets(settings.client_subnet, nat64) if settings.client_subnet.active else None
        """Client subnets, and the answers that depend on them; None where no subnet is ever sent."""
        pipelines = policy.views if policy is not None else (Pipeline.for_answers(settings.policy),)
        self.contexts = [self._context_of(pipeline, store, settings, rng) for pipeline in pipelines]
        self.homes = [0] * len(pipelines)
        """The view of the sub-queries for name servers and for the chain of trust, by the view of their client: a view
        with servers of its own, or 0."""
        self.separate: list[Context] = []
        """The contexts with a cache of their own, except that of view 0."""
        for number, view in enumerate(settings.view[: len(pipelines) - 1], 1):
            if view.has_own_servers:
                self._separate(number, view, store, settings, own_addresses, zones)
        if len(pipelines) > 1:
            for context in self.contexts:
                context.shares_failures = False

    def _context_of(self, pipeline: Pipeline, store: Store, settings: Settings, rng: RandomSource) -> Context:
        """The context of one view."""
        context = Context(store, settings, rng, pipeline if pipeline.has_answers else None, pipeline.number)
        context.sub_policy = pipeline.for_sub_queries()
        context.delegations = self.delegations
        if self.validation is not None:
            context.validation, context.validator = self.validation, self.validation.validate
        context.dns64 = pipeline.dns64
        context.subnets = self.subnets
        if pipeline.has_name_server:
            context.name_server, context.has_server_rules = pipeline.name_server, pipeline.has_server_rules
        context.response = pipeline.response if pipeline.has_response else None
        return context

    def _separate(
        self, number: int, view: ViewSettings, store: Store, settings: Settings, own_addresses: Sequence[str],
        zones: ZoneTable | None,
    ) -> None:
        """Give the view `number` a cache of its own, because its answers come from servers of its own.

        All of its data is apart, also that of names which other servers answer: what one server says of a name may
        decide about others, by aliases, delegations, denials and keys. It is not shared with other resolvers either.
        """
        context = self.contexts[number]
        context.subnets = None  # there is one table of such answers, for the usual servers
        context.store = store.partition(view.part)
        context.delegations = DelegationCache(
            context.store, settings, own=own_addresses, configured=configured_cuts(settings, view), zones=zones,
            fetches=self.delegations.fetches, part=number,
        )
        if self.validation is not None and view.negative_trust_anchors:
            validation = load_validator(settings, self.validation, view.negative_trust_anchors)
            assert validation is not None
            context.validation, context.validator = validation, validation.validate
        self.homes[number] = number
        self.separate.append(context)

    def set_time(self, now: int, monotonic: float) -> None:
        """Set the time of every view: real time in whole seconds, and monotonic time in seconds."""
        for context in self.contexts:
            context.now, context.monotonic = now, monotonic

    def set_second_level(self, second: SecondLevel) -> bool:
        """Share replies by the cache `second`. Returns whether they are also read from it.

        They are not when policies of a view look at name servers: they would not see those of a reply that another
        resolver got, and the RRset cache is shared by views.
        """
        reads = all(context.name_server is None for context in self.contexts)
        for context in self.contexts:
            if context in self.separate:
                continue  # others would take its data for that of the usual servers
            context.second_level = second
            context.reads_second_level = reads
        return reads

    def forget(self, name: bytes | None = None, *, subtree: bool = False) -> None:
        """Drop delegations from the delegation cache: all, that of `name`, or also those below it. A flush of the cache
        drops all of them."""
        for delegations in self._all_delegations():
            if name is None:
                delegations.clear()
            elif subtree:
                delegations.forget_below(name)
            else:
                delegations.forget(names.lower(name))

    def forget_learned(self) -> None:
        """Empty what is derived from the cache, for when part of the cache was flushed: delegations, denials, and
        answers for client subnets."""
        for delegations in self._all_delegations():
            delegations.clear()
        self.contexts[0].store.denials.clear()
        if self.subnets is not None:
            self.subnets.cache.clear()
        for context in self.separate:
            context.store.denials.clear()

    def _all_delegations(self) -> list[DelegationCache]:
        return [self.delegations, *(cast(DelegationCache, context.delegations) for context in self.separate)]

    def memory_tables(self) -> list[MemoryTable]:
        """The tables beside the cache's arena that remote parties can fill, with their limits in octets."""
        keys = () if self.validation is None else self.validation.tables
        if self.subnets is not None:
            keys = (*keys, self.subnets.cache, self.subnets.listed)
        store, delegations = self.contexts[0].store, self.delegations
        if not self.separate:
            return [*store.memory_tables(), delegations.delegations, delegations.addresses, *keys]
        return [
            store.servers,
            TableGroup([store.denials, *(context.store.denials for context in self.separate)]),
            TableGroup([one.delegations for one in self._all_delegations()]),
            TableGroup([one.addresses for one in self._all_delegations()]),
            *keys,
        ]
