"""New tensors within an expression, and the tensor at hand in their place.

Owns which calls make tensors whose size need not be known, as the result's is. What a constructor
draws is then drawn into the tensor itself, under its key. Must not know any module.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor

from fastinit.models.native.recording import address
from fastinit.models.native.statements import dotted

Attempt: TypeAlias = Callable[[ast.expr, Mapping[str, Any]], Any]

TENSOR = "__tensor__"  # the name of the tensor at hand
_FACTORIES = {f"torch.{name}" for name in ("zeros", "ones", "full", "empty", "randn", "rand")}


def factories(value: ast.expr) -> list[ast.Call]:
    """The calls within an expression that make new tensors of a given size."""
    return [
        part
        for part in ast.walk(value)
        if isinstance(part, ast.Call) and dotted(part.func) in _FACTORIES
    ]


class _Replace(ast.NodeTransformer):
    """Puts the tensor at hand in the place of new ones."""

    def __init__(self, how: Mapping[int, str]) -> None:
        self._how = how

    def visit_Call(self, node: ast.Call) -> ast.AST:
        how = self._how.get(getattr(node, "_told", 0))
        if how is None:
            return self.generic_visit(node)
        text = {
            "zeros": f"{TENSOR}.zero_()",
            "ones": f"{TENSOR}.fill_(1)",
            "full": f"{TENSOR}.fill_(__f__)",
            "randn": f"{TENSOR}.normal_()",
            "rand": f"{TENSOR}.uniform_()",
            "empty": TENSOR,
            "shape": f"{TENSOR}.new_zeros({TENSOR}.shape)",
            "new": f"{TENSOR}.new_{dotted(node.func).split('.')[-1]}({TENSOR}.shape)",
        }[how]
        return ast.parse(text, mode="eval").body


def replaced(value: ast.expr, how: Mapping[int, str]) -> ast.expr:
    """The expression with something else in the place of new tensors.

    Args:
        value: the expression.
        how: by the address of the call that makes one: "zeros" and its like for the tensor at hand,
            written as that would be; "new" for a new tensor of its shape; "shape" for zeros of it.
    """
    key = (id(value), tuple(how.items()))
    if key not in _replacements:
        for part in ast.walk(value):
            part._told = id(part)  # type: ignore[attr-defined]
        tree = _Replace(how).visit(copy.deepcopy(value))
        _replacements[key] = (value, ast.fix_missing_locations(tree))
    return _replacements[key][1]


# With the expression itself, so that its address is not used anew.
_replacements: dict[tuple[int, tuple[tuple[int, str], ...]], tuple[ast.expr, ast.expr]] = {}


def in_place(tensor: Tensor, value: ast.expr, made: ast.Call, attempt: Attempt) -> Any:
    """The value of an expression, computed in the tensor itself as far as that goes.

    Args:
        tensor: to be given the value.
        value: the expression.
        made: the call in it that makes a new tensor.
        attempt: evaluates an expression with more names, or gives None.

    Returns: the value, where the tensor does not have it yet.
    """
    tensor = tensor.detach()
    word = dotted(made.func).split(".")[-1]
    if word == "full":
        number = made.args[1] if len(made.args) > 1 else made.keywords[0].value
        fill = attempt(number, {})
        if fill is None:
            return None
        return attempt(replaced(value, {id(made): "full"}), {TENSOR: tensor, "__f__": fill})
    if value is made and word == "empty":
        return None
    probe = attempt(replaced(value, {id(made): "shape"}), {TENSOR: tensor})
    if not fits(probe, tensor):  # something in it is unknown, or it is cut and joined
        return attempt(value, {})
    result = attempt(replaced(value, {id(made): word}), {TENSOR: tensor})
    same = isinstance(result, Tensor) and address(result) == address(tensor) and (
        result.shape == tensor.shape
    )  # fmt: skip
    return None if same else result


def fits(value: Any, tensor: Tensor) -> bool:
    """Whether it is a tensor that can be copied there."""
    return isinstance(value, Tensor) and not value.is_meta and value.shape == tensor.shape
