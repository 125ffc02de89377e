"""Makes a program from a seed: a dictionary of JSON values that can be printed, replayed and shrunk.

Sizes, triggers and faults are drawn so that small values are common and every combination is possible. The kernel and
the peers have their own generators, made from the same seed. Scripts, triggers and actions are defined in `ends`,
`frames`, `packets` and `talkers`; docs/simulation.md describes the kinds. A kind or value that is listed several times
is drawn more often.
"""

import random
from typing import Any

Program = dict[str, Any]

# What the child of a fork does, see `forks`.
WAYS = ("exit", "close", "leave", "new", "run", "hold")

KINDS = (
    "stream", "stream", "stream_server", "sock_methods", "tls", "framed", "datagrams", "pipes", "http_client",
    "unclosed_loop", "dropped_connections",
)  # fmt: skip


def random_size(rng: random.Random) -> int:
    """A number of bytes, mostly small."""
    return rng.choice(
        (1, rng.randrange(1, 100), rng.randrange(1, 100), rng.randrange(100, 5000), rng.randrange(5000, 80000),
         rng.randrange(5000, 80000), 65536, 262144)
    )  # fmt: skip


def random_count(rng: random.Random, most: int) -> int:
    """A count up to `most`, mostly small."""
    return min(rng.randrange(most + 1), rng.randrange(most + 1))


def random_faults(rng: random.Random) -> dict[str, int]:
    """Rates in 1,024 calls by kind of fault."""
    rates = {}
    for name in ("short_read", "short_write", "again_read", "again_write", "interrupted", "late", "spurious", "order"):
        rates[name] = rng.choice((0, 0, 30, 150, 400))
    rates["shortage"] = rng.choice((0,) * 12 + (5, 40))
    return rates


