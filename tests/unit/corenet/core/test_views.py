"""FrameView behaves like bytes where possible, never changes, and keeps its memory alive."""

import hashlib
import struct

import pytest

from corenet.core.framer import FixedFramer, LengthFramer
from corenet.core.views import FrameView


def view_of(data: bytes) -> FrameView:
    """A view of `data` after a prefix."""
    (view,) = LengthFramer(4, views=True).feed(struct.pack(">I", len(data)) + data)
    assert isinstance(view, FrameView)
    return view


def test_a_view_behaves_like_bytes() -> None:
    data = b"hello, world"
    view = view_of(data)
    assert (len(view), view[0], view[-1], list(view)) == (12, ord("h"), ord("d"), list(data))
    assert view == data and data == view and view == bytearray(data) and view == view_of(data)
    assert view != data[1:] and view != 5 and not view == "hello, world"
    assert hash(view) == hash(data) and {view: 1}[data] == 1
    assert b"lo, w" in view and ord("h") in view and b"x" not in view
    assert (bytes(view), view.tobytes(), view.decode()) == (data, data, data.decode())
    assert bool(view) and not view_of(b"")
    for index in (12, -13):
        with pytest.raises(IndexError):
            view[index]
    with pytest.raises(TypeError):
        view["x"]  # type: ignore[call-overload]
    with pytest.raises(UnicodeDecodeError):
        view_of(b"\xff").decode()
    assert view_of(b"\xff").decode("latin-1") == "\xff"


@pytest.mark.parametrize("index", [slice(None), slice(2, 5), slice(-3, None), slice(5, 2), slice(None, None, 2),
                                   slice(None, None, -1), slice(90, 99)])
def test_slices_are_views(index: slice) -> None:
    data = b"hello, world"
    part = view_of(data)[index]
    assert type(part) is FrameView
    assert part == data[index]


def test_the_buffer_is_read_only() -> None:
    view = view_of(b"abcd")
    window = memoryview(view)
    assert window.readonly and bytes(window) == b"abcd"
    assert hashlib.sha256(view).digest() == hashlib.sha256(b"abcd").digest()
    assert struct.unpack_from(">H", view, 2) == (0x6364,)
    with pytest.raises(TypeError):
        window[0] = 1
    with pytest.raises(TypeError):
        view[0] = 1  # type: ignore[index]


def test_a_buffer_outlives_its_view() -> None:
    window = memoryview(view_of(b"abcd" * 1000))
    assert bytes(window) == b"abcd" * 1000


def test_a_view_keeps_its_memory_alive() -> None:
    data = bytes(1000)
    first, second = FixedFramer(500, views=True).feed(data)
    assert isinstance(first, FrameView) and isinstance(second, FrameView)
    assert first.pinned_bytes == second.pinned_bytes == first[1:2].pinned_bytes == 1000


def test_a_view_cannot_be_created_directly() -> None:
    with pytest.raises(TypeError, match="made by a framer"):
        FrameView()


def test_repr() -> None:
    assert repr(view_of(b"abc")) == "<FrameView 3 bytes b'abc'>"
    assert repr(view_of(bytes(100))).endswith("...>")
