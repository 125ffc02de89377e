from collections.abc import Iterable
from typing import Literal, TypeVar, final

from typing_extensions import Buffer

from corenet.core.views import FrameView

_Payload = TypeVar("_Payload", bound=Buffer)

class FrameError(ValueError): ...

class FrameTooLarge(FrameError):
    frames: list[bytes | FrameView]
    def __init__(self, message: str, frames: list[bytes | FrameView] | tuple[()] = ()) -> None: ...

class IncompleteFrame(FrameError):
    pending: int
    def __init__(self, message: str, pending: int) -> None: ...

class Framer:
    max_frame: int
    views: bool
    def feed(self, data: Buffer) -> list[bytes | FrameView]: ...
    @property
    def pending(self) -> int: ...
    def reset(self) -> None: ...
    def leftover(self) -> bytes: ...
    def pack(self, payloads: Iterable[Buffer]) -> bytes: ...
    def at_eof(self) -> None: ...

@final
class LengthFramer(Framer):
    prefix: int
    big_endian: bool
    def __init__(
        self,
        prefix: Literal[1, 2, 4, 8] = 4,
        *,
        big_endian: bool = True,
        max_frame: int | None = None,
        views: bool = False,
    ) -> None: ...
    def frame(self, payload: _Payload) -> tuple[bytes, _Payload]: ...

@final
class DelimiterFramer(Framer):
    delimiter: bytes
    def __init__(self, delimiter: Buffer, *, max_frame: int | None = None, views: bool = False) -> None: ...
    def frame(self, payload: _Payload) -> tuple[_Payload, bytes]: ...

@final
class FixedFramer(Framer):
    size: int
    def __init__(self, size: int, *, views: bool = False) -> None: ...
    def frame(self, payload: _Payload) -> tuple[bytes, _Payload]: ...
