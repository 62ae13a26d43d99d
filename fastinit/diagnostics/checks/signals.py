"""Rules that look at what a batch does in the model: sizes, dead units, saturation, gradients.

Each function is one rule, and names where its threshold comes from; the thresholds are `limits`'s.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from fastinit._fill.gains import gain
from fastinit.diagnostics import limits
from fastinit.diagnostics.calibration.layers import is_norm, layers
from fastinit.diagnostics.checks.finding import Finding
from fastinit.diagnostics.checks.weights import gain_of
from fastinit.diagnostics.signals.mean_field import function_in
from fastinit.diagnostics.signals.trace import Node, first_tensor, trace
from fastinit.diagnostics.watching.units import Axes, bounds_of
from fastinit.recipes.names import template_of
from fastinit.recipes.roles import known_role

_BOUNDED = (nn.Tanh, nn.Sigmoid, nn.Softsign)
_SHAPES = (nn.Identity, nn.Flatten, nn.Unflatten)
_ENDS = 3  # layers at each end of a stretch, whose median counts


def findings(module: nn.Module, x: Any) -> Iterator[Finding]:
    """What all rules of this file find when `x` goes through a model."""
    batch = first_tensor(x)
    if batch is not None and not batch.isfinite().all():
        yield Finding("error", "", "x itself holds NaN or infinity", "look at how it is made")
        return
    axes = Axes()
    found = trace(module, x, observe=lambda node, _, output: _observe(node, output, axes))
    broken = list(_not_finite(found.nodes))
    yield from broken
    if not broken:
        yield from _sizes(module, found.nodes)
        yield from _gradients(found.nodes)
    yield from _dead(found.nodes)
    yield from _saturated(found.nodes)
    yield from _output(found.output)
    yield from _attention(found.nodes)


def _observe(node: Node, output: Tensor, axes: Axes) -> None:
    """What the rules need of an output, as tensors that are read once it is all over."""
    module, extra = node.module, node.extra
    extra["nonfinite"] = (~output.isfinite()).any()
    axis = axes.of(module, output)
    if "relu" in type(module).__name__.lower() and output.dim() > 1:
        units = output.movedim(axis, 0).flatten(1)
        extra["inputs"] = units.shape[1]
        extra["dead"] = (units == 0).all(1).float().mean()
    if isinstance(module, _BOUNDED):
        bounds = bounds_of(module)
        extra["saturated"] = ((output <= bounds.low) | (output >= bounds.high)).float().mean()
    if is_norm(module) and output.dim() == 3 and output.shape[1] > 1:
        tokens = nn.functional.normalize(output.float(), dim=-1)
        count = output.shape[1]
        total = tokens.sum(1).square().sum(-1)  # over all pairs, those of a token with itself too
        extra["cosine"] = ((total - count) / (count * (count - 1))).mean()


def _not_finite(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Activations or gradients that are NaN or infinite."""
    for node in nodes:
        if node.extra["nonfinite"]:
            yield Finding(
                "error", node.name, "its output holds NaN or infinity, the first to do so",
                "scale the weights up to there: fastinit.kaiming_normal_ with the activation's "
                "gain, or fastinit.calibrate_",
            )  # fmt: skip
            return
    for node in reversed(nodes):
        if node.backward is not None and not math.isfinite(float(node.backward)):
            yield Finding(
                "error", node.name, "the gradient at its output is NaN or infinite",
                "scale the weights behind it down, by the activation's backward gain: "
                "fastinit.gain(f, direction='backward')",
            )  # fmt: skip
            return


