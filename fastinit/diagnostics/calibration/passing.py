"""The pass: scales found and applied while a batch goes through, in the order of execution.

Owns the hooks. A layer puts out z = W x + b. At its first call the standard deviation of z - b is
known on the device; (z - b) s + b goes on, so that what follows sees the weights as they will be,
and s is folded into W after the pass. One pass is exact, and nothing is read back in between. Must
not know roles or tables.

Source: Mishkin & Matas, "All you need is a good init" (2016), who run a pass for each layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastinit.diagnostics.calibration.layers import Layer, expanded, is_norm
from fastinit.diagnostics.calibration.wanted import Wanted
from fastinit.diagnostics.recognition import Made

LEAST_ROWS = 256  # of a group or an expert, whose few outputs tell little otherwise


@dataclass(eq=False, slots=True)
class Scaling:
    """What is known of one weight: found during the pass, read after it.

    Args:
        layers: the modules that use it.
        wanted: its targets.
        target: the same on its device; nan where a slice is left alone.
        std: of z - b, for each slice; None until the layer is called.
        scale: for each slice.
        rows: how many inputs each output saw.
        calls: of all modules that use it.
        note: why it was left alone.
    """

    layers: list[Layer]
    wanted: Wanted
    target: Tensor
    std: Tensor | None = None
    scale: Tensor | None = None
    rows: int = 0
    calls: int = 0
    note: str = ""
    followed: bool = field(default=False)

    @property
    def left(self) -> bool:
        """Whether the weight stays as it is, for a reason known without reading anything."""
        return self.scale is None or self.followed


def scaling(layers: Sequence[Layer], wanted: Wanted) -> Scaling:
    """What a pass needs for a weight, on its device before the pass begins."""
    numbers = [float("nan") if target is None else target for target in wanted.targets]
    weight = layers[0].weight
    dtype = torch.promote_types(weight.dtype, torch.float32)
    target = torch.tensor(numbers, dtype=dtype, device=weight.device)
    return Scaling(list(layers), wanted, target)


@dataclass(slots=True)
class _Last:
    """The output that a hook made last, as it was and as it went on."""

    made: Tensor
    before: Tensor


class Pass:
    """The hooks of one pass.

    Args:
        module: the model.
        scalings: what to find.
    """

    def __init__(self, module: nn.Module, scalings: Sequence[Scaling]) -> None:
        self._module = module
        self._scalings = scalings
        self._made: Made[Scaling] = Made()
        self._last: _Last | None = None

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Put in front of all other hooks, and taken away whatever happens."""
        with ExitStack() as stack:
            for one in self._scalings:
                for layer in one.layers:
                    hook = self._after_layer(one, layer)
                    handle = layer.site.module.register_forward_hook(hook, prepend=True)
                    stack.callback(handle.remove)
            for part in self._module.modules():
                if is_norm(part):
                    handle = part.register_forward_pre_hook(
                        self._before_norm, prepend=True, with_kwargs=True
                    )
                    stack.callback(handle.remove)
            yield

    def _after_layer(self, one: Scaling, layer: Layer) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            first = output[0] if isinstance(output, tuple) and output else output
            if not isinstance(first, Tensor) or not first.is_floating_point():
                one.note = "its output is no tensor of real numbers"
                return None
            one.calls += 1
            made = self._scaled(one, layer, first)
            if made is None:
                return None
            return (made, *output[1:]) if isinstance(output, tuple) else made

        return hook

    def _scaled(self, one: Scaling, layer: Layer, output: Tensor) -> Tensor | None:
        """The output as the scaled weight would make it; None if the weight is left alone."""
        bias = 0.0 if layer.bias is None else layer.along(layer.bias)
        product = output.to(torch.promote_types(output.dtype, torch.float32)) - bias
        if one.calls == 1:
            _measure(one, layer, product)
        if one.scale is None or one.followed:
            return None
        factors = layer.along(expanded(one.scale, one.wanted.sizes))
        made = (product * factors + bias).to(output.dtype)
        if one.calls == 1 and not one.wanted.asked:
            self._made.note(made, one)
            self._last = _Last(made, output)
        return made

    def _before_norm(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        """Notice that a norm takes what a layer made, and put back what the layer made before.

        In place, as the norm may take a view, and a shortcut around it the same tensor.
        """
        first = args[0] if args else next(iter(kwargs.values()), None)
        found = self._made.find(first) if isinstance(first, Tensor) else None
        if found is None:
            return
        found.followed = True
        last = self._last
        if last is not None and self._made.find(last.made) is found:
            last.made.copy_(last.before)


def _measure(one: Scaling, layer: Layer, product: Tensor) -> None:
    """Find the standard deviation of each slice, and its scale if it is to have one."""
    wanted = one.wanted
    channels_last = product.movedim(layer.axis, -1)
    one.rows = channels_last.numel() // layer.channels
    one.std = _deviations(channels_last, wanted.sizes)
    if all(target is None for target in wanted.targets):
        one.note = wanted.note
        return
    expert = wanted.role is not None and wanted.role.startswith("expert")
    if one.rows < LEAST_ROWS and (layer.groups > 1 or expert) and not wanted.asked:
        what = "each expert" if expert else "each group"
        one.note = f"{one.rows} rows for {what}, fewer than {LEAST_ROWS}"
        return
    usable = one.std.isfinite() & (one.std > 0) & one.target.isfinite()
    one.scale = torch.where(usable, one.target.to(one.std.device) / one.std, 1.0)


def _deviations(values: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The standard deviation of each slice of the last axis, over all else."""
    if len(set(sizes)) == 1:
        apart = torch.unflatten(values, -1, (len(sizes), sizes[0])).movedim(-2, 0)
        return apart.flatten(1).std(1, correction=0)
    return torch.stack([part.std(correction=0) for part in torch.split(values, list(sizes), -1)])
