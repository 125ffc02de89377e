"""dig, kdig and drill as clients: one query each, and their printed answers parsed into comparable values.

These programs are independent of ours, so what they accept as a DNS message is evidence. Their output is converted to
one form (`Seen`) with rdata in wire form, because each of them prints rarer types differently.
"""

import re
import subprocess
from dataclasses import dataclass

from support.servers import program

from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present

__all__ = ["TOOLS", "Record", "Seen", "look_up"]

TOOLS = ("dig", "kdig", "drill")
SECONDS = 60
TIMEOUT = 15  # longer than either subject takes for anything asked here
Record = tuple[bytes, int, bytes]
STATUS = re.compile(r"(?:status|rcode): (\w+)")
FLAGS = re.compile(r";;? ?[Ff]lags: ?([a-z ]*)")


@dataclass(frozen=True)
class Seen:
    """What a tool showed: the response code, the flags, and the answer section as a set of (owner, type, rdata)."""

    rcode: str
    flags: frozenset[str]
    answer: frozenset[Record]
    ttls: dict[tuple[bytes, int], int]
    text: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Seen) and (self.rcode, self.answer) == (other.rcode, other.answer)

    __hash__ = None  # type: ignore[assignment]


def look_up(tool: str, address: str, port: int, qname: str, qtype: str = "A", *, tcp: bool = False) -> Seen:
    """Ask with `tool` ("dig", "kdig" or "drill"); fails with its output when it got no answer."""
    if tool == "drill":
        command = [
            program(tool),
            "-p",
            str(port),
            *(["-t"] if tcp else ["-u"]),
            "-b",
            "1232",
            qname,
            f"@{address}",
            qtype,
        ]
    else:
        options = (
            [f"+time={TIMEOUT}", "+tries=1"] if tool == "dig" else [f"+timeout={TIMEOUT}", "+retry=0", "+noidn"]
        )
        command = [
            program(tool),
            "-p",
            str(port),
            f"@{address}",
            qname,
            "-t",
            qtype,
            *(["+tcp"] if tcp else []),
            *options,
        ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, errors="replace")
    status = STATUS.search(done.stdout)
    if status is None:
        raise AssertionError(f"{' '.join(command)} got no answer:\n{done.stdout}{done.stderr}")
    flags = FLAGS.search(done.stdout)
    answer, ttls = set(), dict[tuple[bytes, int], int]()
    for owner, ttl, rtype, rdata in _answer_lines(done.stdout):
        record = _record(owner, rtype, rdata)
        answer.add(record)
        ttls[record[:2]] = ttl
    words = flags[1].split() if flags else []
    if tool == "drill" and "tc" in words and not tcp:  # the others ask again by themselves
        return look_up(tool, address, port, qname, qtype, tcp=True)
    return Seen(status[1].upper(), frozenset(words), frozenset(answer), ttls, done.stdout)


def _answer_lines(text: str) -> list[tuple[str, int, str, str]]:
    lines, inside = [], False
    for line in text.splitlines():
        if line.startswith(";; ANSWER SECTION"):
            inside = True
        elif not line.strip() or line.startswith(";"):
            inside = False
        elif inside:
            owner, ttl, _, rtype, *rest = line.split(None, 4)
            lines.append((owner, int(ttl), rtype, rest[0] if rest else ""))
    return lines


def _record(owner: str, rtype: str, rdata: str) -> Record:
    number = c.type_from_text(rtype)
    return names.lower(names.from_text(owner)), number, present.rdata_from_text(number, rdata).lower()
