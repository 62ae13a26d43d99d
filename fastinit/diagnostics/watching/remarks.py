"""Which of the numbers deserve a warning, and what it says.

Owns the sentences; the thresholds are `limits`'s. Must not know hooks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from torch import nn

from fastinit.diagnostics.limits import DEAD_INPUTS, DEAD_SHARE, DRIFT, SATURATED_SHARE
from fastinit.diagnostics.watching.records import ActivationRecord, ActivationSummary

_NOUNS = {"forward": "variance", "backward": "variance of gradients"}


def remarks(
    summary: ActivationSummary, modules: Mapping[str, nn.Module], inputs: Mapping[str, int]
) -> Iterator[str]:
    """One sentence for each kind of trouble, about the first module that shows it.

    Args:
        summary: of a monitor.
        modules: those watched, by name.
        inputs: values of each of their units.
    """
    forward = [r for r in summary if r.direction == "forward"]
    kinds: list[tuple[str, Callable[[ActivationRecord], bool]]] = [
        ("{r.nonfinite} of {r.count} activations are nan or infinite", lambda r: r.nonfinite > 0),
        (
            "{r.dead:.0%} of the units were zero on every input; lower the learning rate, or scale "
            "the weights before it",
            lambda r: r.dead >= DEAD_SHARE and inputs[r.name] >= DEAD_INPUTS,
        ),
        (
            "{r.saturated:.0%} of the activations are saturated; scale the weights before it down",
            lambda r: r.saturated >= SATURATED_SHARE,
        ),
    ]
    for text, holds in kinds:
        found = [r for r in forward if holds(r)]
        if found:
            more = f" (and {len(found) - 1} more modules)" if len(found) > 1 else ""
            yield f"{found[0].name}: {text.format(r=found[0])}{more}"
    yield from _drifts(summary.history, modules)


def _drifts(
    history: tuple[ActivationRecord, ...], modules: Mapping[str, nn.Module]
) -> Iterator[str]:
    """Layers of one class and one shape whose variance changes a hundredfold, in the first step."""
    for direction, noun in _NOUNS.items():
        alike: dict[object, list[ActivationRecord]] = {}
        for r in history:
            weight = getattr(modules[r.name], "weight", None)
            if r.step == history[0].step and r.direction == direction and weight is not None:
                kind = (type(modules[r.name]), tuple(weight.shape))
                alike.setdefault(kind, []).append(r)
        for records in alike.values():
            first, last = records[0], records[-1]
            ratio = (last.std / first.std) ** 2 if first.std else math.nan
            if len(records) > 2 and (ratio > DRIFT or ratio < 1 / DRIFT):
                yield (
                    f"the {noun} changes by a factor of {ratio:.2g} from {first.name} to "
                    f"{last.name}; set the gain of the activation (fastinit.gain), or call "
                    "fastinit.calibrate_"
                )
                break
