"""The way out of Python: to the compiled operators, or to a tensor type that overrides us.

Owns the only import of `fastinit._C` and the refusal of a build made for another torch. Must not
know any distribution, key or region.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

_Function = TypeVar("_Function", bound=Callable[..., object])

_REBUILD = "pip install --no-build-isolation --force-reinstall --no-deps ."


def _load() -> Any:
    try:
        return importlib.import_module("fastinit._C")
    except ModuleNotFoundError as error:
        if error.name != "fastinit._C":
            raise
        reason = "fastinit's compiled extension is not there (no fastinit/_C*.so for this Python)"
    except ImportError as error:  # unresolved symbols: the usual sign of another libtorch
        reason = (
            f"fastinit's compiled extension does not load ({error}); most likely it was built for "
            f"another torch than the installed {torch.__version__}"
        )
    raise ImportError(f"{reason}. In fastinit's source directory run: {_REBUILD}")


def _check_version(built_for: str, installed: str) -> None:
    """Refuse a build for another minor release: libtorch keeps its ABI only within one."""
    if built_for.split(".")[:2] != installed.split(".")[:2]:
        raise ImportError(
            f"fastinit was built for torch {built_for}, but torch {installed} is installed. "
            f"In fastinit's source directory run: {_REBUILD}"
        )


native: Any = _load()
_check_version(native.build_info()["torch"], torch.__version__)


def delegate(function: Callable[..., Tensor], tensor: Tensor, **arguments: object) -> Tensor:
    """Let the `__torch_function__` of the tensor, or of an active mode, answer for `function`."""
    result: Tensor = handle_torch_function(function, (tensor,), tensor=tensor, **arguments)
    return result


def at_compile_time(function: _Function) -> _Function:
    """Have torch.compile evaluate the pure `function` while tracing, as it cannot look into it.

    The mark `torch.compiler.assume_constant_result` sets, which would import the compiler.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def untraceable(function: _Function) -> _Function:
    """Have torch.compile leave `function` to Python, at each call, as its result varies.

    The mark `torch.compiler.disable` sets, which would import the compiler.
    """
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    return function


# What the operators fill; they refuse the rest themselves.
DTYPES = frozenset(
    {
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.complex64,
        torch.complex128,
    }
)
