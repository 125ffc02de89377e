"""Forks of programs: what the child does, and how it ends.

The child has no running loop, and sends nothing. What it does is one of `generate.WAYS`:

    exit     it ends at once
    close    it closes the inherited loop and returns from the callback that forked
    leave    it leaves the run by SystemExit
    new      it closes what it inherited, and runs a new loop
    run      it closes what it inherited, and runs the inherited loop; the same as "new" inside a task
    hold     it ends with the program, and keeps its copies of all descriptors open until then

Of the loop of a child, nothing passes the simulated kernel, so peers do nothing in it.
"""

import asyncio
import os
import signal
import socket
import sys
import traceback
from typing import Any

from simulation.loop.world import World

# A child that has not ended after so many seconds is killed.
SECONDS = 50
# Iterations of the inherited loop, more than any chain of callbacks of what the child has closed.
ITERATIONS = 20


def fork(world: World, name: str, way: str) -> bool:
    """Fork. Returns True in a child that must return from its callback, False in the parent."""
    if world.on_reference and way != "exit":
        # On asyncio's loop the child shares the epoll instance, so what it removes is removed for the parent.
        return False
    if os.getpid() != world.pid:
        # A child that runs the inherited loop does not fork again.
        return False
    ends = socket.socketpair() if way == "hold" else ()
    child = os.fork()
    if child:
        if ends:
            ends[1].close()
            # The peers' descriptors are closed in the child, or it is dead.
            ends[0].recv(1)
            world.held.append((child, ends[0]))
        else:
            ended(world, name, way, child)
        return False
    signal.alarm(SECONDS)
    world.complaints.clear()
    if asyncio._get_running_loop() is not None:
        world.complain("fork", "a loop runs in the child")
    if way == "close":
        world.loop.close()
        return True
    if way == "leave":
        raise SystemExit
    try:
        if ends:
            hold(world, *ends)
        elif way != "exit":
            sys.unraisablehook = lambda what: world.complain("unraisable", repr(what.exc_value))
            give_up(world, runs=way == "run" and asyncio.current_task(world.loop) is None)
    except BaseException:  # noqa: BLE001 - the child must not continue with the program
        world.complain("crash", traceback.format_exc())
    end_child(world)
    return True


def ended(world: World, name: str, way: str, child: int) -> None:
    """Wait for the end of `child`."""
    _, status = os.waitpid(child, 0)
    if status:
        world.complain("fork", f"{name}: the child that does {way} ended with status {status}")


def end_held(world: World) -> None:
    """End the children that hold descriptors."""
    for _, end in world.held:
        end.close()
    for child, _ in world.held:
        ended(world, "held", "hold", child)
    world.held.clear()


def end_child(world: World) -> None:
    """End this child; its status is not 0 when something was wrong in it."""
    if world.complaints:
        print(*world.complaints, sep="\n", file=sys.stderr, flush=True)
    os._exit(bool(world.complaints))


def hold(world: World, theirs: socket.socket, ours: socket.socket) -> None:
    """Wait for the end of the program. The peers belong to the parent alone: it must see what they close."""
    theirs.close()
    for peer in world.peers:
        peer.sock.close()
    ours.send(b"x")
    ours.recv(1)


def give_up(world: World, runs: bool) -> None:
    """Close everything, then run the inherited loop, or a new one."""
    from simulation.loop.play import our_loop

    loop = world.loop
    for part in world.parts:
        part.give_up()
    if runs:
        # What was begun by the parent must not continue on sockets that are the parent's.
        for task in asyncio.all_tasks(loop):
            task.cancel()
        for part in world.parts:
            part.give_up_later()
        for _ in range(ITERATIONS):
            loop.call_soon(loop.stop)
            loop.run_forever()
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        if left:
            world.complain("end", f"tasks that do not end in the child: {left}")
    fresh: Any = our_loop(world)
    try:
        if fresh.run_until_complete(asyncio.sleep(0, 5)) != 5:
            world.complain("fork", "a new loop does not work in the child")
    finally:
        fresh.close()
    loop.close()
