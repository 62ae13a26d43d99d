"""Dimensions: the depth, layer, width and head width that an expression may ask for.

Owns how they are read off a model, and when that is ambiguous: then they have to be given. Must not
know laws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias, TypeGuard

from torch import nn

from fastinit.recipes.names import Block, BlockList, Found, nearest
from fastinit.recipes.patterns import Matcher, glob
from fastinit.recipes.roles import BLOCK_LISTS, EXPERT_LISTS

# A number for the whole model, or one for each pattern, in order.
Given: TypeAlias = float | tuple[tuple[Matcher, float], ...] | None

_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_WIDTHS = ("hidden_size", "d_model", "n_embd", "n_embed", "embed_dim", "dim", "width")
_HEAD_DIMS = (
    "head_dim",
    "d_kv",
    "attention_head_size",
    "key_value_proj_dim",
    "d_head",
    "kv_channels",
)


def given(name: str, value: object, matcher_of: Callable[[Any], Matcher]) -> Given:
    """`depth=` and the like as a recipe keeps it.

    Args:
        name: of the argument, for the message.
        value: None, a number, or a mapping from patterns to numbers.
        matcher_of: what compiles a pattern.

    Raises:
        TypeError: neither.
        ValueError: a number that is not above 0.
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        return tuple((matcher_of(key), _positive(name, number)) for key, number in value.items())
    return _positive(name, value)


def _positive(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{name} must be a number or a mapping from patterns to numbers, got {value!r} "
            f"({type(value).__name__})"
        )
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value!r}")
    return value


