"""Rules that look at the values of parameters and buffers alone.

Each function is one rule, and names where such a mistake was made or the threshold comes from. Must
not run the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fastinit.diagnostics.calibration.layers import Layer, layers
from fastinit.diagnostics.checks.finding import Finding
from fastinit.recipes.names import bare_name

_GARBAGE = 1e4  # no initialization draws such values; memory that nobody wrote holds them
_LARGEST_GAIN = 10.0  # of a layer: its output is that much larger than its input
_MOST_ZERO = 0.5  # of the layers; single ones are zero on purpose (Fixup, ReZero, LoRA, heads)
_SAMPLE = 64  # values by which equal tensors are found before they are compared


def findings(module: nn.Module) -> Iterator[Finding]:
    """What all rules of this file find in a model."""
    found, _ = layers(module)
    yield from _not_finite(module)
    yield from _garbage(module)
    yield from _zeros(found)
    yield from _alike_units(found)
    yield from _alike_layers(found)
    yield from _large(found)
    yield from _padding(module)
    yield from _statistics(module)
    yield from _narrow_frequencies(module)


def _named(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(bare_name(module, name), p) for name, p in module.named_parameters() if p.numel()]


def _first(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} tensors ({names[0]}, ...)"


def _not_finite(module: nn.Module) -> Iterator[Finding]:
    """NaN or infinity in parameters; NaN in buffers, as masks hold infinities on purpose.

    Seen in llm-foundry (issue 1745: the weight of a norm after meta) and OLMo-core (log of 0).
    """
    bad = [n for n, p in _named(module) if p.is_floating_point() and not p.isfinite().all()]
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point() and buffer.isnan().any():
            bad.append(bare_name(module, name))
    if bad:
        yield Finding(
            "error", bad[0], f"{_first(bad)} holds NaN or infinity",
            "initialize it: fastinit.init_(module, seed=...), or materialize_ if it was on meta",
        )  # fmt: skip


def _garbage(module: nn.Module) -> Iterator[Finding]:
    """Memory that nobody wrote, as `to_empty` leaves it. Seen in VeOmni (163), DeepSpeed (2650)."""
    bad = [
        name
        for name, p in _named(module)
        if p.is_floating_point() and p.isfinite().all() and p.detach().abs().max() > _GARBAGE
    ]
    if bad:
        yield Finding(
            "error", bad[0], f"{_first(bad)} holds values beyond {_GARBAGE:g}, as memory does that "
            "nobody wrote",
            "initialize it after to_empty: fastinit.materialize_(module, device, seed=...)",
        )  # fmt: skip


def _zeros(found: list[Layer]) -> Iterator[Finding]:
    """All values zero: of most layers, unwritten memory; of single ones, a choice."""
    zero = [layer.name for layer in found if not layer.weight.detach().any()]
    if len(zero) > _MOST_ZERO * len(found) and len(found) > 1:
        yield Finding(
            "error", zero[0], f"{len(zero)} of {len(found)} layers have weights of zero alone: "
            "neither signals nor gradients pass",
            "initialize them: fastinit.init_(module, seed=...)",
        )  # fmt: skip
    elif zero:
        yield Finding(
            "info", zero[0], f"{_first(zero)} starts at zero",
            "right for what ends a residual branch or the model; else draw it at random",
        )  # fmt: skip


def _alike_units(found: list[Layer]) -> Iterator[Finding]:
    """All units of a layer the same: they get the same gradient and stay the same.

    Source: Goodfellow, Bengio, Courville, "Deep Learning" (2016), section 8.4.
    """
    alike = []
    for layer in found:
        units = layer.weight.detach().movedim(1 if layer.kind != "rows" else 0, 0)
        learns = layer.weight.requires_grad and len(units) > 1 and bool(units.any())
        if learns and bool((units == units[:1]).all()):
            alike.append(layer.name)
    if alike:
        yield Finding(
            "error", alike[0], f"all units of {_first(alike)} start with the same weights, and "
            "gradients keep them the same",
            "draw the weights at random: fastinit.kaiming_normal_(weight, nonlinearity=...)",
        )  # fmt: skip


def _alike_layers(found: list[Layer]) -> Iterator[Finding]:
    """Two layers with the same random values: one seed for all, or copies of one layer.

    Seen with Keras' initializers, which hold a seed, and in torch's `nn.TransformerEncoder`, which
    copies its layer.
    """
    groups: dict[tuple[object, ...], list[Layer]] = {}
    for layer in found:
        sample = layer.weight.detach().flatten()[:_SAMPLE].tolist()
        if layer.weight.requires_grad and len(set(sample)) > 1:
            groups.setdefault((layer.weight.shape, *sample), []).append(layer)
    for group in groups.values():
        first = group[0]
        apart = [one for one in group if one.weight is not first.weight]
        same = [one.name for one in apart if torch.equal(one.weight, first.weight)]
        if same:
            yield Finding(
                "warning", first.name, f"{same[0]} has the very values of {first.name}, though "
                f"they are not tied; {len(same) + 1} in all",
                "give each its own key: fastinit.init_(module, seed=...) keys them by name",
            )  # fmt: skip
            return


def _large(found: list[Layer]) -> Iterator[Finding]:
    """sqrt(fan_in E w^2) of ten and more, as N(0, 1) has it: torch.randn in a layer."""
    gains = {layer.name: gain_of(layer) for layer in found}
    large = [name for name, gain in gains.items() if gain > _LARGEST_GAIN]
    if large:
        yield Finding(
            "warning", large[0], f"{_first(large)} has a gain of {gains[large[0]]:.3g}: what comes "
            "out is that much larger than what goes in",
            "scale by the fan: fastinit.kaiming_normal_(weight, nonlinearity=...)",
        )  # fmt: skip


def gain_of(layer: Layer) -> float:
    """sqrt(fan_in E w^2): how much larger than its input the output of a layer is."""
    weight = layer.weight.detach()
    fan_in = weight.numel() / layer.channels
    if layer.kind == "transposed":  # each output position is met by one of `stride` taps
        fan_in = weight.numel() / weight.shape[1] / layer.groups
    return math.sqrt(fan_in * float(weight.double().square().mean()))


def _padding(module: nn.Module) -> Iterator[Finding]:
    """A padding row that is not zero: drawn over, as gradients never reach it."""
    for name, part in module.named_modules():
        at = getattr(part, "padding_idx", None)
        weight = part._parameters.get("weight")
        if not isinstance(part, nn.Embedding) or at is None or weight is None:
            continue
        if weight.detach()[at].any():
            yield Finding(
                "warning", f"{bare_name(module, name)}.weight",
                f"row {at} stands for padding but is not zero, and no gradient changes it",
                "zero it after the draw; recipes and fastinit.init_ do",
            )  # fmt: skip
            return


def _statistics(module: nn.Module) -> Iterator[Finding]:
    """Running variances that are none, as after `to_empty` without `reset_running_stats`."""
    for name, part in module.named_modules():
        variance = getattr(part, "running_var", None)
        if not isinstance(part, _NormBase) or not isinstance(variance, Tensor):
            continue
        if variance.numel() and not bool((variance >= 0).all() and variance.any()):
            yield Finding(
                "error", f"{bare_name(module, name)}.running_var",
                "the running variance is not positive",
                "call reset_running_stats(), or make the model by fastinit.materialize_",
            )  # fmt: skip
            return


def _narrow_frequencies(module: nn.Module) -> Iterator[Finding]:
    """Rotary frequencies in half precision. Seen in SkyRL (1725): NaN; transformers (48892)."""
    for name, buffer in module.named_buffers():
        if name.endswith("inv_freq") and buffer.dtype in (torch.bfloat16, torch.float16):
            yield Finding(
                "warning", bare_name(module, name),
                f"rotary frequencies are held in {str(buffer.dtype).removeprefix('torch.')}, which "
                "cannot tell far positions apart",
                "keep buffers in float32: fastinit.materialize_(..., dtype=) changes parameters "
                "alone",
            )  # fmt: skip
            return
