"""Keys: 128 bits that decide every value of a tensor.

Owns `Key`, the conversion of the `generator`, `key` and `region` arguments into what the compiled
operators take, and the one place where a draw that names no key gets one. Must not know any
distribution. The derivation of child keys follows Salmon et al., "Parallel random numbers: as easy
as 1, 2, 3" (SC'11): a counter-based generator turns (key, index) into an independent key.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from numbers import Integral
from typing import TypeAlias, TypeGuard

import torch
from torch import Tensor

from fastinit._fill.extension import at_compile_time, native, untraceable
from fastinit._fill.placements import is_dtensor
from fastinit._fill.regions import Region

_MASK64 = (1 << 64) - 1
_SIGN64 = 1 << 63


Stream: TypeAlias = tuple[
    torch.Generator | None,
    tuple[int, int] | None,
    Tensor | None,
    tuple[int, ...] | None,
    tuple[int, ...] | None,
]


def _word(name: str, value: object, remedy: str) -> int:
    """`value` mod 2^64; a TypeError naming the argument if it is no integer."""
    if not isinstance(value, bool):
        if isinstance(value, int):
            return value & _MASK64
        if isinstance(value, Integral):  # NumPy's
            return int(value) & _MASK64
    raise TypeError(f"{name} must be an int, got {value!r} ({type(value).__name__}); {remedy}")


@at_compile_time
def _child(seed: int, offset: int, index: int) -> tuple[int, int]:
    pair: tuple[int, int] = native.child_key(seed, offset, index)
    return pair


@at_compile_time
def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class Key:
    """A reproducible source of values: the same key gives the same tensor, everywhere.

    Formula: element i of a tensor is a function of `philox(seed, offset + i // 4)` alone (two
    elements to a counter step in float64). It has the meaning of a `torch.func._random` key.

    Source: Salmon et al., SC'11, section 3 (Philox4x32-10).

    Args:
        seed: an integer, taken mod 2^64.
        offset: where in the seed's sequence to start, in counter steps, taken mod 2^64.

    Raises:
        TypeError: seed or offset is not an integer (a bool is not one here).

    Reproducibility: a Key is a value. It is frozen, hashable, picklable, and drawing with it
    changes nothing: two draws with one key are equal. Take `fold_in` or `split` for fresh ones.

    Example:
        >>> import torch, fastinit
        >>> key = fastinit.Key(7).fold_in("decoder.weight")
        >>> w = fastinit.normal_(torch.empty(2, 3), key=key)
        >>> torch.equal(w, fastinit.normal_(torch.empty(2, 3), key=key))
        True
    """

    seed: int
    offset: int = 0

    def __post_init__(self) -> None:
        remedy = "any integer will do, it is taken mod 2**64"
        object.__setattr__(self, "seed", _word("seed", self.seed, remedy))
        object.__setattr__(self, "offset", _word("offset", self.offset, remedy))

    def fold_in(self, data: int | str) -> Key:
        """The child key that `data`, an index or a name, stands for.

        Args:
            data: an integer, taken mod 2^64, or a name, which stands for the little-endian
                64-bit integer of the 8-byte BLAKE2b digest of its UTF-8 bytes.

        Returns:
            Child number `data`: `fold_in(i) == split(n)[i]` for every n > i.

        Raises:
            TypeError: data is neither an integer nor a string.

        Example:
            >>> import fastinit
            >>> fastinit.Key(0).fold_in("wte") == fastinit.Key(0).fold_in("wpe")
            False
        """
        if isinstance(data, str):
            index = _digest(data)
        else:
            index = _word("data", data, "fold in an int or a str")
        return Key(*_child(self.seed, self.offset, index))

    def split(self, n: int) -> tuple[Key, ...]:
        """The first n child keys.

        Args:
            n: how many, at least 0.

        Returns:
            A tuple of n keys, independent of each other and of this one.

        Raises:
            TypeError: n is not an integer.
            ValueError: n is negative.

        Example:
            >>> import fastinit
            >>> a, b = fastinit.Key(0).split(2)
        """
        if not isinstance(n, Integral) or isinstance(n, bool):
            raise TypeError(f"n must be an int, got {n!r} ({type(n).__name__}); pass a count")
        if n < 0:
            raise ValueError(f"n must be at least 0, got {n}; pass how many keys to make")
        return tuple(Key(*_child(self.seed, self.offset, i)) for i in range(n))

    def to_tensor(self, device: torch.device | str | None = None) -> Tensor:
        """Make a uint64 tensor `[seed, offset]`, a key for `torch.func._random` as well.

        Args:
            device: where to put it (default: torch's default device).

        Returns:
            A uint64 tensor of shape (2,).
        """
        return torch.tensor([self.seed, self.offset], dtype=torch.uint64, device=device)

    @classmethod
    def from_tensor(cls, tensor: Tensor) -> Key:
        """The key a uint64 tensor `[seed, offset]` holds; waits for the tensor's device.

        Args:
            tensor: uint64, shape (2,), such as `Key.to_tensor` or `torch.func._random.key` makes.

        Returns:
            The key.

        Raises:
            TypeError: not a tensor, or not of dtype uint64.
            ValueError: another shape, or a meta tensor, which has no values.
        """
        remedy = "pass a uint64 tensor [seed, offset] of shape (2,)"
        if not isinstance(tensor, Tensor):
            raise TypeError(f"tensor must be a Tensor, got {type(tensor).__name__}; {remedy}")
        if tensor.dtype != torch.uint64:
            raise TypeError(f"tensor must have dtype torch.uint64, got {tensor.dtype}; {remedy}")
        if tensor.shape != (2,):
            raise ValueError(f"tensor must have shape (2,), got {tuple(tensor.shape)}; {remedy}")
        if tensor.is_meta:
            raise ValueError(f"tensor must hold values, got a meta tensor; {remedy}")
        seed, offset = tensor.tolist()
        return cls(seed, offset)


_OneKey: TypeAlias = Key | int | Tensor
KeyLike: TypeAlias = _OneKey | Sequence[_OneKey]


class KeyScope:
    """One use of a seed in one context: an endless row of keys, the outer scope, open or not.

    Instead of the row it may have a function that chooses a key by the tensor to fill. It is
    closed, not taken off the context, since that need not be at hand where it ends.
    """

    __slots__ = ("choose", "indices", "key", "open", "outer")

    def __init__(
        self, key: Key, outer: KeyScope | None, choose: Callable[[Tensor], Key] | None
    ) -> None:
        self.key = key
        self.outer = outer
        self.choose = choose
        self.indices = count()  # next() is atomic: threads may share a context
        self.open = True

    def next(self, tensor: Tensor) -> tuple[int, int]:
        """The words of the next key."""
        if self.choose is not None:
            key = self.choose(tensor)
            return key.seed, key.offset
        words: tuple[int, int]
        words = native.child_key(self.key.seed, self.key.offset, next(self.indices))
        return words


_scope: ContextVar[KeyScope | None] = ContextVar("fastinit.keyed", default=None)
_scopes_lock = threading.Lock()
_open_scopes = 0  # in all contexts; what spares everyone else a look at the context


def _innermost() -> KeyScope | None:
    scope = _scope.get()
    while scope is not None and not scope.open:
        scope = scope.outer
    return scope


def open_scope(seed: int, choose: Callable[[Tensor], Key] | None = None) -> KeyScope:
    """From here on the draws of this context that name no key take children of Key(seed).

    Args:
        seed: of the key.
        choose: the key of a draw into a tensor, if it is not to depend on the draws before.
    """
    global _open_scopes
    scope = KeyScope(Key(seed), _innermost(), choose)
    with _scopes_lock:
        _open_scopes += 1
    _scope.set(scope)
    return scope


def close_scope(scope: KeyScope) -> None:
    """End what `open_scope` began, from wherever; scopes need not end in order."""
    global _open_scopes
    with _scopes_lock:
        if scope.open:
            scope.open = False
            _open_scopes -= 1
    _scope.set(_innermost())


def missing_key(tensor: Tensor, region: Region | None) -> Key | Tensor | None:
    """The key of a draw into `tensor` that names neither key nor generator.

    None stands for the default generator of the tensor's device.
    """
    found = missing_words(tensor, region)
    return Key(*found) if isinstance(found, tuple) else found


def missing_words(tensor: Tensor, region: Region | None) -> tuple[int, int] | Tensor | None:
    """The words of `missing_key`, without a sign; a tensor for a compiled caller."""
    if not _open_scopes or tensor.is_meta or (region is None and tensor.numel() == 0):
        return None
    return _words_of_scope(tensor, torch.compiler.is_dynamo_compiling())


def signed_words(tensor: Tensor) -> tuple[int, int] | None:
    """As `missing_key`, in signed words, for a draw into elements that is not compiled."""
    scope = _innermost() if _open_scopes else None
    if scope is None:
        return None
    seed, offset = scope.next(tensor)
    return _signed(seed), _signed(offset)


@untraceable
def _words_of_scope(tensor: Tensor, compiling: bool) -> tuple[int, int] | Tensor | None:
    """The next key of the innermost scope; a tensor for a compiled caller, which would otherwise
    be compiled anew for each value.
    """
    scope = _innermost()
    if scope is None:
        return None
    words = scope.next(tensor)
    return Key(*words).to_tensor("cpu") if compiling else words


def can_draw_key(generator: torch.Generator | None, device: torch.device) -> bool:
    """Whether `key_from_generator` can stand in for a fill on this device."""
    if device.type == "cuda":
        # torch.Generator("cuda") has no index and serves any device.
        own = device if generator is None else generator.device
        return own.type == "cuda" and own.index in (None, device.index)
    return device.type == "cpu"


def key_from_generator(generator: torch.Generator | None, device: torch.device) -> tuple[int, int]:
    """The signed words of the key that a fill on this device would draw from `generator` now."""
    if device.type == "cuda":
        own = torch.cuda.default_generators[device.index] if generator is None else generator
        offset = own.get_offset()
        own.set_offset(offset + 4)  # one counter step
        first, second = native.cuda_generator_key(own.initial_seed(), offset)
    else:
        first, second = native.cpu_generator_key(generator)
    return _signed(first), _signed(second)


def stream(
    tensor: Tensor,
    generator: torch.Generator | None,
    key: KeyLike | None,
    region: Region | None,
) -> Stream | tuple[torch.Generator | None]:
    """The last arguments of every compiled fill, from the public ones.

    Args:
        tensor: the tensor to fill.
        generator, key, region: as the user gave them.

    Returns:
        (generator, signed (seed, offset), key tensor, global shape, offsets), or (generator,)
        where the rest would be None.

    Raises:
        TypeError: key or region is of another type than documented.
        ValueError: both key and generator are given.
    """
    if generator is None:
        if key is None:
            words = missing_words(tensor, region)
            if words is None and region is None:
                return (None,)
            if isinstance(words, tuple):
                signed = _signed(words[0]), _signed(words[1])
                return None, signed, None, *_rectangle(region)
            key = words
    elif key is not None:
        raise ValueError(
            f"key and generator exclude each other, got key={key!r} and a generator; pass one"
        )
    elif not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator, got {generator!r}; pass key= for a number"
        )
    if key is None and region is None:
        return (generator,)
    return generator, *_key_arguments(key), *_rectangle(region)


def _rectangle(
    region: Region | None,
) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    if region is None:
        return None, None
    if not isinstance(region, Region):
        raise TypeError(
            f"region must be a fastinit.Region, got {region!r} ({type(region).__name__}); "
            "pass fastinit.Region(global_shape, offsets)"
        )
    return region.global_shape, region.offsets


def _key_arguments(key: KeyLike | None) -> tuple[tuple[int, int] | None, Tensor | None]:
    if key is None:
        return None, None
    if isinstance(key, Tensor):
        return None, key
    if isinstance(key, Key):
        return (_signed(key.seed), _signed(key.offset)), None
    if _is_sequence(key):
        return None, _table(key)
    return (_signed(_word("key", key, _REMEDY)), 0), None


_REMEDY = (
    "pass a fastinit.Key, an int, a uint64 tensor of shape (2,), or a sequence of them, one for "
    "each slice of axis 0"
)


def one_key_only(what: str) -> ValueError:
    return ValueError(
        f"key holds a key for each slice of the tensor, which {what}; fill the slices one by one"
    )


def _is_sequence(key: object) -> TypeGuard[Sequence[_OneKey]]:
    return isinstance(key, Sequence) and not isinstance(key, (str, bytes))


def _table(keys: Sequence[_OneKey]) -> Tensor:
    """The uint64 tensor (n, 2) of n keys."""
    if any(isinstance(key, Tensor) for key in keys):
        if not all(isinstance(key, Tensor) for key in keys):
            raise TypeError(
                "key must not mix tensors with other keys, got "
                f"{sorted({type(key).__name__ for key in keys})}; convert with Key.to_tensor"
            )
        return torch.stack(list(keys))  # type: ignore[arg-type]
    words = [
        (key.seed, key.offset) if isinstance(key, Key) else (_word("key", key, _REMEDY), 0)
        for key in keys
    ]
    return torch.tensor(words, dtype=torch.uint64, device="cpu").view(-1, 2)


def keys_of_slices(
    key: KeyLike | None, tensor: Tensor, region: Region | None
) -> list[_OneKey] | None:
    """The keys of the tensor's slices along axis 0; None if `key` is one for all of it.

    For those who fill slice by slice; the operators take the table of all keys.

    Raises:
        ValueError: not as many keys as slices, a region or a DTensor.
    """
    if isinstance(key, Tensor) and key.ndim == 2:
        found: list[_OneKey] = list(key)
    elif _is_sequence(key):
        _table(key)  # refuses what are no keys
        found = list(key)
    else:
        return None
    if region is not None:
        raise one_key_only("has a region")
    if is_dtensor(tensor):
        raise one_key_only("is a DTensor")
    if tensor.ndim < 1 or len(found) != tensor.size(0):
        raise ValueError(
            f"key holds {len(found)} keys, but the tensor has shape {tuple(tensor.shape)}; give "
            "one key for each of its slices along axis 0"
        )
    return found


def words_of_names(key: Key, names: Sequence[str]) -> list[tuple[int, int]]:
    """The words of `key.fold_in(name)` for each name, as operators take them."""
    words: list[tuple[int, int]] = native.named_keys(key.seed, key.offset, names)
    return words


def _signed(word: int) -> int:
    """The int64 with the bits of a uint64: what an operator schema can carry."""
    return word - (1 << 64) if word & _SIGN64 else word
