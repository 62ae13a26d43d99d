"""Whole models on several ranks have the values that one process gives them.

Real processes: gloo on the CPU, NCCL where there are GPUs. The oracle is one process without any
sharding; fingerprints are compared, which `test_models_manifest` holds to each bit.
"""

from __future__ import annotations

import functools
import resource
import time
from typing import Any

import _ranks
import _ranks_models
import pytest
import torch
from _ranks_models import RECIPES, WAYS
from _simulated import rank_of
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import fastinit

pytestmark = pytest.mark.filterwarnings("ignore")

WORLDS = [
    pytest.param((world, device), id=f"{device}{world}")
    for device in ("cpu", "cuda")
    for world in (1, 2, 4)
]


@functools.cache
def answers(world: int, device: str) -> dict[str, list[Any]]:
    return _ranks.run(world, device, "_ranks_models")


@functools.cache
def single_process(recipe: str) -> dict[str, str]:
    model = _ranks_models.on_meta()
    _ranks_models.materialized(model, recipe)
    return fastinit.fingerprint(model)


@pytest.fixture(params=WORLDS)
def answer(request: pytest.FixtureRequest) -> Any:
    """The answers of all ranks to a scenario, on each number of ranks."""
    world, device = request.param
    if device == "cuda" and torch.cuda.device_count() < world:
        pytest.skip(f"needs {world} CUDA devices")

    def of(name: str) -> list[Any]:
        for given in (found := answers(world, device)[name]):
            if isinstance(given, AssertionError):
                raise given
        return found

    of.world, of.device = world, device
    return of


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("way", WAYS)
def test_a_model_has_the_values_of_one_process(answer: Any, way: str, recipe: str) -> None:
    for found in answer(f"materialize {way}"):
        prints, count, differences, _, tied = found[recipe]
        assert prints == single_process(recipe)
        assert differences == [] and tied
        sharded = way != "unsharded"
        assert count == int(sharded)  # one collective in all


def test_ranks_hold_parts(answer: Any) -> None:
    """Or else the test above would prove little."""
    for way in ("fsdp", "tensor_parallel", "fsdp_and_tensor_parallel"):
        for found in answer(f"materialize {way}"):
            assert found["native"][3] == 1 if answer.world == 1 else found["native"][3] < 0.8


@pytest.mark.parametrize("recipe", RECIPES)
def test_halves_of_a_pipeline(answer: Any, recipe: str) -> None:
    union: dict[str, str] = {}
    for _, found in answer("pipeline"):
        prints = found[recipe]
        assert prints.items() <= single_process(recipe).items()
        union.update(prints)
    assert union == single_process(recipe)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("way", WAYS)
def test_a_manifest_loads_as_a_checkpoint(answer: Any, way: str, recipe: str) -> None:
    for found, message in answer(f"load {way}"):
        assert found[recipe] == single_process(recipe)
        assert "extra.weight" in message and "Missing key" in message


# ------------------------------------------------------------------------------- a large mesh


class LlamaBlock(nn.Module):
    def __init__(self, width: int, inner: int, shared: int) -> None:
        super().__init__()
        sizes = {"q_proj": width, "k_proj": shared, "v_proj": shared}
        self.self_attn = nn.ModuleDict(
            {
                **{name: nn.Linear(width, size, bias=False) for name, size in sizes.items()},
                "o_proj": nn.Linear(width, width, bias=False),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(width, inner, bias=False),
                "up_proj": nn.Linear(width, inner, bias=False),
                "down_proj": nn.Linear(inner, width, bias=False),
            }
        )
        self.input_layernorm = nn.RMSNorm(width)
        self.post_attention_layernorm = nn.RMSNorm(width)


class Llama70B(nn.Module):
    """The shapes of Llama 3 70 B."""

    def __init__(self, depth: int = 80) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(128256, 8192)
        self.layers = nn.ModuleList(LlamaBlock(8192, 28672, 1024) for _ in range(depth))
        self.norm = nn.RMSNorm(8192)
        self.lm_head = nn.Linear(8192, 128256, bias=False)


def share_of_70b(rank: int) -> tuple[nn.Module, float, int]:
    """Rank `rank` of 128 x 8 makes its share: the model, the time and the memory it takes."""
    with torch.device("meta"):
        model = Llama70B()
    columns = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj",
               "mlp.up_proj")  # fmt: skip
    plan: dict[str, Any] = {name: ColwiseParallel() for name in columns}
    plan |= {"self_attn.o_proj": RowwiseParallel(), "mlp.down_proj": RowwiseParallel()}
    with rank_of((128, 8), rank, ("dp", "tp")) as mesh:
        for block in model.layers:
            parallelize_module(block, mesh["tp"], plan)
            fully_shard(block, mesh=mesh["dp"])
        fully_shard(model, mesh=mesh["dp"])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        fastinit.materialize_(model, "cpu", "llama", seed=1, dtype=torch.bfloat16)
        seconds = time.perf_counter() - start
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return model, seconds, memory


def test_a_rank_of_1024_makes_its_share_of_70_billion() -> None:
    model, seconds, memory = share_of_70b(rank=777)
    total = sum(p.numel() for p in model.parameters())
    share = sum(p._local_tensor.numel() for p in model.parameters())
    assert total > 70e9 and share < total / 128 * 1.2
    # Embeddings and norms are not cut by tensor parallelism, so a share is more than 1/1024.
    assert memory < 2 * share + 200e6
    assert seconds < 30
    name = "layers.79.mlp.down_proj.weight"
    weight = model.get_parameter(name)
    key = fastinit.Key(1).fold_in(name)
    row, column = 777 // 8 * 64, 777 % 8 * 3584
    region = fastinit.Region((8192, 28672), (row, column))
    expected = torch.empty(64, 3584, dtype=torch.bfloat16)
    fastinit.normal_(expected, std=0.02, key=key, region=region)
    assert torch.equal(weight._local_tensor, expected)
