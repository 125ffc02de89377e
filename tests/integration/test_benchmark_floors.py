"""What the benchmarks hold their figures against: the server in C, and the floor that is moved by what it costs.

The rule for the move: the kernel's part is in all three figures, so a dearer kernel moves the floor towards 1, a
cheaper one away from it, and neither changes what is asked of the code.
"""

import math
import shutil
import socket

import loop_servers
import pytest
from ratio import floor_here

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (Debian package build-essential)")


@pytest.mark.parametrize("kernel", [0.0, 1.0, 10.0])
def test_floor_moves_with_the_kernel_alone(kernel):
    base, ours, bare = (kernel + own for own in (4.5, 2.5, 0.5))
    assert floor_here(above_bare=2.0, bare=base / bare) == pytest.approx(base / ours)


@pytest.mark.parametrize("bare", [0.9, 1.0])
def test_no_floor_is_moved_by_a_bare_server_that_is_not_cheaper(bare):
    assert floor_here(above_bare=2.0, bare=bare) == math.inf


@needs_compiler
def test_bare_server_echoes():
    message = bytes(range(256)) * 4096
    with loop_servers.server(loop_servers.BARE, "protocol") as (_, port):
        socks = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(3)]
        for sock in socks:
            with sock:
                for at in range(0, len(message), 65_536):
                    sock.sendall(message[at:at + 65_536])
                    got = b""
                    while len(got) < 65_536:
                        got += sock.recv(65_536 - len(got))
                    assert got == message[at:at + 65_536]


@needs_compiler
@pytest.mark.parametrize("step", [1, 3, 7, 1000])
def test_bare_server_answers_the_frames_that_ask(step):
    """However the bytes are cut: lengths and first bytes may arrive in pieces."""
    bodies = (b"\0" * 9, b"\1" * 5, b"\0", b"\1", b"\0\1" * 40, b"\1\0")
    frames = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    with (
        loop_servers.server(loop_servers.BARE, "frames_receive") as (_, port),
        socket.create_connection(("127.0.0.1", port), timeout=30) as sock,
    ):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(frames), step):
            sock.sendall(frames[at:at + step])
        sock.shutdown(socket.SHUT_WR)
        got = b""
        while piece := sock.recv(4096):
            got += piece
    assert got == bytes(4) * 3
