"""What each of several real processes does, and the start of them: gloo on the CPU, NCCL on GPUs.

A scenario is a function of (world size, device) that every rank runs; what rank r returns is
answer[r]. All scenarios of a world size run in the same processes, as starting them is slow.
"""

from __future__ import annotations

import functools
import importlib
import random
import tempfile
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.distributed.tensor.placement_types import Placement, _StridedShard
from torch.testing._internal.distributed.fake_pg import FakeStore

import fastinit

Scenario = Callable[[int, str], Any]
SCENARIOS: dict[str, Scenario] = {}

WIDTH, HIDDEN, HEADS, WORDS, LENGTH = 16, 44, 4, 37, 9


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


# -------------------------------------------------------------------------------------- a model


class Block(nn.Module):
    """A transformer block, its projections apart as tensor parallelism wants them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (f(y).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)
                   for f in (self.q, self.k, self.v))  # fmt: skip
        weights = (q @ k.transpose(-1, -2) / 2).softmax(-1)
        x = x + self.o((weights @ v).transpose(1, 2).flatten(-2))
        return x + self.down(self.up(x).relu())


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def init_weights(model: nn.Module, init: Any = fastinit) -> None:
    """Initialize with `fastinit` or `torch.nn.init`, as models in the wild do: no key named."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.trunc_normal_(module.weight, std=0.5)
        elif isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                bound = module.in_features**-0.5
                init.uniform_(module.bias, -bound, bound)
    init.normal_(model.head.weight, std=0.2)
    for block in model.blocks:
        init.xavier_normal_(block.o.weight)
        init.orthogonal_(block.q.weight) if init is fastinit else None


def init_seeded(model: nn.Module, device: str, init: Any = fastinit) -> None:
    """As a script would; where plain tensors are on CUDA, whose generator is another, by a seed."""
    torch.manual_seed(0)
    with nullcontext() if device == "cpu" else fastinit.keyed(0):
        init_weights(model, init)


def reset_patched(model: nn.Module, device: str) -> None:
    """By torch's own layers, which never heard of fastinit."""
    with fastinit.patch(seed=3):
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()


def init_keyed(model: nn.Module, device: str) -> None:
    with fastinit.keyed(5):
        init_weights(model)


def init_by_name(module: nn.Module, prefix: str) -> None:
    """Fill the module's own parameters, each with the key of its full name."""
    for name, parameter in module.named_parameters(recurse=False):
        fastinit.normal_(parameter, std=0.1, key=fastinit.Key(0).fold_in(f"{prefix}.{name}"))


def train(model: nn.Module, device: str, steps: int = 4) -> list[float]:
    """The losses of a few steps; every rank sees the same batch."""
    generator = torch.Generator().manual_seed(11)
    # One by one: under tensor parallelism some parameters are DTensors and some are not.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, foreach=False)
    losses = []
    for _ in range(steps):
        batch = torch.randint(WORDS, (3, LENGTH + 1), generator=generator).to(device)
        scores = model(batch[:, :-1])
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def with_local(local: Tensor, like: DTensor, shape: torch.Size, stride: Any) -> DTensor:
    """A DTensor on the mesh of `like` and with its placements."""
    return DTensor.from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=shape, stride=stride
    )


def whole(tensor: Tensor, device: str) -> Tensor:
    tensor = tensor.detach()
    if isinstance(tensor, DTensor):
        moved = tensor._local_tensor.to(device)
        tensor = with_local(moved, tensor, tensor.shape, tensor.stride()).full_tensor()
    return tensor.cpu()


def whole_parameters(model: nn.Module, device: str) -> dict[str, Tensor]:
    return {n: whole(p, device).clone() for n, p in model.named_parameters()}


def outcome(model: nn.Module, device: str) -> dict[str, Any]:
    """The initial parameters, the local parts of them, and the losses of training."""
    parameters = whole_parameters(model, device)
    local = {
        n: (p._local_tensor if isinstance(p, DTensor) else p.detach()).cpu().clone()
        for n, p in model.named_parameters()
    }
    return {"parameters": parameters, "local": local, "losses": train(model, device)}


def single_process(device: str, initialize: Callable[..., None] = init_seeded) -> dict[str, Any]:
    """What one process without any of this makes of the same seed, on the CPU."""
    model = meta_model()
    model.to_empty(device="cpu")
    initialize(model, device)
    return outcome(model, "cpu")


def meta_model() -> Model:
    with torch.device("meta"):
        return Model()


