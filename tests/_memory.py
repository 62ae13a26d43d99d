"""How much more memory this process came to hold, at its most."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_STATUS = Path("/proc/self/status")


class Growth:
    bytes = 0


@contextmanager
def growth() -> Iterator[Growth]:
    """Notes at the end by how much the memory in use rose above that at the beginning.

    The kernel's high-water mark is set back first, or what was held before would hide all of it;
    and getrusage gives a new process that of its parent.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        pytest.skip(f"the peak of memory cannot be measured: {error}")
    before, found = _held("VmRSS"), Growth()
    yield found
    found.bytes = _held("VmHWM") - before


def _held(field: str) -> int:
    line = re.search(rf"{field}:\s*(\d+) kB", _STATUS.read_text())
    assert line is not None
    return int(line[1]) * 1024
