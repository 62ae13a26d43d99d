"""The fan-scaled schemes of Keras and JAX: variance scaling and, as cases of it, LeCun's.

Owns their public functions, which torch.nn.init lacks. Must not know how a fan is computed. The
arguments in_axis, out_axis, batch_axis and groups are told in `fastinit._fill.scaling`, all others
in `fastinit.init`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.overrides import has_torch_function_unary

from fastinit._fill.dtensor import ops
from fastinit._fill.extension import delegate
from fastinit._fill.fans import Axes, fan_arguments, scaled
from fastinit._fill.keys import KeyLike, stream
from fastinit._fill.regions import Region, nothing_to_fill

_DISTRIBUTIONS = {
    "uniform": "uniform",
    "normal": "normal",
    "untruncated_normal": "normal",  # Keras's word for it
    "truncated_normal": "truncated_normal",
}


def variance_scaling_(
    tensor: Tensor,
    scale: float = 1.0,
    mode: str = "fan_in",
    distribution: str = "truncated_normal",
    generator: torch.Generator | None = None,
    *,
    key: KeyLike | None = None,
    region: Region | None = None,
    in_axis: Axes = 1,
    out_axis: Axes = 0,
    batch_axis: Axes = (),
    groups: int = 1,
) -> Tensor:
    """Fill the tensor with values of variance scale / fan, as Keras and JAX define it.

    Formula: variance scale / fan; "uniform" on +-sqrt(3 scale / fan); "truncated_normal" is cut
    at 2 of its own standard deviations, which are widened by 1 / 0.8796 so that the variance
    after the cut is scale / fan. Of complex values that is E|w|^2, half of it in each part.

    Source: the common form of LeCun, Xavier and Kaiming; `tf.keras.initializers.VarianceScaling`
    and `jax.nn.initializers.variance_scaling` define the same.

    Args:
        tensor, generator, key, region: see `fastinit.init`; at least 2 dimensions.
        scale: variance times fan, above 0; a float or a 0-dim tensor on the tensor's device.
        mode: "fan_in", "fan_out" or "fan_avg", their mean.
        distribution: "truncated_normal", "normal" ("untruncated_normal" is the same) or "uniform".
        in_axis, out_axis, batch_axis, groups: see `fastinit._fill.scaling`.

    Returns: the tensor.

    Raises: ValueError for an unknown distribution or mode, a scale not above 0, or fewer than 2
        dimensions; others as in `fastinit.init`. Does nothing if there is no element.

    Reproducibility: bit for bit, as in `fastinit.init`.

    Example:
        >>> import torch, fastinit
        >>> w = fastinit.variance_scaling_(torch.empty(3, 5), 2.0, "fan_out", "normal", key=0)
    """
    if has_torch_function_unary(tensor):
        return delegate(
            variance_scaling_,
            tensor,
            scale=scale,
            mode=mode,
            distribution=distribution,
            generator=generator,
            key=key,
            region=region,
            in_axis=in_axis,
            out_axis=out_axis,
            batch_axis=batch_axis,
            groups=groups,
        )
    if distribution not in _DISTRIBUTIONS:
        raise ValueError(
            f"distribution must be one of {list(_DISTRIBUTIONS)}, got {distribution!r}"
        )
    if not isinstance(mode, str):
        raise TypeError(f"mode must be a str, got {mode!r}; pass 'fan_in', 'fan_out' or 'fan_avg'")
    if tensor.numel() == 0 and nothing_to_fill(region):
        return tensor
    distribution = _DISTRIBUTIONS[distribution]
    factor, on_device = _root(scale, tensor)
    ops(tensor).variance_scaling_(
        tensor,
        distribution,
        factor * part_factor(distribution, tensor.is_complex()),
        on_device,
        mode,
        "linear",
        0.0,
        *fan_arguments(in_axis, out_axis, batch_axis, groups),
        *stream(tensor, generator, key, region),
    )
    return tensor


def lecun_normal_(
    tensor: Tensor,
    generator: torch.Generator | None = None,
    *,
    key: KeyLike | None = None,
    region: Region | None = None,
    in_axis: Axes = 1,
    out_axis: Axes = 0,
    batch_axis: Axes = (),
    groups: int = 1,
) -> Tensor:
    """Fill the tensor with LeCun normal values: truncated normal of variance 1 / fan_in.

    Formula: `variance_scaling_` with scale 1, "fan_in" and "truncated_normal".

    Source: LeCun et al., "Efficient BackProp" (1998), section 4.6, equation 16.

    Args, Returns, Raises, Reproducibility: as `variance_scaling_`.

    Example:
        >>> import torch, fastinit
        >>> w = fastinit.lecun_normal_(torch.empty(3, 5), key=0)
    """
    return variance_scaling_(
        tensor,
        generator=generator,
        key=key,
        region=region,
        in_axis=in_axis,
        out_axis=out_axis,
        batch_axis=batch_axis,
        groups=groups,
    )


def lecun_uniform_(
    tensor: Tensor,
    generator: torch.Generator | None = None,
    *,
    key: KeyLike | None = None,
    region: Region | None = None,
    in_axis: Axes = 1,
    out_axis: Axes = 0,
    batch_axis: Axes = (),
    groups: int = 1,
) -> Tensor:
    """Fill the tensor with LeCun uniform values: uniform on +-sqrt(3 / fan_in).

    Formula: `variance_scaling_` with scale 1, "fan_in" and "uniform".

    Source: LeCun et al., "Efficient BackProp" (1998), section 4.6, equation 16.

    Args, Returns, Raises, Reproducibility: as `variance_scaling_`.

    Example:
        >>> import torch, fastinit
        >>> w = fastinit.lecun_uniform_(torch.empty(3, 5), key=0)
    """
    return variance_scaling_(
        tensor,
        distribution="uniform",
        generator=generator,
        key=key,
        region=region,
        in_axis=in_axis,
        out_axis=out_axis,
        batch_axis=batch_axis,
        groups=groups,
    )


def part_factor(distribution: str, complex: bool) -> float:
    """The factor of the gain that makes E|w|^2 of complex values the variance asked for.

    By nn.init's law, which is the core's, both parts of a uniform value have the whole of it.
    """
    return math.sqrt(0.5) if complex and distribution == "uniform" else 1.0


def _root(scale: float | Tensor, tensor: Tensor) -> tuple[float, Tensor | None]:
    """The factor of the standard deviation that multiplies the variance by `scale`."""
    value, on_device = scaled("scale", scale, tensor)
    if on_device is not None:
        return 1.0, on_device.detach().sqrt()
    if not value > 0:
        raise ValueError(f"scale must be above 0, got {scale}; use zeros_ for a variance of 0")
    return math.sqrt(value), None
