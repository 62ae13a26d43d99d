"""What each of several processes does with whole models: see `_ranks`, whose processes these are.

The model has a tie, a padding row, buffers of both kinds, two dtypes and a packed projection.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from _ranks import SHARDINGS, WIDTH, WORDS, Model, scenario
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

import fastinit
from fastinit.checkpoint import ManifestReader
from fastinit.initializers import Kaiming, Native, Normal, Ones, Orthogonal, TruncNormal, Zeros
from fastinit.models.report import Report
from fastinit.recipes import Recipe, depth, sqrt

SEED = 11
THIRDS = {"first": 10, "second": 3, "third": 3}


class Whole(Model):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH, padding_idx=4)
        self.head.weight = self.words.weight
        self.blocks[1].to(torch.float64)
        self.register_buffer("table", torch.arange(6.0) / 3)
        self.register_buffer("angles", torch.arange(5.0) ** 2, persistent=False)


RECIPES: dict[str, Any] = {
    "native": "native",
    "mixed": Recipe(
        {
            "blocks.1.up.**": Native(),
            "**.q.weight": Orthogonal(),
            "**.k.weight": Kaiming(parts={0: THIRDS}),
            "**.v.weight": Kaiming(parts={1: THIRDS}),
            "**.{o,down}.weight": TruncNormal(0.02 / sqrt(2 * depth), cut=3),
            "**.norm.weight": Ones(),
            "**.bias": Zeros(),
            "**": Normal(0.02),
        }
    ),
}
WAYS = {"unsharded": lambda model, world, device: None, **SHARDINGS}


def on_meta() -> Whole:
    with torch.device("meta"):
        return Whole()


def materialized(model: nn.Module, recipe: str, device: str = "cpu") -> Report:
    return fastinit.materialize_(model, device, RECIPES[recipe], seed=SEED)


def manifest(recipe: str) -> dict[str, Any]:
    """Of one process that has the whole model, as another would read it."""
    model = on_meta()
    data: dict[str, Any] = json.loads(json.dumps(materialized(model, recipe).manifest()))
    return data


def half(model: Whole, stage: int) -> Whole:
    """A stage of a pipeline that is cut as torchtitan cuts: the names stay."""
    model = copy.deepcopy(model)
    blocks = model.blocks
    model.blocks = nn.ModuleDict({str(stage): blocks[stage]})
    if stage == 1:  # words stay there as well, under the tie's first name
        model.head.weight = model.words.weight
    else:
        del model.head
    return model


def held(model: nn.Module) -> float:
    """The share of the elements that this rank holds."""
    local = sum(p._local_tensor.numel() if isinstance(p, DTensor) else p.numel()
                for p in model.parameters())  # fmt: skip
    return local / sum(p.numel() for p in model.parameters())


def _materialize(sharding: str, world: int, device: str) -> Any:
    found = {}
    for recipe in RECIPES:
        model = on_meta()
        WAYS[sharding](model, world, device)
        report = materialized(model, recipe, "cpu" if sharding == "fsdp_offloaded" else device)
        with CommDebugMode() as communication:
            prints = fastinit.fingerprint(model)
        count = sum(communication.get_comm_counts().values())
        differences = fastinit.verify(model, report.manifest())
        tied = model.head.weight is model.words.weight
        found[recipe] = (prints, count, differences, held(model), tied)
    return found


def _load(sharding: str, world: int, device: str) -> Any:
    """The fingerprint of a model that is loaded through a manifest, and what DCP says otherwise."""
    found = {}
    for recipe in RECIPES:
        model = on_meta()
        WAYS[sharding](model, world, device)
        model.to_empty(device=device)
        model.head.weight = model.words.weight  # to_empty unties
        model.angles.copy_(torch.arange(5.0) ** 2)  # which no state dict has
        state = model.state_dict()
        dcp.load(state, storage_reader=ManifestReader(manifest(recipe)))
        model.load_state_dict(state)
        found[recipe] = fastinit.fingerprint(model)
    state["extra.weight"] = torch.zeros(3)
    try:
        dcp.load(state, storage_reader=ManifestReader(manifest("native")))
        message = ""
    except CheckpointException as error:  # no Exception
        message = str(error)
    few = {name: value for name, value in model.state_dict().items() if "blocks.0" in name}
    dcp.load(few, storage_reader=ManifestReader(manifest("native")))  # less than there is
    return found, message


def _register(name: str, function: Callable[[str, int, str], Any]) -> None:
    for sharding in WAYS:

        def run(world: int, device: str, sharding: str = sharding) -> Any:
            return function(sharding, world, device)

        run.__name__ = f"{name} {sharding}"
        scenario(run)


_register("materialize", _materialize)
_register("load", _load)


@scenario
def pipeline(world: int, device: str) -> Any:
    """Each rank is a stage, or half of one, by fully_shard over the ranks of its stage."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    stages = min(2, world)
    mesh = init_device_mesh(device, (stages, world // stages), mesh_dim_names=("pp", "dp"))
    found: dict[str, Any] = {}
    for recipe in RECIPES:
        prints: dict[str, str] = {}
        for stage in range(2) if stages == 1 else [mesh.get_local_rank("pp")]:
            model = half(on_meta(), stage)
            fully_shard(model, mesh=mesh["dp"])
            rules = RECIPES[recipe]
            if recipe != "native":  # a stage does not tell how deep the model is
                rules = Recipe({}, base=rules, depth=2)
            fastinit.materialize_(model, device, rules, seed=SEED)
            prints.update(fastinit.fingerprint(model))
        found[recipe] = prints
    return dist.get_rank(), found
