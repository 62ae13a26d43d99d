"""Fingerprints, manifests, and what is made again from them."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from _bits import assert_same_bits
from _models import Net, on_meta
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

import fastinit
from fastinit.checkpoint import ManifestReader


@pytest.fixture
def model() -> nn.Module:
    return on_meta(Net)


def manifest_of(model: nn.Module) -> dict[str, object]:
    return json.loads(json.dumps(fastinit.materialize_(model, "cpu", seed=3).manifest()))


def test_fingerprints_are_of_values(model: nn.Module) -> None:
    fastinit.materialize_(model, "cpu", seed=3)
    other = Net()
    fastinit.init_(other, seed=3)
    assert fastinit.fingerprint(model) == fastinit.fingerprint(other)
    assert set(fastinit.fingerprint(model)) == {
        *dict(model.named_parameters()), *dict(model.named_buffers())
    }  # fmt: skip
    fastinit.init_(other, seed=4)
    a, b = fastinit.fingerprint(model), fastinit.fingerprint(other)
    assert a["words.weight"] != b["words.weight"]


DTYPES = [
    torch.float8_e5m2, torch.bfloat16, torch.float32, torch.float64, torch.complex64,
    torch.complex128, torch.int64, torch.bool,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_bit_counts(dtype: torch.dtype) -> None:
    holder = nn.Module()
    holder.register_buffer("t", torch.zeros(7, 5, dtype=dtype))
    seen = {fastinit.fingerprint(holder)["t"]}
    data = holder.t.view(torch.uint8) if not dtype.is_complex else (
        torch.view_as_real(holder.t).view(torch.uint8)
    )  # fmt: skip
    flat = data.view(-1)
    for place in range(0, flat.numel(), 3):
        for bit in range(1 if dtype == torch.bool else 8):
            flat[place] ^= 1 << bit
            seen.add(fastinit.fingerprint(holder)["t"])
            flat[place] ^= 1 << bit
    assert len(seen) == 1 + len(range(0, flat.numel(), 3)) * (1 if dtype == torch.bool else 8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_look_changes_nothing(dtype: torch.dtype) -> None:
    tensor = torch.arange(1, 36).reshape(7, 5).to(dtype)
    holder = nn.Module()
    holder.register_buffer("t", tensor.clone())
    fastinit.fingerprint(holder)
    assert_same_bits(holder.t, tensor)


def test_places_and_shapes_count_but_strides_do_not() -> None:
    def digest(tensor: torch.Tensor) -> str:
        holder = nn.Module()
        holder.register_buffer("t", tensor)
        return fastinit.fingerprint(holder)["t"]

    tensor = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert digest(tensor) == digest(tensor.to(memory_format=torch.channels_last))
    assert digest(tensor) != digest(tensor.flip(0))
    assert digest(tensor) != digest(tensor.reshape(4, 6))
    assert digest(tensor) != digest(tensor.to(torch.float64))


def test_a_manifest_makes_every_tensor_again(model: nn.Module) -> None:
    manifest = manifest_of(model)
    assert fastinit.verify(model, manifest) == []
    for name, p in model.named_parameters():
        assert_same_bits(fastinit.regenerate(manifest, name), p.detach())
    assert torch.equal(fastinit.regenerate(manifest, "frequencies"), model.frequencies)
    tied = fastinit.regenerate(manifest, "head.weight")
    assert_same_bits(tied, model.words.weight.detach())


@pytest.mark.parametrize("rows", [slice(None), slice(2, 5), slice(3, 4), slice(9, None)])
@pytest.mark.parametrize("columns", [slice(None), slice(1, 7)])
def test_and_any_part(model: nn.Module, rows: slice, columns: slice) -> None:
    manifest = manifest_of(model)
    for name in ("words.weight", "blocks.1.mixed", "blocks.0.up.weight"):
        part = fastinit.regenerate(manifest, name, (rows, columns))
        assert_same_bits(part, model.get_parameter(name).detach()[rows, columns])
    region = fastinit.Region((11, 8), (2, 3))
    expected = model.words.weight.detach()[2:, 3:]
    assert_same_bits(fastinit.regenerate(manifest, "words.weight", region), expected)


def test_one_flipped_bit_is_found_and_named(model: nn.Module) -> None:
    manifest = manifest_of(model)
    with torch.no_grad():
        model.blocks[1].down.weight.view(torch.int32)[3, 4] ^= 1
    assert fastinit.verify(model, manifest) == ["blocks.1.down.weight: other values"]


def test_a_manifest_of_another_model(model: nn.Module) -> None:
    manifest = manifest_of(model)
    other = on_meta(lambda: Net(depth=1, words=12))
    fastinit.materialize_(other, "cpu", seed=3)
    lines = fastinit.verify(other, manifest)
    assert "words.weight: shape (12, 8), manifest (11, 8)" in lines
    assert "blocks.1.up.weight: missing from the model" in lines
    assert any(
        line.startswith("norm.bias") for line in fastinit.verify(nn.BatchNorm1d(8), manifest)
    )
    with pytest.raises(ValueError, match=r"wrods.*words\.weight"):
        fastinit.regenerate(manifest, "wrods.weight")


def test_another_stream_version_is_refused(model: nn.Module) -> None:
    manifest = manifest_of(model)
    manifest["stream_version"] = fastinit.STREAM_VERSION + 1
    for use in (
        lambda: fastinit.verify(model, manifest),
        lambda: fastinit.regenerate(manifest, "words.weight"),
        lambda: ManifestReader(manifest),
    ):
        with pytest.raises(RuntimeError, match="stream version"):
            use()
    with pytest.raises(ValueError, match="format"):
        fastinit.verify(model, {})


def test_a_manifest_is_taken_before_training(model: nn.Module) -> None:
    report = fastinit.materialize_(model, "cpu", seed=3)
    with torch.no_grad():
        model.blocks[0].up.bias.add_(1)
    with pytest.raises(RuntimeError, match=r"blocks\.0\.up\.bias"):
        report.manifest()


def test_computed_values_go_in_by_value_if_they_are_few() -> None:
    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.few, self.many = (nn.Parameter(torch.empty(n)) for n in (8, 4096))
            self.reset_parameters()

        def reset_parameters(self) -> None:
            for p in (self.few, self.many):
                nn.init.uniform_(p, 1, 2)
                p.data.log_()

    model = Computed()
    manifest = json.loads(json.dumps(fastinit.init_(model, seed=0).manifest()))
    assert_same_bits(fastinit.regenerate(manifest, "few"), model.few.detach())
    with pytest.raises(ValueError, match="only a digest of many"):
        fastinit.regenerate(manifest, "many")
    assert fastinit.verify(model, manifest) == []
    with pytest.raises(BaseException, match="digest of many"):  # DCP's own
        dcp.load(model.state_dict(), storage_reader=ManifestReader(manifest), no_dist=True)


@pytest.mark.filterwarnings("ignore")
def test_a_manifest_is_a_checkpoint(model: nn.Module) -> None:
    manifest = manifest_of(model)
    other = Net()
    state = other.state_dict()
    dcp.load(state, storage_reader=ManifestReader(manifest), no_dist=True)
    assert fastinit.verify(other, manifest) == []
    nested = {"model": copy.deepcopy(other).half().state_dict()}
    dcp.load(nested, storage_reader=ManifestReader(manifest, prefix="model."), no_dist=True)
    assert_same_bits(nested["model"]["blocks.0.up.weight"], other.blocks[0].up.weight.half())
    few = {"words.weight": torch.empty(11, 8)}
    dcp.load(few, storage_reader=ManifestReader(manifest), no_dist=True)
    assert_same_bits(few["words.weight"], model.words.weight.detach())
    with pytest.raises(BaseException, match="Missing key.*nowhere"):
        dcp.load({"nowhere": torch.empty(3)}, storage_reader=ManifestReader(manifest), no_dist=True)


# As a dictionary of each name in the state dict: what it is there.
ASKED: dict[str, dict[str, object]] = {
    "a part": {"blocks.0.up.weight": torch.zeros(32, 8), "norm.running_var": torch.zeros(8)},
    "a tie's second name": {"head.weight": torch.zeros(11, 8)},
    "another dtype": {"words.weight": torch.zeros(11, 8, dtype=torch.bfloat16)},
    "missing": {"words.weight": torch.zeros(11, 8), "nowhere": torch.zeros(3)},
    "another shape": {"words.weight": torch.zeros(8, 11)},
    "an optimizer's step": {"words.weight": torch.zeros(11, 8), "step": 3},
    "a buffer that does not persist": {"frequencies": torch.zeros(4)},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("partial", [False, True], ids=["whole", "partial"])
@pytest.mark.parametrize("asked", ASKED)
def test_what_dcp_says_of_a_manifest_it_says_of_a_checkpoint(
    model: nn.Module, asked: str, partial: bool, tmp_path: Path
) -> None:
    """The oracle is a checkpoint on disk, of the same weights."""
    manifest = manifest_of(model)
    dcp.save(model.state_dict(), storage_writer=dcp.FileSystemWriter(tmp_path), no_dist=True)
    answers = []
    for reader in (dcp.FileSystemReader(tmp_path), ManifestReader(manifest)):
        state = copy.deepcopy(ASKED[asked])
        planner = dcp.DefaultLoadPlanner(allow_partial_load=partial)
        try:
            dcp.load(state, storage_reader=reader, planner=planner, no_dist=True)
            answers.append(state)
        except CheckpointException as error:
            answers.append(str(error).strip().splitlines()[-1])
    ours, theirs = reversed(answers)
    assert type(ours) is type(theirs)
    if isinstance(theirs, str):
        assert ours == theirs and "Error: " in theirs
        return
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert_same_bits(ours[name], value)
        else:
            assert ours[name] == value