def shard_fully(model: Model, mesh: DeviceMesh, **options: Any) -> None:
    for block in model.blocks:
        fully_shard(block, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)


def shard_heads(model: Model, mesh: DeviceMesh) -> None:
    plan = {name: ColwiseParallel() for name in ("q", "k", "v", "up")}
    for block in model.blocks:
        parallelize_module(block, mesh, {**plan, "o": RowwiseParallel(), "down": RowwiseParallel()})


def shard_in_two_ways(model: Model, world: int, device: str) -> None:
    """FSDP2 over tensor parallelism."""
    sizes = (max(1, world // 2), min(2, world))
    mesh = init_device_mesh(device, sizes, mesh_dim_names=("dp", "tp"))
    shard_heads(model, mesh["tp"])
    shard_fully(model, mesh["dp"])


def shard_in_replicas(model: Model, world: int, device: str) -> None:
    sizes = (min(2, world), max(1, world // 2))
    shard_fully(model, init_device_mesh(device, sizes, mesh_dim_names=("replicate", "shard")))


# ------------------------------------------------------------------------------------ scenarios

SHARDINGS: dict[str, Callable[[Model, int, str], None]] = {
    "fsdp": lambda model, world, device: shard_fully(model, init_device_mesh(device, (world,))),
    "fsdp_by_columns": lambda model, world, device: shard_fully(
        model,
        init_device_mesh(device, (world,)),
        shard_placement_fn=lambda p: Shard(p.ndim - 1),
    ),
    "fsdp_offloaded": lambda model, world, device: shard_fully(
        model,
        init_device_mesh(device, (world,)),
        offload_policy=CPUOffloadPolicy(pin_memory=device == "cuda"),
    ),
    "tensor_parallel": lambda model, world, device: shard_heads(
        model, init_device_mesh(device, (world,))
    ),
    "fsdp_and_tensor_parallel": shard_in_two_ways,
    "hybrid": shard_in_replicas,
}


def built(
    sharding: str, world: int, device: str, initialize: Callable[..., None] = init_seeded
) -> Model:
    model = meta_model()
    SHARDINGS[sharding](model, world, device)
    model.to_empty(device="cpu" if sharding == "fsdp_offloaded" else device)
    initialize(model, device)
    return model


for _name in SHARDINGS:
    SCENARIOS[_name] = lambda world, device, name=_name: outcome(built(name, world, device), device)


@scenario
def of_stock(world: int, device: str) -> Any:
    """The parameters by torch.nn.init, for each sharding."""
    stock = functools.partial(init_seeded, init=nn.init)
    return {
        name: whole_parameters(built(name, world, device, stock), device)
        for name in ("fsdp", "tensor_parallel", "hybrid")
    }


@scenario
def by_seeds(world: int, device: str) -> Any:
    """The parameters by `patch` around layers of torch, and by `keyed`."""
    return [
        whole_parameters(built("fsdp_and_tensor_parallel", world, device, initialize), device)
        for initialize in (reset_patched, init_keyed)
    ]


@scenario
def sharded_by_module_init(world: int, device: str) -> Any:
    """FSDP1, which hands each module of a meta model to `param_init_fn`, before it is sharded."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    model: nn.Module = meta_model()
    names = {module: name for name, module in model.named_modules()}

    def param_init_fn(module: nn.Module) -> None:
        module.to_empty(device=device, recurse=False)
        init_by_name(module, names[module])

    own_device = torch.device("cpu") if device == "cpu" else torch.device(device, dist.get_rank())
    model = FullyShardedDataParallel(
        model, param_init_fn=param_init_fn, device_id=own_device, use_orig_params=True
    )
    with FullyShardedDataParallel.summon_full_params(model):
        return {
            n.removeprefix("_fsdp_wrapped_module."): p.detach().cpu().clone()
            for n, p in model.named_parameters()
        }


@scenario
def seeded_differently(world: int, device: str) -> Any:
    mesh = init_device_mesh(device, (world,), mesh_dim_names=("only_here",))
    tensor = distribute_tensor(torch.zeros(6, 5), mesh, [Shard(0)], src_data_rank=None)
    torch.manual_seed(dist.get_rank())
    before = torch.get_rng_state()
    try:
        fastinit.normal_(tensor)
        message = ""
    except RuntimeError as error:
        message = str(error)
    untouched = torch.equal(torch.get_rng_state(), before) and not tensor._local_tensor.any()
    torch.manual_seed(0)
    fastinit.normal_(tensor)  # the mesh may still come to agree
    return message, untouched, whole(tensor, device)


def checks_keys(mesh: DeviceMesh) -> bool:
    """Whether ranks that are seeded differently are told."""
    tensor = distribute_tensor(torch.zeros(6, 5), mesh, [Shard(0)], src_data_rank=None)
    torch.manual_seed(dist.get_rank())
    try:
        fastinit.normal_(tensor)
    except RuntimeError:
        return True
    return False


def checks_after_other_groups(rank: int, world: int, device: str, folder: str) -> list[bool]:
    """Whether keys are compared after a dry run, and once more in the groups that follow others."""
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    found = [checks_keys(init_device_mesh(device, (world,)))]
    dist.destroy_process_group()
    for name in ("first", "second"):
        start(rank, world, device, f"{folder}/{name}")
        mesh = init_device_mesh(device, (world,))
        found.append(checks_keys(mesh))
        torch.manual_seed(0)
        fastinit.normal_(distribute_tensor(torch.zeros(6, 5), mesh, [Shard(0)], src_data_rank=None))
        found.append(checks_keys(mesh))
        dist.destroy_process_group()
    return found


@scenario
def refused_on_one_rank(world: int, device: str) -> Any:
    """What the ranks are told where the first has another local shape than its mesh gives it."""
    told = []
    for fill in (fastinit.normal_, fastinit.orthogonal_):
        mesh = init_device_mesh(device, (world,), mesh_dim_names=(f"of_{fill.__name__}",))
        tensor = distribute_tensor(torch.zeros(8, 5), mesh, [Shard(0)], src_data_rank=None)
        if dist.get_rank() == 0:
            tensor = with_local(torch.zeros(7, 5, device=device), tensor, tensor.shape, (5, 1))
        torch.manual_seed(0)
        try:
            told.append(whole(fill(tensor)._local_tensor, device))
        except ValueError as error:
            told.append(str(error))
    return told


@scenario
def collectives(world: int, device: str) -> Any:
    """How many reductions, and others, in fills with keys, the first ones without, and later ones.

    On a mesh of one dimension, and on one of two.
    """
    counts = []
    for shape in ((world,), (max(1, world // 2), min(2, world))):
        names = tuple(f"counted_{dim}_of_{len(shape)}" for dim in range(len(shape)))
        mesh = init_device_mesh(device, shape, mesh_dim_names=names)
        torch.manual_seed(0)
        placements = [Shard(dim) for dim in range(len(shape))]
        tensor = distribute_tensor(torch.zeros(6, 5), mesh, placements, src_data_rank=None)
        for key in (1, None, None):
            with CommDebugMode() as communication:
                for fill in (fastinit.normal_, fastinit.kaiming_uniform_, fastinit.orthogonal_):
                    fill(tensor, key=key)
            by_kind = communication.get_comm_counts()
            reductions = by_kind.pop(torch.ops.c10d.allreduce_, 0)
            counts.append((reductions, sum(by_kind.values())))
    return counts


FILLS: dict[str, Callable[..., Tensor]] = {
    "uniform_": fastinit.uniform_,
    "normal_": fastinit.normal_,
    "trunc_normal_": fastinit.trunc_normal_,
    "kaiming_uniform_": fastinit.kaiming_uniform_,
    "kaiming_normal_": fastinit.kaiming_normal_,
    "xavier_uniform_": fastinit.xavier_uniform_,
    "xavier_normal_": fastinit.xavier_normal_,
    "variance_scaling_": fastinit.variance_scaling_,
    "lecun_normal_": fastinit.lecun_normal_,
    "lecun_uniform_": fastinit.lecun_uniform_,
    "orthogonal_": fastinit.orthogonal_,
    "delta_orthogonal_": lambda t, **k: fastinit.delta_orthogonal_(t, 1.5, **k),
    "sparse_": lambda t, **k: fastinit.sparse_(t, 0.3, **k),
    "constant_": lambda t, key: fastinit.constant_(t, 0.3),
    "ones_": lambda t, key: fastinit.ones_(t),
    "zeros_": lambda t, key: fastinit.zeros_(t.fill_(1)),
    "eye_": lambda t, key: fastinit.eye_(t),
    "dirac_": lambda t, key: fastinit.dirac_(t),
}
DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.complex128,
]  # fmt: skip


def gathered(tensor: DTensor, dtype: torch.dtype) -> Tensor:
    """`full_tensor()`, of bytes, as gloo does not know all dtypes."""
    data = tensor._local_tensor.contiguous().unsqueeze(-1).view(torch.uint8)
    shape = torch.Size([*tensor.shape, dtype.itemsize])
    stride = torch.empty(shape, device="meta").stride()
    return with_local(data, tensor, shape, stride).full_tensor().cpu().view(dtype).squeeze(-1)


@scenario
def full_tensors(world: int, device: str) -> Any:
    """Which of many drawn cases are not bit-equal to the tensor of a single process."""
    draw = random.Random(world)
    meshes = {1: [(1,)], 2: [(2,)], 4: [(4,), (2, 2)]}[world]
    wrong, count = [], 0
    for mesh_shape in meshes:
        mesh = init_device_mesh(device, mesh_shape)
        for name, fill in FILLS.items():
            for dtype in DTYPES:
                shape = draw.choice([(37, 19), (41, 17), (43, 13), (1, 7), (8, 12)])
                if name in ("uniform_", "normal_", "trunc_normal_"):
                    shape = draw.choice([shape, (5,), (3, 10, 7), (6, 5, 3, 3)])
                elif name == "dirac_":
                    shape = draw.choice([(3, 10, 7), (6, 5, 3, 3)])
                elif name == "delta_orthogonal_":
                    shape = draw.choice([(10, 3, 7), (6, 5, 3, 3)])
                choices: list[Placement] = [Replicate(), *(Shard(d) for d in range(len(shape)))]
                placements = [draw.choice(choices) for _ in mesh_shape]
                if mesh_shape == (2, 2) and draw.random() < 0.3:
                    placements = [_StridedShard(0, split_factor=2), Shard(0)]
                try:
                    expected = fill(torch.zeros(shape, dtype=dtype), key=9)
                except (RuntimeError, TypeError):
                    continue  # no such fill for the dtype
                tensor = distribute_tensor(
                    torch.zeros(shape, dtype=torch.uint8), mesh, placements, src_data_rank=None
                )
                local = torch.zeros(tensor._local_tensor.shape, dtype=dtype, device=device)
                tensor = with_local(local, tensor, tensor.shape, tensor.stride())
                actual = gathered(fill(tensor, key=9), dtype)
                count += 1
                if not torch.equal(actual.view(torch.uint8), expected.view(torch.uint8)):
                    wrong.append((name, dtype, shape, placements))
    return count, wrong


@scenario
def megatron(world: int, device: str) -> Any:
    """Plain tensors that hold a slice, as Megatron's layers do: columns, then rows."""
    rank, key = dist.get_rank(), fastinit.Key(3)
    up = torch.empty(HIDDEN // world, WIDTH, device=device)
    region = fastinit.Region((HIDDEN, WIDTH), (rank * up.shape[0], 0))
    fastinit.kaiming_normal_(up, key=key.fold_in("up"), region=region)
    down = torch.empty(WIDTH, HIDDEN // world, device=device)
    region = fastinit.Region((WIDTH, HIDDEN), (0, rank * down.shape[1]))
    fastinit.kaiming_normal_(down, key=key.fold_in("down"), region=region)
    return up.cpu(), down.cpu()


# -------------------------------------------------------------------------------- the processes


def start(rank: int, world: int, device: str, store: str) -> None:
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        rank=rank,
        world_size=world,
        store=dist.FileStore(store, world),
        timeout=timedelta(minutes=5),  # long: a loaded machine starts ranks minutes apart
    )


def _work(rank: int, world: int, device: str, folder: str, module: str, names: list[str]) -> None:
    torch.set_num_threads(1)
    importlib.import_module(module)  # which adds to the scenarios
    if device == "cuda":
        torch.cuda.set_device(rank)
    answers: dict[str, Any] = {}
    if module == __name__:
        answers["other_groups"] = checks_after_other_groups(rank, world, device, folder)
    start(rank, world, device, f"{folder}/store")
    for name in names:
        try:
            answers[name] = SCENARIOS[name](world, device)
        except Exception:
            answers[name] = AssertionError(f"rank {rank}: {traceback.format_exc()}")
        dist.barrier()
    torch.save(answers, f"{folder}/{rank}")
    dist.destroy_process_group()


def run(world: int, device: str, module: str = __name__) -> dict[str, list[Any]]:
    """The answers of all ranks to each scenario of a module."""
    names = [name for name, function in SCENARIOS.items() if function.__module__ == module]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_work, (world, device, folder, module, names), nprocs=world)
        answers = [torch.load(Path(folder, str(r)), weights_only=False) for r in range(world)]
    return {name: [answer[name] for answer in answers] for name in answers[0]}
