"""The trace: what went through each module of a model in one pass forward and one back.

Owns the hooks, the gradient that is sent back, and which module an input came from. Must not know
theory, findings or tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastinit.diagnostics.recognition import Made
from fastinit.diagnostics.subject import as_found, run, tensors_in
from fastinit.init import normal_
from fastinit.recipes.names import walk

_MOST_ROWS = 4096


@dataclass(eq=False, slots=True)
class Node:
    """One module at its first call.

    Args:
        name: in the bare model.
        module: without children.
        depth: how many layers with matrices ran up to it, itself included.
        shape: of its input; None if that is no tensor.
        source: the node whose output its input is; None if something else made it.
        rows: the second moment of each row of its input, where there is no source.
        forward: the second moment of its output.
        backward: that of the gradient there; None if none came.
        extra: what an observer noted.
    """

    name: str
    module: nn.Module
    depth: int
    shape: torch.Size | None
    source: Node | None
    rows: Tensor | None
    forward: Tensor
    backward: Tensor | None = None
    extra: dict[str, Any] = field(default_factory=dict)


# Looks at a node when it has run: the node, its input and its output.
Observer = Callable[[Node, Tensor | None, Tensor], None]


@dataclass(slots=True)
class Trace:
    """What a pass showed: the nodes in the order in which they ran, and the model's output."""

    nodes: list[Node]
    output: Tensor | None


def trace(module: nn.Module, x: Any, *, seed: int = 0, observe: Observer | None = None) -> Trace:
    """Run a batch through a model, and a standard normal gradient back from its output.

    Args:
        module: left as it was found: no gradient is stored, buffers and generators are restored.
        x: what the model takes: a tensor, a sequence of arguments or a mapping of keywords.
        seed: of the gradient.
        observe: looks at each node.
    """
    found = Trace([], None)
    inputs = _differentiable(x)
    with torch.inference_mode(False), torch.enable_grad(), as_found(module):
        with _hooks(module, found, observe):
            output = run(module, inputs, "x")
        found.output = first_tensor(output)
        _send_back(module, inputs, found.output, seed)
    return found


def _send_back(module: nn.Module, inputs: Any, output: Tensor | None, seed: int) -> None:
    """Gradients are asked for by name, so that none is added to `.grad`."""
    if output is None or not output.requires_grad:
        return
    gradient = normal_(torch.empty_like(output, requires_grad=False), key=seed)
    wanted: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
    wanted += [t for t in tensors_in(inputs) if t.requires_grad]
    torch.autograd.grad(output, wanted, gradient, allow_unused=True)


@contextmanager
def _hooks(module: nn.Module, found: Trace, observe: Observer | None) -> Iterator[None]:
    made: Made[Node] = Made()
    with ExitStack() as stack:
        seen: set[int] = set()
        for site in walk(module):
            part = site.module
            if id(part) in seen or any(True for _ in part.children()):
                continue
            seen.add(id(part))
            before, after = _watch(site.name, found, made, observe)
            first = part.register_forward_pre_hook(before, prepend=True, with_kwargs=True)
            last = part.register_forward_hook(after, prepend=True)
            stack.callback(first.remove)
            stack.callback(last.remove)
        yield


def _watch(name: str, found: Trace, made: Made[Node], observe: Observer | None) -> tuple[Any, Any]:
    """The hooks of one module; what goes in is looked at before the module may overwrite it."""
    state: dict[str, Any] = {"called": False}

    def before(part: nn.Module, args: Any, kwargs: Any) -> None:
        if state["called"]:
            return
        x = first_tensor(args) if args else first_tensor(kwargs)
        source = made.find(x) if x is not None else None
        rows = None
        if x is not None and source is None and x.numel():
            rows = _row_moments(x.detach())
        state.update(input=x, source=source, rows=rows, shape=x.shape if x is not None else None)

    def after(part: nn.Module, _: Any, output: Any) -> None:
        out = first_tensor(output)
        if state["called"] or out is None or not out.numel():
            return
        state["called"] = True
        depth = found.nodes[-1].depth if found.nodes else 0
        depth += any(p.dim() > 1 for p in part.parameters())
        second = _second(out.detach())
        node = Node(name, part, depth, state["shape"], state["source"], state["rows"], second)
        found.nodes.append(node)
        if observe is not None:
            with torch.no_grad():
                observe(node, state["input"], out.detach())
        state["input"] = None
        made.note(out, node)
        if out.requires_grad:
            out.register_hook(_noting_gradient(node))  # type: ignore[no-untyped-call]

    return before, after


def _noting_gradient(node: Node) -> Any:
    def note(gradient: Tensor) -> None:
        node.backward = _second(gradient.detach())

    return note


def _second(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32)).square().mean()


def _row_moments(values: Tensor) -> Tensor:
    """The second moment of each sample; of sequences, of each position."""
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    rows = wide.flatten(0, -2) if wide.dim() in (2, 3) else wide.flatten(1)
    if wide.dim() < 2:
        rows = wide.unsqueeze(0)
    step = max(1, len(rows) // _MOST_ROWS)
    return rows[::step][:_MOST_ROWS].square().mean(1)


def first_tensor(value: Any) -> Tensor | None:
    """The first real floating tensor in what a module takes or returns; logits before others."""
    if isinstance(value, Mapping) and isinstance(value.get("logits"), Tensor):
        return first_tensor(value["logits"])
    return next((t for t in tensors_in(value) if t.is_floating_point()), None)


def _differentiable(x: Any) -> Any:
    """The batch with floating tensors that gradients can reach; the caller's own stay apart."""
    if isinstance(x, Tensor):
        return x.detach().clone().requires_grad_() if x.is_floating_point() else x
    if isinstance(x, Mapping):
        return {key: _differentiable(member) for key, member in x.items()}
    if isinstance(x, (list, tuple)):
        return [_differentiable(member) for member in x]
    return x
