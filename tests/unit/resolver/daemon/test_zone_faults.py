"""What goes wrong in one zone costs that zone only; no NOTIFY is lost; a file that is no regular one blocks nothing."""

import asyncio
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.zone_versions import ORIGIN, version

from resolver import limits
from resolver.daemon import zone_keeper
from resolver.daemon.zone_keeper import ZoneKeeper
from resolver.net.zone_client import Fetched, ZoneClient
from resolver.settings import Settings, ZoneSettings, ZonesSettings
from resolver.wire import name as names
from resolver.wire import present
from resolver.zones import Mode, ServedZone, ZoneTable
from resolver.zones.journal import content_block
from resolver.zones.load import ZoneFileError, read_zone

NOW = 1_800_000_000
TEXT = "$TTL 300\n@ SOA ns host 7 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\n"
LOC = "52 22 23.000 N 4 53 32.000 E 99999999999m"  # the altitude has 32 bits (RFC 1876 section 2)
OTHER = names.from_text("other.test.")


def keeper_of(tmp_path: Path, *zones: ZoneSettings) -> ZoneKeeper:
    settings = Settings(zones=ZonesSettings(directory=str(tmp_path)), zone=zones)
    table = ZoneTable([ServedZone(names.from_text(zone.name), Mode.AUTHORITATIVE) for zone in zones], lambda: NOW)
    return ZoneKeeper(settings, table, None, leads=True, now=lambda: NOW, changed=lambda _: None,
                      flush=lambda _: None, directory=tmp_path)


async def reload(keeper: ZoneKeeper, tmp_path: Path) -> ZoneKeeper:
    """What a reload of the configuration does: a new keeper takes over, and the old one stops."""
    later = keeper_of(tmp_path, SECONDARY)
    later.carry_over(keeper)
    keeper.stop()
    await later.start()
    return later


def own(tmp_path: Path, name: str, text: str) -> ZoneSettings:
    file = tmp_path / name
    file.write_text(text)
    return ZoneSettings(name=name, file=str(file))


# --- records without a wire form ------------------------------------------------------------------------------------


def test_a_record_that_has_no_wire_form_is_an_error_of_its_line() -> None:
    with pytest.raises(ZoneFileError, match=r"^zone:5: .*not fit into its field"):
        read_zone(io.StringIO(f"{TEXT}@ LOC {LOC}\n"), "zone", ORIGIN)
    with pytest.raises(ValueError, match=r"<text>:2: .*not fit into its field"):
        present.zone_from_text(f"@ 60 A 192.0.2.1\n@ 60 LOC {LOC}\n", ORIGIN)
    with pytest.raises(ValueError, match="not fit into its field"):
        present.rdata_from_text(29, LOC)


@pytest.mark.parametrize("line", [
    "@ A 192.0.2.x", "@ A 192.0.2.x ; a comment", "@ A", "@ A 192.0.2.1 more", "@ A ( 192.0.2.x", "@ NONE x",
    "@ MX x y", '@ TXT "open', "a..b A 192.0.2.1", "@ CNAME a", f"@ LOC {LOC}",
])
@pytest.mark.parametrize("behind", ["", "\n", "\n@ A 192.0.2.2\n", "\n\n\n; the end\n"])
def test_an_error_names_its_line(line: str, behind: str) -> None:
    with pytest.raises(ZoneFileError, match=r"^zone:5: "):
        read_zone(io.StringIO(f"{TEXT}{line}{behind}"), "zone", ORIGIN)


def test_an_error_in_an_included_file_names_that_file(tmp_path: Path) -> None:
    for number, (line, said) in enumerate((
        ("@ A 192.0.2.x", "malformed"), (f"@ LOC {LOC}", "not fit into its field"), ("b 300 IN A 192.0.2.1 x", "EOL"),
        ("\xff", "not UTF-8 text"),
    )):
        file = tmp_path / f"{number}.part"
        file.write_bytes(b"a A 192.0.2.1\n" + line.encode("latin-1") + b"\n")
        with pytest.raises(ZoneFileError, match=rf"{number}\.part:.*{said}"):
            read_zone(io.StringIO(f"{TEXT}$INCLUDE {file}\n"), "zone", ORIGIN)


@pytest.mark.parametrize(("make", "kind"), [(os.mkdir, "a directory"), (os.mkfifo, "a FIFO"), (None, "a device")])
@pytest.mark.parametrize("nested", [False, True])
def test_what_is_included_is_a_regular_file(
    tmp_path: Path, make: "Callable[[Path], None] | None", kind: str, *, nested: bool
) -> None:
    """Opening a FIFO would wait for a writer, and a device may have no end."""
    file = Path("/dev/zero") if make is None else tmp_path / "other"
    if make is not None:
        make(file)
    text = f'a TXT $INCLUDE "{file}"\n$include "{file}"\n'
    if nested:
        (tmp_path / "part").write_text(text)
        text = f"{TEXT}$INCLUDE {tmp_path}/part\n"
    else:
        text = TEXT + text
    with pytest.raises(ZoneFileError, match=rf":\d+: \$INCLUDE {file}: it is {kind}"):
        read_zone(io.StringIO(text), "zone", ORIGIN)


def test_a_zone_file_that_is_no_text_says_so(tmp_path: Path) -> None:
    file = tmp_path / "zone"
    file.write_bytes(b"\xff\xfe" * 100)
    with file.open(encoding="utf-8") as opened, pytest.raises(ZoneFileError, match="it is not UTF-8 text"):
        read_zone(opened, "zone", ORIGIN)


# --- faults ---------------------------------------------------------------------------------------------------------


