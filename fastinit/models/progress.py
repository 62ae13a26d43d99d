"""Progress of long work, on standard error, and the cutting of work into parts that tell it.

Owns when a bar is shown and what it looks like. Must not know what the work is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, TypeVar

Progress: TypeAlias = bool | Callable[[int, int], object] | None

_T = TypeVar("_T")
_LONG = 1 << 30  # bytes, from which on a bar is shown unasked
_PARTS = 50


def in_parts(
    work: Sequence[_T], sizes: Sequence[int], progress: Progress
) -> Iterator[Sequence[_T]]:
    """The work, in one part if nobody watches, and otherwise in some fifty.

    Args:
        work: whatever is to be done.
        sizes: of each item, in bytes.
        progress: a function of (bytes done, bytes in all), True for a bar, False for none; None
            shows a bar on a terminal if there is much to do.
    """
    total = sum(sizes)
    if progress is None:
        progress = total >= _LONG and sys.stderr.isatty()
    if not progress:
        yield work
        return
    tell = _bar if progress is True else progress
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
