"""The buffer pool keeps its promises: explicit ownership, no memory reuse under a view, a bound that holds.

Every test makes a pool of its own with small slabs, so that reuse happens after a few chunks and not after megabytes.
"""

import gc

import pytest

from corenet.core.buffers import BufferPool, Chunk, PoolExhausted, live_objects


def test_a_chunk_is_writable_memory_of_the_size_asked() -> None:
    chunk = BufferPool(4096, 2).take(100)
    view = memoryview(chunk)
    view[:5] = b"hello"
    assert len(chunk) == 100 and view.nbytes == 100
    assert bytes(chunk)[:5] == b"hello"


def test_chunks_do_not_overlap() -> None:
    pool = BufferPool(4096, 2)
    chunks = [pool.take(size) for size in (1, 15, 16, 17, 100)]
    for number, chunk in enumerate(chunks):
        memoryview(chunk)[:] = bytes([number]) * len(chunk)
    for number, chunk in enumerate(chunks):
        assert bytes(chunk) == bytes([number]) * len(chunk)


def test_double_release_is_an_error_with_words() -> None:
    chunk = BufferPool(4096, 1).take(10)
    chunk.release()
    with pytest.raises(BufferError, match="released already"):
        chunk.release()
    with pytest.raises(BufferError, match="released"):
        chunk.retain()
    with pytest.raises(BufferError, match="released"):
        memoryview(chunk)
    with pytest.raises(BufferError, match="released"):
        chunk.slice(0, 1)


def test_retain_asks_for_one_more_release() -> None:
    chunk = BufferPool(4096, 1).take(10)
    assert chunk.retain() is chunk
    chunk.release()
    assert chunk.holders == 1
    chunk.release()
    assert chunk.holders == 0


def test_an_exported_chunk_refuses_its_last_release() -> None:
    chunk = BufferPool(4096, 1).take(10)
    view = memoryview(chunk)
    with pytest.raises(BufferError, match="exported 1 times"):
        chunk.release()
    assert chunk.holders == 1
    view.release()
    chunk.release()


def test_a_slice_shares_memory_and_outlives_its_parent() -> None:
    pool = BufferPool(4096, 1)
    whole = pool.take(10)
    memoryview(whole)[:] = b"0123456789"
    part = whole.slice(2, 5)
    memoryview(part)[0] = ord("X")
    assert bytes(whole) == b"01X3456789"
    whole.release()
    again = pool.take(4000)
    memoryview(again)[:] = b"\0" * 4000
    assert bytes(part) == b"X34"


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 3), (4, 3), (0, 11)])
def test_a_slice_outside_the_chunk_is_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="does not lie inside"):
        BufferPool(4096, 1).take(10).slice(start, stop)


def test_the_pool_is_bounded_and_recovers() -> None:
    pool = BufferPool(4096, 2)
    first, second = pool.take(4096), pool.take(4096)
    with pytest.raises(PoolExhausted, match="all 2 slabs"):
        pool.take(1)
    first.release()
    third = pool.take(4096)
    assert pool.statistics == {"slabs": 2, "free": 0, "chunks": 2, "forgotten": 0}
    second.release()
    third.release()
    assert pool.statistics["chunks"] == 0


@pytest.mark.parametrize("size", [0, -1, 4097])
def test_sizes_that_no_slab_can_hold_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"outside 1\.\.4096"):
        BufferPool(4096, 1).take(size)


def test_memory_is_used_again_when_the_last_chunk_of_a_slab_goes() -> None:
    pool = BufferPool(4096, 1)
    for _ in range(100):
        chunks = [pool.take(1000) for _ in range(4)]
        for chunk in chunks:
            chunk.release()
    assert pool.statistics["slabs"] == 1


def test_a_collected_chunk_gives_its_memory_back_and_is_counted() -> None:
    pool = BufferPool(4096, 1)
    pool.take(4096)
    gc.collect()
    assert pool.statistics["forgotten"] == 1
    pool.take(4096).release()


def test_trim_returns_the_tail_to_the_slab() -> None:
    pool = BufferPool(4096, 1)
    kept = pool.take(16)
    chunk = pool.take(4080)
    memoryview(chunk)[:4] = b"data"
    chunk.trim(4)
    assert bytes(chunk) == b"data"
    rest = pool.take(4064)
    memoryview(rest)[:] = b"\xff" * 4064
    assert bytes(chunk) == b"data" and len(kept) == 16


def test_trim_never_returns_a_tail_that_a_slice_still_sees() -> None:
    pool = BufferPool(4096, 1)
    chunk = pool.take(4096)
    tail = chunk.slice(4000, 4096)
    chunk.trim(1)
    with pytest.raises(PoolExhausted):
        pool.take(16)
    assert len(tail) == 96


def test_an_exported_chunk_cannot_be_trimmed() -> None:
    chunk = BufferPool(4096, 1).take(10)
    with memoryview(chunk), pytest.raises(BufferError, match="cannot change its length"):
        chunk.trim(5)
    with pytest.raises(ValueError, match="outside"):
        chunk.trim(11)


def test_shrink_gives_unused_slabs_back() -> None:
    pool = BufferPool(4096, 3)
    chunks = [pool.take(4096) for _ in range(3)]
    for chunk in chunks:
        chunk.release()
    assert pool.shrink() == 2 * 4096
    assert [len(pool.take(4096)) for _ in range(3)] == [4096] * 3


def test_limits_and_construction_are_checked() -> None:
    with pytest.raises(ValueError, match="BufferPool slab:"):
        BufferPool(1)
    with pytest.raises(ValueError, match="BufferPool slabs:"):
        BufferPool(4096, 0)
    with pytest.raises(TypeError, match="made by"):
        Chunk()


def test_live_objects_follow_the_chunks_in_the_debug_build() -> None:
    before = live_objects()
    pool = BufferPool(4096, 1)
    chunk = pool.take(1)
    during = live_objects()
    chunk.release()
    del pool, chunk
    if not before:
        assert during == {}
    else:
        assert during["chunks"] == before["chunks"] + 1 and during["pools"] == before["pools"] + 1
        assert live_objects() == before
