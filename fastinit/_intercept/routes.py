"""What stands in for torch's random fills under a patch: fastinit where it can, stock elsewhere.

Owns the decision which tensors fastinit takes from code that never heard of it, and one stand-in
each for the functions of `torch.nn.init`, for methods of Tensor and for torch's random factories.
Must not know when a stand-in is in force, nor how it is put in place: that is `patch`'s.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import handle_torch_function, has_torch_function_unary

from fastinit import init
from fastinit._fill.extension import DTYPES, native
from fastinit._fill.placements import PLAIN_TYPES, is_dtensor
from fastinit._intercept import fills, fresh

Function = Callable[..., Any]

_DEVICES = {"cpu", "meta"} | ({"cuda"} if native.build_info()["cuda"] else set())
_DEFAULT_FUNCTIONS = (  # neither of these two changes what a function does
    Tensor.__torch_function__.__func__,  # type: ignore[attr-defined]
    torch._C._disabled_torch_function_impl,
)
_empty, _empty_like = torch.empty, torch.empty_like  # also while a library has its own in torch
_is_compiling = torch.compiler.is_dynamo_compiling
_level_of_functorch = torch._C._functorch.maybe_current_level
_FACTORY_OPTIONS = {"size", "dtype", "layout", "device", "requires_grad", "pin_memory", "generator"}
_LIKE_OPTIONS = {"dtype", "layout", "device", "requires_grad", "memory_format"}


def is_plain(kind: type) -> bool:
    """Whether tensors of this type behave as Tensor does: nothing of theirs would be bypassed."""
    if kind in PLAIN_TYPES:
        return True
    if not issubclass(kind, Tensor) or has_own_dispatch(kind):
        return False
    function = kind.__torch_function__
    return getattr(function, "__func__", function) in _DEFAULT_FUNCTIONS


def has_own_dispatch(kind: type) -> bool:
    """Whether operators on tensors of this type are the type's to run, by `__torch_dispatch__`."""
    return kind.__torch_dispatch__ is not Tensor.__torch_dispatch__  # type: ignore[attr-defined]


def takes(tensor: Tensor) -> bool:
    """Whether fastinit fills `tensor` with what stock fills it with, by another draw."""
    kind = type(tensor)
    return (
        (kind in PLAIN_TYPES or is_plain(kind) or is_dtensor(tensor))
        and tensor.dtype in DTYPES
        and tensor.layout is torch.strided
        and not tensor.is_nested
        and forward_ad._current_level < 0
        # vmap and grad have rules for stock's operators alone, also on tensors made inside them;
        # torch.compile cannot look here.
        and (_is_compiling() or _level_of_functorch() is None)
        and _fills_on(tensor.device.type)
    )


def _fills_on(device_type: str) -> bool:
    if device_type == "cuda" and device_type not in _DEVICES and not _is_compiling():
        warnings.warn(
            "fastinit was built without CUDA, so that stock initializers fill tensors on cuda "
            "under its patch, with their own values; rebuild it where the CUDA toolkit is: "
            "FASTINIT_CUDA=1 pip install --no-build-isolation --force-reinstall --no-deps .",
            stacklevel=4,
        )
    return device_type in _DEVICES


def init_function(name: str, ours: Function, stock: Function, stock_delegates: bool) -> Function:
    """The stand-in for a function of torch.nn.init, which it gets as a copy under `stock`.

    Args:
        name: of the function.
        ours: takes the same arguments in the same order.
        stock: what torch has, even while its own function object does something else.
        stock_delegates: whether stock lets `__torch_function__` see the function itself.
    """

    def stand_in(tensor: Tensor, *arguments: object) -> object:
        if fills.again(name, tensor, arguments):
            return tensor
        if has_torch_function_unary(tensor):
            # Stock that delegates comes back here, with the mode or the type that answers put off.
            if stock_delegates or not is_plain(type(tensor)):
                return stock(tensor, *arguments)
            with torch._C.DisableTorchFunction():
                taken = takes(tensor)
        else:
            taken = takes(tensor)
        if not taken:
            return stock(tensor, *arguments)
        result = ours(tensor, *arguments)
        fills.remember(name, tensor, arguments)
        return result

    return stand_in


