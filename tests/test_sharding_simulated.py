"""A rank of a thousand: its share of a Llama-shaped model of 70 billion parameters.

One process takes part in a fake process group of 1024 ranks, 8 of them for tensor parallelism.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch
from _bits import assert_same_bits
from _memory import growth
from _simulated import rank_of
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import fastinit

HIDDEN, FEED, KEY_VALUE, VOCABULARY, LAYERS = 8192, 28672, 1024, 128256, 80
RANK = 613
KEY = fastinit.Key(2026)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.o = (nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(HIDDEN, KEY_VALUE, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(HIDDEN, FEED, bias=False) for _ in range(2))
        self.down = nn.Linear(FEED, HIDDEN, bias=False)
        self.norm = nn.RMSNorm(HIDDEN)


class Llama(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = nn.Linear(HIDDEN, VOCABULARY, bias=False)


@pytest.fixture(scope="module")
def model() -> Iterator[Llama]:
    """The sharded model on meta: eight ways by heads, then by rows over 128 ranks."""
    with rank_of((128, 8), RANK, ("dp", "tp")) as mesh:
        with torch.device("meta"):
            llama = Llama().to(torch.bfloat16)
        shard(llama, mesh)
        yield llama


def shard(llama: Llama, mesh: DeviceMesh) -> None:
    columns, rows = (ColwiseParallel, RowwiseParallel)
    plan = {"q": columns, "k": columns, "v": columns, "gate": columns, "up": columns}
    plan |= {"o": rows, "down": rows}
    for layer in llama.layers:
        parallelize_module(layer, mesh["tp"], {name: style() for name, style in plan.items()})
        fully_shard(layer, mesh=mesh["dp"])
    fully_shard(llama, mesh=mesh["dp"])


def init(name: str, parameter: Tensor) -> None:
    key = KEY.fold_in(name)
    if parameter.ndim == 1:
        fastinit.ones_(parameter)
    elif name == "words.weight":
        fastinit.normal_(parameter, std=0.02, key=key)
    elif name.endswith("o.weight"):
        fastinit.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04, key=key)
    else:
        fastinit.kaiming_uniform_(parameter, a=5**0.5, key=key)


@pytest.mark.timed
def test_meta_costs_next_to_nothing(model: Llama) -> None:
    assert sum(p.numel() for p in model.parameters()) > 70e9
    start = time.process_time()
    with growth() as grown:
        for name, parameter in model.named_parameters():
            init(name, parameter)
    assert time.process_time() - start < 10
    assert grown.bytes < 64 << 20


@pytest.mark.timed
def test_materialised_shards_are_the_regions(model: Llama) -> None:
    """A layer, and the words: the bits, the memory, and the time per element of a rank's share."""
    chosen = {n: p for n, p in model.named_parameters() if n.startswith(("words", "layers.79."))}
    elements, seconds = 0, 0.0
    for name, parameter in chosen.items():
        assert isinstance(parameter, DTensor)
        local = torch.zeros(parameter._local_tensor.shape, dtype=torch.bfloat16)
        tensor = DTensor.from_local(
            local,
            parameter.device_mesh,
            parameter.placements,
            run_check=False,
            shape=parameter.shape,
            stride=parameter.stride(),
        )
        start = time.process_time()
        with growth() as grown:
            init(name, tensor)
        seconds += time.process_time() - start
        # zeros took no memory yet. The words, whole, are 2 GB.
        assert grown.bytes < local.nbytes + (8 << 20)
        elements += local.numel()
        compare_with_regions(name, tensor)
    assert elements < 2 * sum(p.numel() for p in chosen.values()) / 128
    assert seconds < 10e-9 * elements + 0.1


def compare_with_regions(name: str, tensor: DTensor) -> None:
    """The rank is (76, 5): of the rows a tensor-parallel rank has, FSDP gives it part 76 of 128."""
    data, heads = divmod(RANK, 8)
    rows, columns, *_ = *tensor.shape, 1
    if tensor.ndim == 1 or name == "words.weight":
        at, extent = (data * (rows // 128), 0), (rows // 128, columns)
    elif name.endswith(("o.weight", "down.weight")):
        at, extent = (data * (rows // 128), heads * (columns // 8)), (rows // 128, columns // 8)
    else:
        own = rows // 8
        at, extent = (heads * own + data * (own // 128), 0), (own // 128, columns)
    if tensor.ndim == 1:
        assert tensor._local_tensor.shape == extent[:1] and (tensor._local_tensor == 1).all()
        return
    expected = torch.empty(extent, dtype=tensor.dtype)
    region = fastinit.Region(tuple(tensor.shape), at)
    whole_shape = {"region": region, "key": KEY.fold_in(name)}
    if name == "words.weight":
        fastinit.normal_(expected, std=0.02, **whole_shape)
    elif name.endswith("o.weight"):
        fastinit.trunc_normal_(expected, std=0.02, a=-0.04, b=0.04, **whole_shape)
    else:
        fastinit.kaiming_uniform_(expected, a=5**0.5, **whole_shape)
    assert_same_bits(tensor._local_tensor, expected)