def random_action(rng: random.Random) -> list[Any]:
    """One action of an end of a stream: a method `do_*` of `ends.End` and its arguments."""
    draw = rng.randrange(100)
    form = rng.choice(("bytes", "bytes", "bytearray", "view"))
    if draw < 40:
        return ["write", random_size(rng), form]
    if draw < 50:
        pieces = [rng.choice((0, 1, 50, 3000)) for _ in range(1 + random_count(rng, 6))]
        return ["lines", pieces, form, rng.randrange(8) == 0]
    if draw < 56:
        return ["eof"]
    if draw < 62:
        return ["close"]
    if draw < 64:
        return ["abort"]
    if draw < 70:
        return ["pause"]
    if draw < 76:
        return ["resume"]
    if draw < 82:
        high = rng.choice((0, 10, 1000, 65536))
        return ["limits", high, rng.choice((0, high // 4, high))]
    if draw < 85:
        return ["size"]
    if draw < 89:
        return ["keep"]
    if draw < 91:
        return ["raise"]
    if draw < 94:
        return ["protocol", rng.choice(("plain", "buffered"))]
    if draw < 98:
        return ["sendfile", random_size(rng)]
    return ["fork", rng.choice(WAYS)]


def random_trigger(rng: random.Random) -> str:
    """When a script entry runs (see `ends`)."""
    draw = rng.randrange(12)
    if draw < 3:
        return "made"
    if draw < 6:
        return f"data{1 + random_count(rng, 4)}"
    if draw < 7:
        return "eof"
    if draw < 8:
        return f"pause{1 + random_count(rng, 2)}"
    if draw < 9:
        return f"resume{1 + random_count(rng, 2)}"
    if draw < 11:
        return f"turn{random_count(rng, 12)}"
    return f"at{rng.choice((1, 50, 1000, 1000000))}"


def random_script(rng: random.Random) -> list[list[Any]]:
    """The script of an end of a stream: lists of trigger, place and actions (see `ends`)."""
    script = []
    for _ in range(1 + random_count(rng, 6)):
        place = rng.choice(("now", "now", "soon", "task"))
        script.append([random_trigger(rng), place, *(random_action(rng) for _ in range(1 + random_count(rng, 4)))])
    return script


def random_peer(rng: random.Random) -> list[list[Any]]:
    """The steps of a peer before it reads to the end; "send" and "recv" bytes, "wait" nanoseconds, "idle" polls."""
    script: list[list[Any]] = []
    for _ in range(random_count(rng, 8)):
        draw = rng.randrange(20)
        if draw < 8:
            script.append(["send", random_size(rng)])
        elif draw < 13:
            script.append(["recv", random_size(rng)])
        elif draw < 15:
            script.append(["wait", rng.choice((1000, 60000, 2000000, 10**9))])
        elif draw < 17:
            script.append(["idle", rng.randrange(1, 30)])
        elif draw < 19:
            script.append(["eof"])
            # After a half-close it sends nothing more.
            script += [["recv", random_size(rng)] for _ in range(random_count(rng, 2))]
            break
        else:
            script.append(["close"])
            break
    return script


def stream(rng: random.Random) -> Program:
    """One to three connections, with asyncio protocols at our end."""
    return {
        "ends": [
            {
                "how": rng.choice(("connect", "accept")),
                "protocol": rng.choice(("plain", "plain", "buffered")),
                "sndbuf": rng.choice((0, 0, 4608, 20000)),
                "script": random_script(rng),
                "peer": random_peer(rng),
            }
            for _ in range(1 + random_count(rng, 2))
        ]
    }


def random_coroutine(rng: random.Random) -> dict[str, Any]:
    """The steps of a coroutine and of its peer. `cancels`: iterations of the loop after which it is cancelled."""
    script: list[list[Any]] = []
    for _ in range(random_count(rng, 8)):
        name = rng.choice(
            ("read", "read", "exactly", "until", "write", "write", "both", "both", "drain", "eof", "sleep")
        )
        if name in ("until", "drain", "eof"):
            script.append([name])
        elif name == "sleep":
            script.append([name, rng.choice((0, 1, 1000, 1000000))])
        else:
            script.append([name, random_size(rng)])
    if rng.randrange(6) == 0:
        script.append(["close"])
    return {
        "script": script,
        "cancels": [rng.randrange(1, 40) for _ in range(rng.choice((0, 0, 1, 3)))],
        "forks": [],
        "peer": random_peer(rng),
        "sndbuf": rng.choice((0, 0, 4608, 20000)),
    }


def random_moment(rng: random.Random) -> str:
    """A trigger outside coroutines: an iteration or a time."""
    return rng.choice((f"turn{1 + random_count(rng, 40)}", f"at{rng.choice((1, 50, 1000, 1000000))}"))


def fork_coroutines(rng: random.Random, talkers: list[dict[str, Any]], triggers: tuple[str, ...]) -> None:
    """Let one of four programs of coroutines fork: in a coroutine, in a callback, or when one of `triggers` happens."""
    if rng.randrange(4):
        return
    for _ in range(rng.choice((1, 1, 2))):
        talker = rng.choice(talkers)
        way = rng.choice(WAYS)
        if rng.randrange(2):
            talker["script"].insert(rng.randrange(len(talker["script"]) + 1), ["fork", way])
        else:
            talker["forks"].append([rng.choice((random_moment(rng), random_moment(rng), *triggers)), way])


def stream_server(rng: random.Random) -> Program:
    """A server of streams, asyncio's or ours."""
    program = {
        "streams": rng.choice(("asyncio", "corenet")),
        "limit": rng.choice((1000, 65536)),
        "accept_faults": rng.choice((0, 0, 100, 400)),
        "talkers": [random_coroutine(rng) for _ in range(1 + random_count(rng, 3))],
    }
    fork_coroutines(rng, program["talkers"], ("accept", "begun"))
    return program


def sock_methods(rng: random.Random) -> Program:
    """Coroutines with their own sockets."""
    talkers = [random_coroutine(rng) for _ in range(1 + random_count(rng, 2))]
    fork_coroutines(rng, talkers, ())
    return {"talkers": talkers}


def tls(rng: random.Random) -> Program:
    """Protocols over TLS."""
    program = stream(rng)
    for end in program["ends"]:
        # Over TLS, sendfile reads the file in a thread, and threads cannot be replayed.
        for entry in end["script"]:
            entry[2:] = [action for action in entry[2:] if action[0] != "sendfile"]
        if rng.randrange(3) == 0:
            end["peer"].insert(rng.randrange(len(end["peer"]) + 1), ["hold"])
    return {"tls": True, **program}


def add_fork(rng: random.Random, ends: list[dict[str, Any]]) -> None:
    """Let one of eight programs fork in one of its callbacks."""
    if rng.randrange(8) == 0:
        entry = rng.choice(rng.choice(ends)["script"])
        entry.insert(rng.randrange(2, len(entry) + 1), ["fork", rng.choice(WAYS)])


def random_framed_action(rng: random.Random) -> list[Any]:
    """One action of an end of a framed connection."""
    draw = rng.randrange(20)
    if draw < 6:
        return ["frame", rng.choice((0, 1, 100, 5000, 60000))]
    if draw < 10:
        return ["frames", [rng.choice((0, 1, 100, 5000)) for _ in range(1 + random_count(rng, 5))]]
    if draw < 14:
        return ["pause"]
    if draw < 17:
        return ["resume"]
    if draw < 18:
        return ["keep"]
    successor = ["protocol", rng.choice(("plain", "buffered"))]
    return rng.choice((["close"], ["eof"], ["raise"], ["limits", 100, 10], successor))


def framed(rng: random.Random) -> Program:
    """Frames, plain or over TLS."""
    ends = []
    for _ in range(1 + random_count(rng, 1)):
        script = []
        for _ in range(1 + random_count(rng, 5)):
            trigger = rng.choice(
                ("made", "frames1", "frames1", "frames2", "frames3", "ended", "turn3", "turn9", "at1000")
            )
            place = rng.choice(("now", "now", "soon"))
            script.append([trigger, place, *(random_framed_action(rng) for _ in range(1 + random_count(rng, 3)))])
        peer = random_peer(rng)
        if rng.randrange(2):
            peer.insert(0, ["hold"])
        ends.append(
            {
                "how": rng.choice(("connect", "accept")),
                "prefix": rng.choice((2, 4)),
                "views": rng.choice((False, True)),
                "batch": rng.choice((1, 2, 1000)),
                "frames": [rng.choice((0, 1, 20, 300, 3000, 60000)) for _ in range(1 + random_count(rng, 20))],
                "sndbuf": rng.choice((0, 0, 4608, 20000)),
                "script": script,
                "peer": peer,
            }
        )
    secure = rng.randrange(2) == 0
    for end in ends:
        if not secure:
            # "hold" exists only with TLS.
            end["peer"] = [step for step in end["peer"] if step != ["hold"]]
    add_fork(rng, ends)
    return {"tls": secure, "ends": ends}


def datagrams(rng: random.Random) -> Program:
    """Datagram endpoints."""
    ends = []
    for _ in range(1 + random_count(rng, 1)):
        script = []
        for _ in range(1 + random_count(rng, 5)):
            trigger = rng.choice(("made", "got1", "got2", "got3", "turn2", "turn8", "at1000", "pause1", "resume1"))
            actions: list[list[Any]] = []
            for _ in range(1 + random_count(rng, 3)):
                sizes = [rng.choice((0, 1, 100, 3000, 20000)) for _ in range(1 + random_count(rng, 20))]
                send = ["send", sizes]
                actions.append(rng.choice((send, send, send, ["limits", 100, 10], ["close"])))
            if rng.randrange(20) == 0:
                actions.append(["abort"])
            script.append([trigger, rng.choice(("now", "soon")), *actions])
        peer = []
        for _ in range(random_count(rng, 20)):
            send = ["send", rng.choice((0, 1, 3000, 20000))]
            peer.append(rng.choice((send, ["recv", rng.randrange(1, 9)], ["wait", 5000], ["idle", 1])))
        if rng.randrange(10) == 0:
            peer.append(["close", 0])
        ends.append({"sndbuf": rng.choice((20000, 200000)), "script": script, "peer": peer})
    refused = rng.choice((0, 0, 50))
    add_fork(rng, ends)
    return {"ends": ends, "refused": refused}


def pipes(rng: random.Random) -> Program:
    """Reading and writing ends of pipes."""
    ends = [
        {"how": rng.choice(("read", "write")), "script": random_script(rng), "peer": random_peer(rng)}
        for _ in range(1 + random_count(rng, 2))
    ]
    for end in ends:
        for entry in end["script"]:
            entry[2:] = [action for action in entry[2:] if action[0] not in ("sendfile", "protocol")]
    # Debug mode is off, because in it asyncio calls fileno of pipes that may be closed.
    return {"ends": ends, "debug": False}


def http_client(rng: random.Random) -> Program:
    """Requests of the HTTP client. `after` and `cancel` are microseconds, `sends` and `size` bytes of the bodies.

    `answer` is how the server answers, `waits` whether the body pauses, `stream` how the response is read.
    """
    requests = []
    for _ in range(1 + random_count(rng, 7)):
        requests.append(
            {
                "after": rng.choice((0, 0, 100, 5000, 2000000)),
                "answer": rng.choice(("good", "good", "good", "slow", "early", "cut")),
                "sends": rng.choice((0, 0, 10, 3000, 60000, 250000)),
                "chunked": rng.choice((False, True)),
                "waits": rng.choice((False, True)),
                "size": rng.choice((0, 1, 500, 20000, 200000)),
                "stream": rng.choice(("", "", "pieces", "both")),
                "cancel": rng.choice((0, 0, 0, 0, 10, 1000, 3000000)),
            }
        )
    sndbuf = rng.choice((4608, 20000, 200000))
    forks = []
    if rng.randrange(4) == 0:
        for _ in range(rng.choice((1, 1, 2))):
            point = f"{rng.choice(('step', 'trace'))}{1 + random_count(rng, 30)}"
            forks.append([rng.choice((point, point, random_moment(rng))), rng.choice(WAYS)])
    return {"requests": requests, "sndbuf": sndbuf, "forks": forks}


def dropped_connections(rng: random.Random) -> Program:
    """A server whose connections end in different ways while it lists them. `after` is in units of 10 microseconds."""
    endings = ("drop", "drop", "fault", "peer", "close", "abort", "stay")
    return {
        "clients": [
            {
                "ending": rng.choice(endings),
                "after": rng.randrange(12),
                "socket": rng.randrange(2) == 0,
                "sends": random_size(rng),
            }
            for _ in range(1 + random_count(rng, 9))
        ],
        "last": rng.choice(("close_clients", "abort_clients")),
        "ends": [],
    }


def unclosed_loop(rng: random.Random) -> Program:
    """A loop that runs some iterations and is not closed, with `soon` pending callbacks and `later` timers."""
    return {"soon": rng.randrange(3), "later": rng.randrange(3), "iterations": rng.randrange(3), "ends": []}


MAKERS = {
    "stream": stream, "stream_server": stream_server, "sock_methods": sock_methods, "tls": tls, "framed": framed,
    "datagrams": datagrams, "pipes": pipes, "http_client": http_client, "unclosed_loop": unclosed_loop,
    "dropped_connections": dropped_connections,
}  # fmt: skip


def program(seed: int, kinds: tuple[str, ...] = KINDS) -> Program:
    """The program of `seed`, of one of `kinds`."""
    rng = random.Random(seed)
    kind = kinds[rng.randrange(len(kinds))]
    debug = rng.randrange(12) == 0
    return {"seed": seed, "kind": kind, "debug": debug, "faults": random_faults(rng), **MAKERS[kind](rng)}