def tensor_normal(stock: Function) -> Function:
    """The stand-in for Tensor.normal_."""

    def normal_(
        self: Tensor,
        mean: float = 0,
        std: float = 1,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        if has_torch_function_unary(self):
            shown = _shown(self, "normal_", stock)
            result: Tensor = handle_torch_function(
                shown, (self,), self, mean, std, generator=generator
            )
            return result
        if _takes_method(self):
            return init.normal_(self, mean, std, generator)
        result = stock(self, mean, std, generator=generator)
        return result

    return _named_as(normal_, stock)


def tensor_uniform(stock: Function) -> Function:
    """The stand-in for Tensor.uniform_, whose first bound has the name of a Python keyword."""

    def uniform_(
        self: Tensor,
        *bounds: float,
        generator: torch.Generator | None = None,
        **named: float,
    ) -> Tensor:
        if has_torch_function_unary(self):
            shown = _shown(self, "uniform_", stock)
            result: Tensor = handle_torch_function(
                shown, (self,), self, *bounds, generator=generator, **named
            )
            return result
        given = {**dict(zip(("from", "to"), bounds, strict=False)), **named}
        known = given.keys() <= {"from", "to"} and len(given) == len(bounds) + len(named)
        if known and _takes_method(self):
            return fresh.uniform_(self, given.get("from", 0.0), given.get("to", 1.0), generator)
        result = stock(self, *bounds, generator=generator, **named)
        return result

    return _named_as(uniform_, stock)


def tensor_erfinv(stock: Function) -> Function:
    """The stand-in for Tensor.erfinv_, which makes a fresh uniform draw a normal one.

    Private copies of trunc_normal_ end like this. Stock's way has outliers, and few tails in a
    narrow dtype; ours is a truncated normal with the key of the uniform draw.
    """

    def erfinv_(self: Tensor) -> Tensor:
        if has_torch_function_unary(self):
            shown = _shown(self, "erfinv_", stock)
            result: Tensor = handle_torch_function(shown, (self,), self)
            return result
        if not _is_compiling() and _takes_method(self) and fresh.invert_(self):
            return self
        result = stock(self)
        return result

    return _named_as(erfinv_, stock)


def factory(ours: Function, stock: Function) -> Function:
    """The stand-in for torch.randn or torch.rand; `ours` fills what `_empty` makes."""

    def stand_in(*size: object, **options: Any) -> Tensor:
        known = options.keys() <= _FACTORY_OPTIONS and not _is_compiling()
        if known and not _is_for_dtensor(sys._getframe()):
            made = _filled(ours, _empty, size, dict(options))
            if made is not None:
                return made
        result: Tensor = stock(*size, **options)
        return result

    return _named_as(stand_in, stock)


def _is_for_dtensor(frame: FrameType | None) -> bool:
    """Whether the factory in this frame makes a shard for `torch.distributed.tensor.randn` or rand.

    They ask for a plain tensor, of which each rank would get the same values, and see to the
    generator themselves. Their helper calls the factory, or what covers it.
    """
    module = sys.modules.get("torch.distributed.tensor._api")
    helper = getattr(module, "_dtensor_init_helper", None)
    if helper is None or frame is None:
        return False
    callers = (frame.f_back, frame.f_back and frame.f_back.f_back)
    return any(caller is not None and caller.f_code is helper.__code__ for caller in callers)


def like_factory(ours: Function, stock: Function) -> Function:
    """The stand-in for torch.randn_like or torch.rand_like."""

    def stand_in(*like: Any, **options: Any) -> Tensor:
        known = options.keys() <= _LIKE_OPTIONS and not _is_compiling()
        if known and len(like) == 1 and is_plain(type(like[0])):
            made = _filled(ours, _empty_like, like, dict(options))
            if made is not None:
                return made
        result: Tensor = stock(*like, **options)
        return result

    return _named_as(stand_in, stock)


def normal_factory(stock: Function) -> Function:
    """The stand-in for torch.normal, as far as it is given two numbers and a size."""

    def stand_in(*arguments: Any, **options: Any) -> Tensor:
        named = dict(zip(("mean", "std", "size"), arguments, strict=False))
        once = len(named) == len(arguments) and not named.keys() & options.keys()
        rest = {**named, **options}
        mean, std, size = (rest.pop(name, None) for name in ("mean", "std", "size"))
        numbers = isinstance(mean, int | float) and isinstance(std, int | float)
        known = once and rest.keys() <= _FACTORY_OPTIONS and not _is_compiling()
        if known and numbers and isinstance(size, tuple | list):
            made = _filled(partial(init.normal_, mean=mean, std=std), _empty, (size,), rest)
            if made is not None:
                return made
        result: Tensor = stock(*arguments, **options)
        return result

    return _named_as(stand_in, stock)


def _filled(
    ours: Function, empty: Function, arguments: tuple[object, ...], options: dict[str, Any]
) -> Tensor | None:
    """A new tensor, filled; None where only stock has the answer, be it an error."""
    generator = options.pop("generator", None)
    try:
        tensor: Tensor = empty(*arguments, **options)
    except (TypeError, ValueError, RuntimeError):
        return None  # stock refuses in its own words
    with torch._C.DisableTorchFunction():
        if not takes(tensor):
            return None
    filled: Tensor = ours(tensor, generator=generator)
    return filled


def _shown(tensor: Tensor, name: str, stock: Function) -> Function:
    """What `__torch_function__` gets to see of a method: ours, if only a mode is asked, which will
    call it; otherwise stock's, which the type may look for.
    """
    method: Function = getattr(Tensor, name)
    return method if is_plain(type(tensor)) else stock


def _takes_method(tensor: Tensor) -> bool:
    """As `takes`, for a method, which autograd would record or refuse."""
    return takes(tensor) and not (tensor.requires_grad and torch.is_grad_enabled())


def _named_as(stand_in: Function, stock: Function) -> Function:
    stand_in.__name__ = stand_in.__qualname__ = stock.__name__
    stand_in.__doc__ = stock.__doc__
    return stand_in
