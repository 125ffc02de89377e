"""The figures in the README: always from one run (`make figures`).

`make figures` runs every benchmark and then this script, which stores the rows below in `figures.json` and generates
the README's tables from that file. A test compares the two, so the tables cannot be edited by hand. Rows of different
runs are never mixed: when a row is missing, nothing is written.
"""

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
RECORD = HERE / "figures.json"
MEASURED = HERE.parent / "build" / "benchmarks.json"
BEGIN, END = "<!-- made by make figures -->\n", "<!-- end -->\n"

LOOP = {
    "call_soon/uvloop": "call_soon, many in one iteration",
    "call_soon_chain/uvloop": "call_soon, one in each iteration",
    "sleep0/uvloop": "sleep(0)",
    "future/uvloop": "future",
    "timers_cancelled/uvloop": "timers set and cancelled",
    "tcp_echo_1k/uvloop": "TCP echo, 1 KiB, 10 connections, Protocol",
    "buffered_1k/uvloop": "the same, BufferedProtocol",
    "sock_1k/uvloop": "sock_recv and sock_sendall, 1 KiB",
    "connections/uvloop": "connections accepted and closed, 50 at a time",
    "udp_echo_1k/uvloop": "UDP echo, 1 KiB, 8 in flight",
    "small_writes/uvloop": "many small writes in one callback",
    "streams_1k/uvloop": "the same server on corenet's own streams, asyncio's on uvloop, 1 KiB",
    "frames_echo_64/readexactly": "64-byte messages echoed: FramedProtocol against readexactly",
    "frames_receive_64/readexactly": "64-byte messages received: FramedProtocol against readexactly",
}
RESOLVER = {
    "hit_udp/unbound": "cached answer, UDP",
    "cold_name/unbound": "cold query, new name",
    "cold_name_validated/unbound": "cold query, new name, validating",
    "cold_zone/unbound": "cold query, new zone",
    "cold_zone_validated/unbound": "cold query, new zone, validating",
    "cold_nxdomain/unbound": "cold NXDOMAIN in a known zone",
}
ROWS = LOOP | RESOLVER


def taken(measured: dict[str, dict[str, float]]) -> dict[str, object]:
    """The part of a run that is stored: for each row the CPU time of the peer divided by ours."""
    if missing := sorted(ROWS.keys() - measured.keys()):
        raise SystemExit(f"not measured in the last run: {', '.join(missing)}")
    rows = {}
    for name in ROWS:
        row = measured[name]
        added = row["bare_us"] > 0
        rows[name] = {
            "cpu": round(row["base_us"] / row["ours_us"] if added else row["ratio"], 2),
            "added": round(row["ratio"], 1) if added else None,
        }
    return {"rows": rows}


def surroundings() -> dict[str, str]:
    """Date and machine of the run."""
    unbound = subprocess.run(["unbound", "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    return {
        "date": datetime.date.today().isoformat(),
        "on": f"{os.cpu_count()} cores, Linux {'.'.join(platform.release().split('.')[:2])}, "
              f"CPython {'.'.join(platform.python_version_tuple()[:2])}",
        "uvloop": version("uvloop"),
        "unbound": unbound,
    }


def tables(record: dict) -> str:
    """Return the README's tables."""
    lines = [f"Measured on {record['date']}: {record['on']}."]
    for title, rows in (
        (f"corenet.Loop against uvloop {record['uvloop']}", LOOP),
        (f"resolverd, one worker, against Unbound {record['unbound']}", RESOLVER),
    ):
        kept = [(label, record["rows"][name]) for name, label in rows.items()]
        extra = any(row["added"] is not None for _, row in kept)
        lines += ["", f"| {title} | CPU, peer / ours |{' added to C, peer / ours |' if extra else ''}",
                  f"|---|---|{'---|' if extra else ''}"]
        for label, row in kept:
            added = "" if row["added"] is None else f"{row['added']:.1f}"
            lines.append(f"| {label} | {row['cpu']:.2f} |" + (f" {added} |" if extra else ""))
    return "\n".join(lines) + "\n"


def written(readme: str, record: dict) -> str:
    """Return the README with these tables between its two markers."""
    return re.sub(f"(?<={BEGIN}).*(?={END})", lambda _: tables(record), readme, count=1, flags=re.DOTALL)


def main() -> None:
    """Store and print the figures of the last run."""
    record = surroundings() | taken(json.loads(MEASURED.read_text(encoding="utf-8")))
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    README.write_text(written(README.read_text(encoding="utf-8"), record), encoding="utf-8")
    print(tables(record), end="")


if __name__ == "__main__":
    sys.exit(main())
