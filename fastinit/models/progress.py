"""Long work: its progress, on standard error, the parts that it is cut into, and its interruption.

Owns when a bar is shown and what it looks like, and that an interrupt waits until tensors are
whole. Must not know what the work is.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TypeAlias, TypeVar

Progress: TypeAlias = bool | Callable[[int, int], object] | None

_T = TypeVar("_T")
_LONG = 1 << 30  # bytes, from which on a bar is shown unasked
_PARTS = 50


def in_parts(
    work: Sequence[_T], size_of: Callable[[_T], int], progress: Progress
) -> Iterator[Sequence[_T]]:
    """The work, in one part if nobody watches, and otherwise in some fifty.

    Args:
        work: whatever is to be done.
        size_of: tells the bytes of an item.
        progress: a function of (bytes done, bytes in all), True for a bar, False for none; None
            shows a bar on a terminal if there is much to do.
    """
    watched = sys.stderr.isatty() if progress is None else bool(progress)
    sizes = [size_of(item) for item in work] if watched else []
    total = sum(sizes)
    if not watched or (progress is None and total < _LONG):
        yield work
        return
    tell = progress if callable(progress) else _bar
    begin, part, done = 0, 0, 0
    tell(0, total)
    for i, size in enumerate(sizes):
        part += size
        if part * _PARTS >= total or i == len(work) - 1:
            yield work[begin : i + 1]
            done += part
            begin, part = i + 1, 0
            tell(done, total)


_began = 0.0


def _bar(done: int, total: int) -> None:
    global _began
    if done == 0:
        _began = time.monotonic()
    width = 30 * done // max(total, 1)
    took = time.monotonic() - _began
    text = (
        f"\rinitializing [{'#' * width:30}] {done / 1e9:.1f} / {total / 1e9:.1f} GB, {took:.0f} s"
    )
    sys.stderr.write(text + ("\n" if done >= total else ""))
    sys.stderr.flush()


@contextmanager
def whole() -> Iterator[None]:
    """Have an interrupt wait for the end of the block; a second one does not wait.

    A fill is one call into compiled code, which cannot be interrupted anyway; but between two calls
    a tensor may be half done.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    waiting: list[tuple[int, FrameType | None]] = []

    def note(number: int, frame: FrameType | None) -> None:
        if waiting:
            before(number, frame)
        waiting.append((number, frame))

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if waiting:
            before(*waiting[0])