class Dimensions:
    """The dimensions of one model, found when first asked for.

    Args:
        root: the model.
        lists: tells all lists of blocks in it.
        embeddings: the widths of its token embeddings.
        depth, width, head_dim: what the recipe says of them.
        layers: the pattern that names the lists whose blocks count; None leaves it to this class.
    """

    def __init__(
        self,
        root: nn.Module,
        lists: Callable[[], Sequence[BlockList]],
        embeddings: Callable[[], frozenset[int]],
        *,
        depth: Given,
        width: Given,
        head_dim: Given,
        layers: str | None,
    ) -> None:
        self._root = root
        self._embeddings = embeddings
        self._given = {"depth": depth, "width": width, "head_dim": head_dim}
        self._lists = lists
        self._named = glob(layers) if layers is not None else None
        self._layers = layers
        self._depths: dict[int, float] = {}

    @cached_property
    def _counting(self) -> list[BlockList]:
        return [found for found in self._lists() if _counts(found)]

    def values(self, found: Found, names: frozenset[str]) -> dict[str, float]:
        """The values of these variables for a parameter.

        Raises:
            ValueError: a value is ambiguous or nowhere to be found, and has to be given.
        """
        makers = {
            "depth": self._depth,
            "layer": self._layer,
            "width": self._width,
            "head_dim": self._head_dim,
        }
        return {name: make(found) for name, make in makers.items() if name in names}

    def _told(self, name: str, found: Found) -> float | None:
        told = self._given[name]
        if not isinstance(told, tuple):
            return told
        for pattern, value in told:
            if pattern.matches(found, lambda _: None):
                return value
        return None

    # ----------------------------------------------------------------------------- depth, layer

    def _depth(self, found: Found) -> float:
        told = self._told("depth", found)
        if told is not None:
            return told
        block = self._block(found, "depth")
        owner = block.list if block is not None else self._only_list(found)
        if id(owner) not in self._depths:
            self._depths[id(owner)] = self._length(owner)
        return self._depths[id(owner)]

    def _layer(self, found: Found) -> float:
        block = self._block(found, "layer")
        if block is None:
            raise ValueError(f"{found.name} lies in no list of blocks, so it has no layer")
        return float(block.number)

    def _block(self, found: Found, name: str) -> Block | None:
        """The block that a parameter lies in; None if in none."""
        blocks = found.site.blocks
        if self._named is not None:
            inside = [b for b in blocks if self._named.fullmatch(b.list.name)]
            if len(inside) > 1:
                raise _ambiguous(name, found, [b.list for b in inside])
            return inside[0] if inside else None
        inside = [block for block in blocks if _counts(block.list)]
        if len(inside) > 1:
            known = [block for block in inside if block.list.step in BLOCK_LISTS]
            inside = known if len(known) == 1 else inside
        if len(inside) > 1:
            raise _ambiguous(name, found, [block.list for block in inside])
        if not inside:
            return None
        rivals = self._rivals(inside[0].list)
        if rivals:
            raise _ambiguous(name, found, [inside[0].list, *rivals])
        return inside[0]

    def _rivals(self, own: BlockList) -> list[BlockList]:
        """Lists beside this one, such as a decoder's beside an encoder's."""
        return [
            other
            for other in self._counting
            if other is not own
            and (own.leaves or not other.leaves)
            and all(block.list is not own for block in other.outer)
            and not any(_counts(block.list) for block in other.outer)
        ]

    def _only_list(self, found: Found) -> BlockList:
        lists = self._counting
        if self._named is not None:
            lists = [own for own in lists if self._named.fullmatch(own.name)]
        deep = [own for own in lists if not own.leaves] or lists
        outer = [own for own in deep if not any(_counts(block.list) for block in own.outer)]
        if len(outer) != 1:
            raise _ambiguous("depth", found, outer)
        return outer[0]

    def _length(self, own: BlockList) -> float:
        count = len(own.indices)
        configured = [n for n in (getattr(own.config, w, None) for w in _DEPTHS) if _is_count(n)]
        is_first = own.indices == list(range(count))
        if configured and (not is_first or (own.keyed and count < configured[0])):
            return float(configured[0])  # the blocks are those of a stage of a pipeline
        if not is_first:
            raise ValueError(
                f"{own.name} holds the blocks {own.indices[0]} to {own.indices[-1]} of a deeper "
                "model; give its depth=, as Recipe and the presets take it"
            )
        if configured and count not in configured and self._named is None:
            raise ValueError(
                f"{own.name} has {count} blocks, but the configuration says {configured[0]}; give "
                "the one that is meant by depth=, as Recipe and the presets take it"
            )
        return float(count)

    # ------------------------------------------------------------------------- width, head width

    def _width(self, found: Found) -> float:
        told = self._told("width", found)
        if told is not None:
            return told
        configured = _configured(found, _WIDTHS)
        if configured is not None:
            return configured
        widths = self._embeddings()
        if len(widths) == 1:
            return float(next(iter(widths)))
        own = [n for n in (getattr(self._root, word, None) for word in _WIDTHS) if _is_count(n)]
        if own and not widths:
            return float(own[0])
        raise ValueError(
            f"the width of the model is not known: its embeddings have {sorted(widths)}; give it "
            "by width=, as Recipe and the presets take it"
        )

    def _head_dim(self, found: Found) -> float:
        told = self._told("head_dim", found)
        if told is not None:
            return told
        for word in _HEAD_DIMS:
            value = nearest(found.site.link, word)
            if _is_count(value):
                return float(value)
        configured = _configured(found, _HEAD_DIMS)
        if configured is not None:
            return configured
        raise ValueError(
            f"the width of a head is not known for {found.name}; give it by head_dim=, as Recipe "
            "and the presets take it"
        )


def _configured(found: Found, words: Sequence[str]) -> float | None:
    config = nearest(found.site.link, "config")
    for word in words:
        value = getattr(config, word, None)
        if _is_count(value):
            return float(value)
    return None


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _counts(own: BlockList) -> bool:
    """Whether the list is one of blocks, that is of layers one behind the other."""
    if own.step in EXPERT_LISTS or not own.kinds:
        return False
    return len(own.kinds) == 1 or (own.step in BLOCK_LISTS and not _mixed_inside(own))


def _mixed_inside(own: BlockList) -> bool:
    """Whether a list of different things lies within a block, as T5's `layer` does."""
    return any(len(block.list.kinds) == 1 for block in own.outer)


def _ambiguous(name: str, found: Found, lists: Sequence[BlockList]) -> ValueError:
    told = ", ".join(f"{own.name or 'the module itself'} ({len(own.indices)})" for own in lists)
    remedy = f"give {name}=" if name == "depth" else "name the one that is meant by layers="
    return ValueError(
        f"{name} is ambiguous for {found.name}: the model has {told or 'no list of blocks'}; "
        f"{remedy}, as Recipe takes it (depth=12, depth={{'encoder.**': 12, ...}}, "
        "layers='**.layers')"
    )