def stretches(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    """The layers between one norm and the next, but for the model's last one, its head."""
    weighty = [n for n in nodes if any(p.dim() > 1 for p in n.module.parameters())]
    weighty = [n for n in weighty if not isinstance(n.module, nn.Embedding)]
    head = weighty[-1] if weighty else None
    current: list[Node] = []
    for node in nodes:
        if is_norm(node.module):
            yield current
            current = []
        elif node is not head and any(node is other for other in weighty):
            current.append(node)
    yield current


def _trend(values: Sequence[float]) -> float:
    """By what factor the values change from one end to the other; each end a median."""
    least = sorted(max(value, 1e-300) for value in values)[0]
    first = statistics.median(values[:_ENDS])
    last = statistics.median(values[-_ENDS:])
    return max(last, least) / max(first, least, 1e-300)


def _sizes(module: nn.Module, nodes: Sequence[Node]) -> Iterator[Finding]:
    """Signals that grow or shrink through layers without norms, or are about to.

    Source: He et al. (2015), section 2.2; SageMaker Debugger, PoorWeightInitialization.
    """
    for stretch in stretches(nodes):
        if len(stretch) < limits.SCALE_LAYERS_WARNING:
            continue
        gains = _gains(module, stretch, nodes)
        cure = "fastinit.calibrate_(module, batch) sets every layer"
        if gains is not None:
            cure = f"fastinit.kaiming_normal_(weight, nonlinearity=...) has that gain; {cure}"
        told = f": the weights have a gain of {gains[0]:.3g}, {gains[2]} needs" if gains else ""
        told += f" {gains[1]:.5g}" if gains else ""
        where = f"through the {len(stretch)} layers to {stretch[-1].name}"
        long = len(stretch) >= limits.SCALE_LAYERS_ERROR
        trend = _trend([float(node.forward) for node in stretch])
        change = max(trend, 1 / trend) if trend > 0 else math.inf
        if change > limits.SCALE_WARNING:
            bad = (long and change > limits.SCALE_ERROR) or change > limits.SCALE_ERROR_ANYWHERE
            word = "grows" if trend > 1 else "shrinks"
            what = f"the signal {word} by a factor of {change:.3g} in its second moment {where}"
            yield Finding("error" if bad else "warning", stretch[0].name, what + told, cure)
            return
        if long and gains is not None and abs(gains[0] / gains[1] - 1) > limits.GAIN_OFF:
            what = f"the gain is not that of the activation {where}"
            yield Finding("warning", stretch[0].name, what + told, cure)
            return


def _gains(
    module: nn.Module, stretch: Sequence[Node], nodes: Sequence[Node]
) -> tuple[float, float, str] | None:
    """The median gain of the layers at hand, and the one that the commonest activation needs."""
    functions = {
        type(node.module): function
        for node in nodes
        if not isinstance(node.module, _SHAPES)
        and (function := function_in(node.module)) is not None
    }
    kinds = [type(node.module) for node in nodes if type(node.module) in functions]
    within = {id(node.module) for node in stretch}
    gains = [gain_of(one) for one in layers(module)[0] if id(one.site.module) in within]
    if not kinds or not gains:
        return None
    kind = max(set(kinds), key=kinds.count)
    try:
        return statistics.median(gains), gain(functions[kind]), kind.__name__
    except ValueError:
        return None


def _gradients(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Gradients that vanish or explode on their way back through layers without norms.

    Source: Glorot & Bengio (2010), section 4.2; AutoTrainer's thresholds.
    """
    for stretch in stretches(nodes):
        # A branch that starts at zero on purpose sends no gradient into what is before it.
        known = [node for node in stretch if node.backward is not None and node.backward > 0]
        if len(known) < limits.SCALE_LAYERS_ERROR:
            continue
        trend = _trend([float(node.backward) for node in reversed(known)])  # type: ignore[arg-type]
        change = max(trend, 1 / trend) if trend > 0 else math.inf
        if change > limits.GRADIENT_WARNING:
            word = "explode" if trend > 1 else "vanish"
            yield Finding(
                "error" if change > limits.GRADIENT_ERROR else "warning", known[0].name,
                f"gradients {word}: their second moment changes by a factor of {change:.3g} from "
                f"{known[-1].name} back to it",
                "use the activation's backward gain (fastinit.gain(f, direction='backward')), an "
                "activation whose chi is near 1 (docs/gains.md), norms, or residual branches",
            )  # fmt: skip
            return


def _dead(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Units that are zero on every input, so that no gradient reaches their weights.

    Source: SageMaker Debugger, DeadRelu.
    """
    shares = [
        (node.name, float(node.extra["dead"]))
        for node in nodes
        if node.extra.get("inputs", 0) >= limits.DEAD_INPUTS
    ]
    worst = max(shares, key=lambda pair: pair[1], default=("", 0.0))
    if worst[1] >= limits.DEAD_WARNING:
        yield Finding(
            "error" if worst[1] >= limits.DEAD_ERROR else "warning", worst[0],
            f"{worst[1]:.0%} of its units are zero on every input",
            "look at the biases before it, which should start at zero, and at the mean of x",
        )  # fmt: skip


def _saturated(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Values of tanh, sigmoid and softsign where the slope is below 0.05.

    Source: Glorot & Bengio (2010), section 3; Karpathy, makemore: |tanh| > 0.97.
    """
    shares = [(n.name, float(n.extra["saturated"])) for n in nodes if "saturated" in n.extra]
    worst = max(shares, key=lambda pair: pair[1], default=("", 0.0))
    if worst[1] >= limits.SATURATED_SHARE:
        yield Finding(
            "error" if worst[1] >= limits.SATURATED_ERROR else "warning", worst[0],
            f"{worst[1]:.0%} of its values are saturated, where the slope is below "
            f"{limits.SATURATED_SLOPE:g}",
            "scale the weights before it down: fastinit.calibrate_, or the activation's gain",
        )  # fmt: skip


def _output(output: Tensor | None) -> Iterator[Finding]:
    """Outputs so large that the first loss is far above log(classes).

    Source: Karpathy, makemore.
    """
    if output is None or output.numel() < 2:
        return
    std = float(output.detach().float().std(correction=0))
    if std > limits.LARGEST_OUTPUT:
        yield Finding(
            "warning", "", f"the model's output has a std of {std:.3g}; as logits they are sure of "
            "themselves before anything was learned",
            "scale the last layer down, so that the first loss is near log(classes)",
        )  # fmt: skip


def _attention(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Logits of attention beyond a std of 4, and tokens that have become one.

    Source: Dong et al., "Attention is not all you need" (2021) for the second.
    """
    normed = {id(node.source) for node in nodes if is_norm(node.module)}
    roles = {id(n): known_role(template_of(n.name), "weight", type(n.module)) for n in nodes}
    queries = [n for n in nodes if roles[id(n)] == "query" and id(n) not in normed]
    keys = [n for n in nodes if roles[id(n)] == "key" and id(n) not in normed]
    for query, key in zip(queries, keys, strict=False):
        std = math.sqrt(float(query.forward) * float(key.forward))
        if std > limits.LARGEST_LOGIT:
            yield Finding(
                "warning", query.name, f"its attention's logits have a std of about {std:.3g}, "
                "at which the softmax picks single tokens",
                "scale q or k down, or put a norm behind them",
            )  # fmt: skip
            break
    cosines = [(n.name, float(n.extra["cosine"])) for n in nodes if "cosine" in n.extra]
    if queries and cosines and cosines[-1][1] > limits.TOKEN_COSINE:
        yield Finding(
            "warning", cosines[-1][0], f"the tokens have become alike: a cosine of "
            f"{cosines[-1][1]:.3g} between them on average",
            "scale what writes to the residual stream by 1 / sqrt(2 depth), or calibrate_",
        )  # fmt: skip
