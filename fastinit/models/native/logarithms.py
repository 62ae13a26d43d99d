"""Logarithms of fresh draws that can be 0, which code takes of them while a model initializes.

Owns one remark, which no law can make afterwards, as the values are then known and not what they
came from. Must not change what runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fastinit.initializers import Uniform
from fastinit.models.native.recording import Recorder

_LOGARITHMS = frozenset(
    getattr(torch.ops.aten, name)
    for base in ("log", "log2", "log10")
    for name in (base, f"{base}_")
)
_UNIFORM = Uniform(0, 1).law((1,))


class Logarithms:
    """Notes logarithms of uniform draws from an interval that holds 0.

    Seen in OLMo-core, whose A_log was the logarithm of U(0, 16): -inf once in 2^24 values. Where
    mamba_ssm draws it, the interval has to begin above 0.

    Args:
        recorder: what knows of a tensor that a draw of it waits.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.remarks: list[str] = []

    def __call__(self, func: Any, args: Sequence[Any]) -> None:
        """An operator is about to read its arguments."""
        if func.overloadpacket in _LOGARITHMS:
            self._look(args[0])

    def _look(self, tensor: torch.Tensor) -> None:
        laws = [record.fill[0] for record in self._recorder.records(tensor) if record.fill]
        assert _UNIFORM is not None
        for law in laws[-1:]:
            if law.distribution == _UNIFORM.distribution and law.low <= 0.0 <= law.high:
                remark = (
                    f"{self._recorder.module or 'the model'} takes the logarithm of values drawn "
                    f"from {law.low:g} to {law.high:g}: that of 0 is -inf; begin above 0"
                )
                self.remarks += [remark] if remark not in self.remarks else []
