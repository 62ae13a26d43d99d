"""Layers: modules whose output is a weight times something, plus a bias.

Owns which modules those are, which axis of an output counts the channels, and how a factor for each
channel is folded into a weight. Must not know targets, roles or data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from fastinit.recipes.names import Site, walk

_KNOWN = (nn.Linear, nn.Bilinear, _ConvNd)
# Those of other libraries that have a forward of their own, yet use the weight as it is.
_ALIKE = frozenset({"Conv2dSame", "Conv2dTf", "LoRACompatibleLinear"})


@dataclass(frozen=True, slots=True)
class Layer:
    """A module and the weight in it whose product comes out of it.

    Args:
        name: of the weight, in the bare model.
        site: where the module is.
        weight: what is multiplied.
        bias: what is added, if anything.
        channels: how many outputs there are.
        groups: into how many equal parts they fall, each with inputs of its own.
        axis: of an output, which counts channels; from the end.
        kind: how the weight is laid out: "rows", "columns" (transformers' Conv1D) or "transposed".
    """

    name: str
    site: Site
    weight: nn.Parameter
    bias: Tensor | None
    channels: int
    groups: int
    axis: int
    kind: str

    def along(self, values: Tensor) -> Tensor:
        """A vector of one number for each channel, shaped to be combined with an output."""
        return values.view(-1, *([1] * (-self.axis - 1)))

    def fold(self, factors: Tensor) -> None:
        """Multiply the weight in place, so that every channel comes out larger by its factor."""
        weight = self.weight.data
        factors = factors.to(weight.dtype)
        if self.kind == "columns":
            weight.mul_(factors)
        elif self.kind == "rows":
            weight.mul_(factors.view(-1, *([1] * (weight.dim() - 1))))
        else:  # (inputs, channels of a group, ...)
            shape = (self.groups, 1, -1, *([1] * (weight.dim() - 2)))
            torch.unflatten(weight, 0, (self.groups, -1)).mul_(factors.view(shape))

    def pieces(self, sizes: tuple[int, ...]) -> Iterator[Tensor]:
        """The weight cut along its channels; views of it."""
        weight = self.weight.data
        if self.kind == "transposed":
            yield from torch.unflatten(weight, 0, (self.groups, -1)).unbind(0)
        else:
            yield from torch.split(weight, list(sizes), dim=1 if self.kind == "columns" else 0)


def layers(root: nn.Module) -> tuple[list[Layer], dict[str, tuple[Tensor, str]]]:
    """The layers of a model, in its order, and why other modules with matrices are none.

    Returns: the layers; and by name the parameters with more than one long axis that are not
        multiplied by a layer, each with the reason.
    """
    found: list[Layer] = []
    others: dict[str, tuple[Tensor, str]] = {}
    seen: set[int] = set()
    for site in walk(root):
        module = site.module
        if id(module) in seen:
            continue
        seen.add(id(module))
        layer = _layer(site)
        if layer is not None:
            found.append(layer)
            if isinstance(module, nn.MultiheadAttention):
                seen.add(id(module.out_proj))
        for local, parameter in module._parameters.items():
            if parameter is None or parameter.numel() <= max(parameter.shape, default=0):
                continue
            if layer is None or layer.weight is not parameter:
                name = f"{site.name}.{local}" if site.name else local
                others[name] = parameter, _reason(module, local)
    return found, others


def _reason(module: nn.Module, local: str) -> str:
    if "parametrizations" in module._modules or local.startswith("original"):
        return "parametrized"
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "embedding"
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return "recurrent"
    return "not of a layer"


def _layer(site: Site) -> Layer | None:
    module = site.module
    if isinstance(module, nn.MultiheadAttention):
        return _attention(site, module)
    weight = module._parameters.get("weight")
    if weight is None or not weight.is_floating_point():
        return None
    dot = f"{site.name}." if site.name else ""
    bias = module._parameters.get("bias")
    if type(module).__name__ == "Conv1D" and weight.dim() == 2 and hasattr(module, "nf"):
        return Layer(dot + "weight", site, weight, bias, weight.shape[1], 1, -1, "columns")
    if not isinstance(module, _KNOWN) or not _multiplies(module):
        return None
    if not isinstance(module, _ConvNd):
        return Layer(dot + "weight", site, weight, bias, weight.shape[0], 1, -1, "rows")
    kind = "transposed" if isinstance(module, _ConvTransposeNd) else "rows"
    axis = -1 - len(module.kernel_size)
    channels, groups = module.out_channels, module.groups
    return Layer(dot + "weight", site, weight, bias, channels, groups, axis, kind)


def _multiplies(module: nn.Module) -> bool:
    """Whether a module computes what its class of torch.nn does."""
    kind: type[nn.Module] = type(module)
    if kind.__name__ in _ALIKE:
        return True
    home = next(base for base in kind.__mro__ if base.__module__.startswith("torch.nn."))
    return issubclass(home, nn.Module) and kind.forward is home.forward


def _attention(site: Site, module: nn.MultiheadAttention) -> Layer | None:
    """torch's attention calls no module for its output projection, but its output is that one's."""
    projection = module.out_proj
    weight = projection._parameters.get("weight")
    if weight is None:
        return None
    name = f"{site.name}.out_proj.weight" if site.name else "out_proj.weight"
    bias = projection._parameters.get("bias")
    return Layer(name, site, weight, bias, weight.shape[0], 1, -1, "rows")


def is_norm(module: nn.Module) -> bool:
    """Whether a module divides by the size of its input, so that the input's scale is lost."""
    kind = type(module).__name__
    if "Norm" not in kind or kind.startswith("Frozen") or isinstance(module, nn.LocalResponseNorm):
        return False
    return not any(list(child.parameters()) for child in module.children())


def expanded(values: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """One number for each slice, repeated for each of its channels; nothing is read back."""
    if len(set(sizes)) == 1:
        return values.unsqueeze(-1).expand(-1, sizes[0]).reshape(-1)
    return torch.cat([value.expand(size) for value, size in zip(values, sizes, strict=True)])
