"""`keyed`: a seed for every draw of a context that names no key.

Owns the public scope; which key a draw then takes is `_fill.keys`'s.
"""

from __future__ import annotations

from fastinit._fill.keys import Key, KeyScope, close_scope, open_scope
from fastinit._intercept.scopes import Scope


class keyed(Scope[KeyScope]):  # noqa: N801  (used like a function)
    """Give every draw inside that names no key one of its own, derived from a seed.

    Formula: draw number n, from 0, takes `Key(seed).fold_in(n)`. Draws that name a key or a
    generator are not counted, nor are those into meta tensors or tensors without elements, which
    have no values. A call that is refused may have been counted.

    Args:
        seed: an integer, taken mod 2^64.

    Raises:
        TypeError: seed is not an integer.

    Reproducibility: the values inside depend on the seed and the order of the draws, on no device,
    rank or torch generator, and no torch generator moves. The innermost seed counts. It holds for
    the context (`contextvars`) that enters it: other threads are not affected, and tasks that are
    started inside inherit it.

    Example:
        >>> import torch, fastinit
        >>> with fastinit.keyed(7):
        ...     w = fastinit.normal_(torch.empty(3, 5))
        >>> key = fastinit.Key(7).fold_in(0)
        >>> torch.equal(w, fastinit.normal_(torch.empty(3, 5), key=key))
        True
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = Key(seed).seed

    def _begin(self) -> KeyScope:
        return open_scope(self._seed)

    def _end(self, use: KeyScope) -> None:
        close_scope(use)
