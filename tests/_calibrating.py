"""A model to calibrate, a batch for it, and what its layers give in a pass of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fastinit

WIDTH = 64
Layers = (nn.Linear, nn.modules.conv._ConvNd)


def batch(*shape: int, key: int = 0) -> Tensor:
    return fastinit.normal_(torch.empty(shape), key=key)


def mlp(activation: Callable[[], nn.Module] = nn.SiLU, count: int = 6) -> nn.Sequential:
    parts = [part for _ in range(count) for part in (nn.Linear(WIDTH, WIDTH), activation())]
    model = nn.Sequential(*parts)
    fastinit.init_(model, seed=0)
    return model


def products(module: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    """W x of every layer, from a pass of its own."""
    found: dict[str, Tensor] = {}

    def hook(name: str, part: nn.Module) -> Any:
        def note(_: nn.Module, __: Any, output: Tensor) -> None:
            bias = 0.0 if part.bias is None else part.bias
            if part.bias is not None and isinstance(part, nn.modules.conv._ConvNd):
                bias = part.bias.view(-1, *([1] * len(part.kernel_size)))
            found.setdefault(name, (output - bias).double())

        return part.register_forward_hook(note)

    handles = [
        hook(name, part)
        for name, part in module.named_modules()
        if isinstance(part, Layers) or type(part).__name__ == "Conv1D"
    ]
    with torch.no_grad():
        module(*args, **kwargs)
    for handle in handles:
        handle.remove()
    return found


def std(values: Tensor) -> float:
    return float(values.detach().std(correction=0))