def test_a_fault_in_one_zone_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = zone_keeper.read_zone_file

    def read(settings: ZoneSettings, is_wanted: Callable[[bool], bool]) -> Any:
        return 1 // 0 if settings.name == "e.test." else real(settings, is_wanted)

    monkeypatch.setattr(zone_keeper, "read_zone_file", read)

    async def main() -> None:
        keeper = keeper_of(tmp_path, own(tmp_path, "e.test.", TEXT), own(tmp_path, "other.test.", TEXT))
        await keeper.start()
        keeper.stop()
        assert [one["serial"] for one in keeper.describe()] == [None, 7]
        [problem] = keeper.problems()
        assert "unexpected ZeroDivisionError" in problem and "this is a bug" in problem

    asyncio.run(main())
    assert any(record.exc_info and "while reading it" in record.message for record in caplog.records)


class Primary:
    """Gives one version after the other; each waits for a step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.serials: list[int | Exception] = []
        self.begun: asyncio.Queue[int] = asyncio.Queue()
        self.steps: asyncio.Queue[None] = asyncio.Queue()
        self.number = 0

        async def fetch(_: ZoneClient, *__: object) -> Fetched:
            self.number += 1
            number = self.number
            self.begun.put_nowait(number)
            await self.steps.get()
            return Fetched(number, version(number, 2), [], 100)

        monkeypatch.setattr(ZoneClient, "fetch", fetch)

    async def step(self, number: int) -> None:
        """The fetch of that number begins and ends."""
        assert await self.begun.get() == number
        self.steps.put_nowait(None)


SECONDARY = ZoneSettings(name="e.test.", primaries=("192.0.2.1",))


def test_a_fault_while_refreshing_is_a_failure_of_that_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed = asyncio.Event()

    async def fetch(_: ZoneClient, *__: object) -> Fetched:
        failed.set()
        raise ZeroDivisionError("division")

    monkeypatch.setattr(ZoneClient, "fetch", fetch)

    async def main() -> None:
        keeper = keeper_of(tmp_path, SECONDARY)
        await keeper.start()
        async with asyncio.timeout(30):
            await failed.wait()
            while keeper.describe()[0]["state"] != "failed":
                await asyncio.sleep(0)
        assert keeper.describe()[0]["next_refresh"] is not None
        keeper.stop()

    asyncio.run(main())
    assert any(record.exc_info and "while refreshing it" in record.message for record in caplog.records)


# --- NOTIFY ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reloaded", [False, True])
def test_a_notify_that_comes_too_soon_begins_a_refresh_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reloaded: bool
) -> None:
    """It comes while the refresh runs that the NOTIFY before it has begun, so the version may be newer than that."""
    monkeypatch.setattr(limits, "ZONE_NOTIFY_INTERVAL", 50)
    primary = Primary(monkeypatch)

    async def main() -> None:
        keeper = keeper_of(tmp_path, SECONDARY)
        await keeper.start()
        async with asyncio.timeout(30):
            await primary.step(1)
            while keeper.describe()[0]["serial"] != 1:
                await asyncio.sleep(0)
            keeper.take_notify(ORIGIN)
            assert await primary.begun.get() == 2
            keeper.take_notify(ORIGIN)
            if reloaded:
                keeper = await reload(keeper, tmp_path)
            else:
                primary.steps.put_nowait(None)
            await primary.step(3)
            while keeper.describe()[0]["serial"] != 3:
                await asyncio.sleep(0)
        assert keeper.statistics()["transfer_failures"] == 0
        keeper.stop()

    asyncio.run(main())


def test_a_reload_during_a_refresh_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    primary = Primary(monkeypatch)

    async def main() -> None:
        keeper = keeper_of(tmp_path, SECONDARY)
        await keeper.start()
        async with asyncio.timeout(30):
            for number in range(1, 4):
                assert await primary.begun.get() == number
                keeper = await reload(keeper, tmp_path)
            await primary.step(4)
            while keeper.describe()[0]["serial"] != 4:
                await asyncio.sleep(0)
            keeper.refresh("e.test.")  # the version is confirmed, so the next refresh is due in an hour
            assert await primary.begun.get() == 5
            keeper = await reload(keeper, tmp_path)
            await primary.step(6)
            while keeper.describe()[0]["serial"] != 6:
                await asyncio.sleep(0)
        keeper.stop()

    asyncio.run(main())


# --- the clock ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reloaded", [False, True])
def test_a_clock_that_was_ahead_delays_no_refresh(tmp_path: Path, reloaded: bool) -> None:
    """The copy was confirmed in the future, by the clock of now."""
    (tmp_path / "e.test.zone").write_bytes(content_block(version(1, 2), NOW + 365 * 86_400))

    async def main() -> None:
        keeper = keeper_of(tmp_path, SECONDARY)
        await keeper.start()
        if reloaded:
            keeper = await reload(keeper, tmp_path)
        [state] = keeper.describe()
        zone = version(1, 2)
        assert (state["serial"], state["age"]) == (1, 0)
        assert state["next_refresh"] <= zone.timers.refresh and state["expires"] <= zone.timers.expire
        keeper.stop()

    asyncio.run(main())


# --- files that block -----------------------------------------------------------------------------------------------


def test_a_fifo_in_the_place_of_a_zone_file_blocks_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    async def main() -> None:
        keeper = keeper_of(tmp_path, ZoneSettings(name="e.test.", file=str(tmp_path / "fifo")),
                           own(tmp_path, "other.test.", TEXT))
        async with asyncio.timeout(30):
            await keeper.start()
        keeper.stop()
        assert keeper.describe()[1]["serial"] == 7
        [problem] = keeper.problems()
        assert "it is a FIFO (named pipe), not a regular file" in problem

    asyncio.run(main())
