"""Recognition: which module made the tensor that another one takes.

Owns what makes a tensor the same as before: its storage, still alive, and no write in between.
Views and reshapes pass; whatever computes something new does not. Must not know what is looked for.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

_What = TypeVar("_What")


class Made(Generic[_What]):
    """What was noted of tensors, found again by them or by views of them; keeps none alive."""

    def __init__(self) -> None:
        self._noted: dict[int, tuple[Any, int, _What]] = {}  # by address of the storage

    def note(self, tensor: Tensor, what: _What) -> None:
        """Note something of a tensor as it is now."""
        storage = tensor.untyped_storage()
        self._noted[storage.data_ptr()] = (_weak(storage), _version(tensor), what)

    def find(self, tensor: Tensor) -> _What | None:
        """What was noted of it; None if nothing was, or if it has been written to since."""
        noted = self._noted.get(tensor.untyped_storage().data_ptr())
        if noted is None or noted[0].expired() or noted[1] != _version(tensor):
            return None
        return noted[2]


def _weak(storage: torch.UntypedStorage) -> Any:
    return StorageWeakRef(storage)  # type: ignore[no-untyped-call]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
