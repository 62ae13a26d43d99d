"""Whence a DTensor has its key and its std, and that the ranks agree on it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _bits import assert_same_bits
from _simulated import every_rank, on_rank, own_part, rank_of, sharded
from conftest import POISON
from test_sharding import RANDOM
from torch import Tensor, nn
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.placement_types import Placement, _StridedShard

import fastinit

pytestmark = pytest.mark.usefixtures("no_process_group")

# ------------------------------------------------------------------------------------------ keys


@pytest.mark.parametrize("name", RANDOM)
def test_without_a_key_the_cpu_generator_decides(name: str) -> None:
    """As for a plain tensor, and whatever the rank holds: two words are drawn on all of them."""
    torch.manual_seed(7)
    whole = [RANDOM[name](torch.empty(3, 5)) for _ in range(2)]
    after = torch.get_rng_state()
    for placements in ([Shard(0)], [Shard(1)], [Replicate()], [_StridedShard(0, split_factor=2)]):
        for mesh in every_rank((4,)):
            torch.manual_seed(7)
            for expected in whole:
                tensor = on_rank((3, 5), placements, mesh)
                RANDOM[name](tensor)
                assert_same_bits(tensor.to_local(), own_part(expected, mesh, placements))
            assert torch.equal(torch.get_rng_state(), after)


def test_a_tensor_outlives_its_process_groups() -> None:
    with rank_of((2,), 1) as mesh:
        tensor = on_rank((6, 5), [Shard(0)], mesh)
    torch.manual_seed(7)
    fastinit.normal_(tensor)
    torch.manual_seed(7)
    assert_same_bits(tensor._local_tensor, fastinit.normal_(torch.empty(6, 5))[3:])


@pytest.mark.parametrize("name", RANDOM)
def test_a_generator_is_used(name: str) -> None:
    expected = RANDOM[name](torch.empty(6, 5), generator=torch.Generator().manual_seed(3))
    placements: list[Placement] = [_StridedShard(0, split_factor=3)]
    before = torch.get_rng_state()
    for mesh in every_rank((2,)):
        generator = torch.Generator().manual_seed(3)
        tensor = on_rank((6, 5), placements, mesh)
        RANDOM[name](tensor, generator=generator)
        assert_same_bits(tensor.to_local(), own_part(expected, mesh, placements))
        assert not torch.equal(generator.get_state(), torch.Generator().manual_seed(3).get_state())
    assert torch.equal(torch.get_rng_state(), before)


def test_key_tensors_and_children() -> None:
    key = fastinit.Key(4).fold_in("layer.weight")
    expected = fastinit.normal_(torch.empty(6, 5), key=key)
    with rank_of((2,), 1) as mesh:
        for given_key in (key, key.to_tensor()):
            tensor = on_rank((6, 5), [Shard(0)], mesh)
            fastinit.normal_(tensor, key=given_key)
            assert_same_bits(tensor.to_local(), expected[3:])


def drawn_around_forks(new: Callable[[], Tensor]) -> list[Tensor]:
    torch.manual_seed(1)
    found = [fastinit.normal_(new())]
    with torch.random.fork_rng():
        nn.init.normal_(new())
    found.append(fastinit.normal_(new()))
    with torch.random.fork_rng():
        found += [fastinit.normal_(new()) for _ in range(2)]
    with torch.random.fork_rng():
        found.append(fastinit.normal_(new()))
    return found


def test_fork_rng_repeats_nothing_but_another_fork() -> None:
    """DTensor's own random calls keep a state of their own that forks restore; ours does not."""
    with rank_of((2,), 0) as mesh:
        tensors = drawn_around_forks(lambda: on_rank((6, 5), [Shard(0)], mesh))
    found = [tensor._local_tensor for tensor in tensors]
    for one, other in itertools.combinations(found[:4], 2):
        assert not torch.equal(one, other)
    assert_same_bits(found[4], found[2])
    for tensor, plain in zip(found, drawn_around_forks(lambda: torch.empty(6, 5)), strict=True):
        assert_same_bits(tensor, plain[:3])


def example(word: str) -> str:
    """The example of docs/sharding.md in which this occurs."""
    text = (Path(__file__).resolve().parents[1] / "docs" / "sharding.md").read_text()
    (found,) = (b for b in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if word in b)
    return str(found)


def test_the_loop_of_the_documents_knows_the_names_of_the_bare_model() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    loop = example("wrappers")
    loop = loop[loop.index("wrappers =") :]

    def initialized(*wraps: Callable[[nn.Module], Any]) -> list[Tensor]:
        model = nn.Sequential(*(nn.Sequential(nn.Linear(5, 3), nn.LayerNorm(3)) for _ in range(2)))
        for block, wrap in enumerate(wraps):
            model[block] = wrap(model[block])
        exec(loop, {"model": model, "re": re, "fastinit": fastinit})
        return [parameter.detach() for parameter in model.parameters()]

    expected = initialized()
    assert not torch.equal(expected[0], expected[4])
    wrap: Any = torch.compile
    for one, other in zip(expected, initialized(wrap, checkpoint_wrapper), strict=True):
        assert_same_bits(one, other)


def test_fused_and_padded_slices_as_in_the_documents() -> None:
    def fill(tp_rank: int, tp_size: int) -> tuple[Tensor, Tensor]:
        names = {"tp_rank": tp_rank, "tp_size": tp_size, "hidden": 8, "vocabulary": 13}
        names |= {"q_rows": 12 // tp_size, "kv_rows": 4 // tp_size}
        qkv = torch.full((20 // tp_size, 8), POISON)
        words = torch.full((32 // tp_size, 8), POISON)
        tensors = {"qkv": qkv, "words": words, "key": fastinit.Key(1)}
        exec(example("vocabulary"), {**names, **tensors, "fastinit": fastinit})
        return qkv, words

    whole_qkv, whole_words = fill(0, 1)
    assert not (whole_qkv == POISON).any() and not whole_words[13:].any()
    shares = [fill(rank, 4) for rank in range(4)]
    parts = zip(*(qkv.split([3, 1, 1]) for qkv, _ in shares), strict=True)
    assert_same_bits(torch.cat([torch.cat(part) for part in parts]), whole_qkv)
    assert_same_bits(torch.cat([words for _, words in shares]), whole_words)


def test_a_std_on_the_device() -> None:
    expected = fastinit.normal_(torch.empty(6, 5), std=torch.tensor(0.25), key=1)
    with rank_of((2,), 1) as mesh:
        tensor = on_rank((6, 5), [Shard(0)], mesh)
        fastinit.normal_(tensor, std=torch.tensor(0.25), key=1)
        assert_same_bits(tensor.to_local(), expected[3:])


def test_a_std_that_is_a_dtensor() -> None:
    std = torch.tensor(0.25)
    for fill in (fastinit.normal_, lambda t, std, key: fastinit.orthogonal_(t, std, key=key)):
        expected = fill(torch.empty(6, 5), std=std, key=1)
        with rank_of((2,), 1) as mesh:
            tensor = on_rank((6, 5), [Shard(0)], mesh)
            fill(tensor, std=sharded(std, std, mesh, [Replicate()]), key=1)
            assert_same_bits(tensor.to_local(), expected[3:])
            with pytest.raises(ValueError, match=r"^(std|gain) is a DTensor .*Partial\(sum\)"):
                fill(tensor, std=sharded(std, std, mesh, [Partial()]), key=1)
            assert_same_bits(tensor.to_local(), expected[3:])
