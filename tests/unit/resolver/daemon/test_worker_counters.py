"""Counters of what configurations share: each object is counted once, and its counts are kept when it is replaced."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from resolver.daemon.observation import Observation
from resolver.daemon.runtime_config import RuntimeConfig
from resolver.daemon.worker_commands import of_outputs, of_shared
from resolver.net.rate_limit import RateLimits
from resolver.observe.output import Output
from resolver.settings import RateLimitSettings, Settings
from resolver.settings.observe import QueryLogSettings
from resolver.zones import ZoneTable


class Rates:
    """The statistics of a table that has counted `count`."""

    def __init__(self, buckets: object, count: int) -> None:
        self.buckets = buckets
        self.count = count

    def statistics(self) -> dict[str, Any]:
        return {"buckets_evicted": self.count}


def join(outputs: list[Output]) -> None:
    for output in outputs:
        output.join()


def runtime(rates: object, observation: Observation) -> RuntimeConfig:
    return cast("RuntimeConfig", SimpleNamespace(rates=rates, observation=observation))


@pytest.mark.parametrize("entries", [1024, 100_000])
def test_a_table_of_rates_is_counted_once(entries: int) -> None:
    nothing = Observation(Settings(), ZoneTable())
    tables = [RateLimits(RateLimitSettings(table_entries=1024))]
    tables.append(RateLimits(RateLimitSettings(table_entries=entries), buckets=tables[0].buckets))
    same = tables[0].buckets is tables[1].buckets
    assert same is (entries == 1024)
    old, new = (runtime(Rates(one.buckets, count), nothing) for one, count in zip(tables, (5, 5 if same else 2),
                                                                                  strict=True))
    assert of_shared((new, old), ()) == {"rate_limit": {"buckets_evicted": 5 if same else 7}}
    assert of_shared((old,), (new,)) == ({} if same else {"rate_limit": {"buckets_evicted": 5}})


def test_an_output_is_counted_once(tmp_path: Path) -> None:
    def made(file: str, before: Observation | None) -> Observation:
        return Observation(Settings(query_log=QueryLogSettings(file=str(tmp_path / file))), ZoneTable(), before)

    first = made("one", None)
    second = made("one", first)
    third = made("two", second)
    assert first.log is second.log is not third.log
    assert first.log is not None and third.log is not None
    first.log.pieces.add(b"a\n")
    third.log.pieces.add(b"b\n")
    outputs = [output for one in (third, second, first) for output in one.outputs]
    assert of_outputs(outputs)["query_log"]["records"] == 2
    join(first.close(second))
    join(second.close(third))
    join(third.close())
