"""Real processes: the flows of `_ranks` give the parameters and losses of a single process."""

from __future__ import annotations

import functools
from typing import Any

import _ranks
import pytest
import torch
from _bits import assert_same_bits
from torch import Tensor, nn

import fastinit

pytestmark = pytest.mark.filterwarnings("ignore")

WORLDS = [
    pytest.param((world, device), id=f"{device}{world}")
    for device in ("cpu", "cuda")
    for world in (1, 2, 4)
]


@functools.cache
def answers(world: int, device: str) -> dict[str, list[Any]]:
    return _ranks.run(world, device)


@functools.cache
def single_process(device: str) -> dict[str, Any]:
    return _ranks.single_process(device)


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


def assert_same_parameters(
    actual: dict[str, Tensor], expected: dict[str, Tensor], device: str
) -> None:
    assert actual.keys() == expected.keys()
    for name, parameter in expected.items():
        assert_same_bits(actual[name], parameter)


@pytest.mark.parametrize("flow", _ranks.SHARDINGS)
def test_a_model_is_the_same_however_it_is_sharded(answer: Any, flow: str) -> None:
    expected = single_process(answer.device)
    for found in answer(flow):
        assert_same_parameters(found["parameters"], expected["parameters"], answer.device)
        assert found["losses"] == pytest.approx(expected["losses"], rel=1e-4)
    assert expected["losses"][-1] < expected["losses"][0]


@pytest.mark.parametrize("flow", ["fsdp", "fsdp_and_tensor_parallel", "tensor_parallel"])
def test_ranks_hold_parts(answer: Any, flow: str) -> None:
    """Or else the test above would prove little."""
    held = [sum(t.numel() for t in found["local"].values()) for found in answer(flow)]
    total = sum(t.numel() for t in single_process(answer.device)["parameters"].values())
    assert max(held) < total * 0.8 if answer.world > 1 else held == [total]


def test_replicas_are_equal(answer: Any) -> None:
    found = [rank["local"] for rank in answer("hybrid")]
    half = max(1, answer.world // 2)
    for one, other in zip(found[:half], found[half:], strict=False):
        assert one.keys() == other.keys()
        for name in one:
            assert_same_bits(one[name], other[name])


def test_stock_differs(answer: Any) -> None:
    stock = functools.partial(_ranks.init_seeded, init=nn.init)
    expected = _ranks.single_process(answer.device, stock)["parameters"]
    matrices = [n for n, p in expected.items() if n.startswith("blocks.") and p.ndim == 2]
    for sharding, found in answer("of_stock")[0].items():
        parts = answer.world // 2 if sharding == "hybrid" else answer.world
        if parts > 1:
            assert not any(torch.equal(found[n], expected[n]) for n in matrices)


def test_patched_layers_and_keyed_code_are_the_same(answer: Any) -> None:
    ways = (_ranks.reset_patched, _ranks.init_keyed)
    expected = [_ranks.single_process("cpu", way)["parameters"] for way in ways]
    for found in answer("by_seeds"):
        for actual, parameters in zip(found, expected, strict=True):
            assert_same_parameters(actual, parameters, answer.device)


def test_full_tensors_are_those_of_a_single_process(answer: Any) -> None:
    for count, wrong in answer("full_tensors"):
        assert wrong == []
        assert count >= 80


def test_ranks_seeded_differently_are_told(answer: Any) -> None:
    torch.manual_seed(0)
    expected = fastinit.normal_(torch.empty(6, 5))
    for message, untouched, tensor in answer("seeded_differently"):
        if answer.world > 1:
            assert "draw different keys" in message and "torch.manual_seed" in message
            assert untouched
        assert answer.world == 1 or torch.equal(tensor, expected)


def test_keys_are_compared_once_for_each_life_of_the_groups(answer: Any) -> None:
    for dry, first, later, anew, later_anew in answer("other_groups"):
        assert not (dry or later or later_anew)
        assert first == anew == (answer.world > 1)


def test_a_refusal_on_one_rank_keeps_no_other_waiting(answer: Any) -> None:
    for number, fill in enumerate((fastinit.normal_, fastinit.orthogonal_)):
        torch.manual_seed(0)
        expected = fill(torch.empty(8, 5)).chunk(answer.world)
        first, *others = (told[number] for told in answer("refused_on_one_rank"))
        assert "tensor holds a local tensor of shape (7, 5)" in first
        for part, found in zip(expected[1:], others, strict=True):
            assert_same_bits(found, part)


def test_one_reduction_a_mesh_dimension_and_no_collective_a_tensor(answer: Any) -> None:
    nothing = (0, 0)
    for counts in answer("collectives"):
        assert counts == [nothing, (1, 0), nothing, nothing, (2, 0), nothing]


def test_param_init_fn_of_fsdp1(answer: Any) -> None:
    expected = _ranks.Model()
    for name, module in expected.named_modules():
        _ranks.init_by_name(module, name)
    for found in answer("sharded_by_module_init"):
        assert_same_parameters(found, dict(expected.named_parameters()), "cpu")


def test_slices_as_megatron_holds_them(answer: Any) -> None:
    key = fastinit.Key(3)
    shape = (_ranks.HIDDEN, _ranks.WIDTH)
    up = fastinit.kaiming_normal_(torch.empty(shape), key=key.fold_in("up"))
    down = fastinit.kaiming_normal_(torch.empty(shape[::-1]), key=key.fold_in("down"))
    found = answer("megatron")
    assert_same_bits(torch.cat([rank[0] for rank in found]), up)
    assert_same_bits(torch.cat([rank[1] for rank in found], dim=1), down)


def test_pipeline_stages_built_separately() -> None:
    """Keys by full name: a stage that holds one block gives it the values of the whole model."""
    expected = _ranks.Model()
    for name, module in expected.named_modules():
        _ranks.init_by_name(module, name)
    for stage, block in enumerate(expected.blocks):
        alone = _ranks.Block()
        for name, module in alone.named_modules():
            _ranks.init_by_name(module, f"blocks.{stage}.{name}".removesuffix("."))
        for name, parameter in block.named_parameters():
            assert_same_bits(alone.get_parameter(name), parameter)


def test_a_seed_for_each_pipeline_stage() -> None:
    """Stages that are built alike start alike, unless each has a seed of its own."""

    def build(seed: int | None) -> Tensor:
        torch.manual_seed(0)
        with fastinit.patch(seed=seed):
            return _ranks.Block().up.weight.detach()

    for seed in (None, 42):
        assert torch.equal(build(seed), build(seed))
    one, other = (build(fastinit.Key(42).fold_in(f"stage{stage}").seed) for stage in range(2))
    assert not torch.equal(one, other)
    assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.15
